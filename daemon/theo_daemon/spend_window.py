"""Which stretch of time a ceiling counts over: for ever, a window of the UTC calendar, or one from its first use."""

from __future__ import annotations

import re
from calendar import monthrange
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple

from msgspec import Struct

_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS
_LONGEST = {"h": 8_784, "d": 3_660, "mo": 120}
_FORM = re.compile(r"([1-9][0-9]{0,4})(h|d|mo)", re.ASCII)


class WindowUnit(StrEnum):
    """What a window is measured in."""

    TOTAL = "total"  # never resets
    HOUR = "h"
    DAY = "d"
    MONTH = "mo"  # of the calendar


class SpendWindow(Struct, frozen=True):
    """`count` units long; 1 for TOTAL."""

    unit: WindowUnit = WindowUnit.TOTAL
    count: int = 1

    def __str__(self) -> str:
        """As it is written in the configuration."""
        return "total" if self.unit is WindowUnit.TOTAL else f"{self.count}{self.unit}"


class Span(NamedTuple):
    """One window of time, in Unix ms: from `start_ms` up to, not including, `reset_ms` (None: never)."""

    start_ms: int
    reset_ms: int | None


def parse_window(text: str) -> SpendWindow:
    """`total`, or `1h`, `30d`, `1mo`. Raises ValueError."""
    if text == "total":
        return SpendWindow()
    form = _FORM.fullmatch(text)
    if form is None or int(form[1]) > _LONGEST[form[2]]:
        raise ValueError(
            f'"{text}" is not allowed; "total" is, and hours up to "8784h", days up to "3660d", '
            'calendar months up to "120mo"'
        )
    return SpendWindow(WindowUnit(form[2]), int(form[1]))


def window_of(window: SpendWindow, now_ms: int) -> Span:
    """The window that `now_ms` (Unix ms) falls into.

    Windows are laid end to end from 1970-01-01 UTC, so that all processes agree on them without a word: 1h
    begins at the full hour, 1d at midnight, 30d at multiples of 30 days, 1mo on the first of the month.
    """
    match window.unit:
        case WindowUnit.TOTAL:
            return Span(0, None)
        case WindowUnit.HOUR:
            return _even(now_ms, window.count * _HOUR_MS)
        case WindowUnit.DAY:
            return _even(now_ms, window.count * _DAY_MS)
        case WindowUnit.MONTH:
            now = datetime.fromtimestamp(now_ms // 1000, UTC)
            month = (now.year - 1970) * 12 + now.month - 1
            first = month - month % window.count
            return Span(_month_ms(first), _month_ms(first + window.count))


def window_from(window: SpendWindow, start_ms: int) -> Span:
    """The window that begins at this moment (Unix ms). A month ends on the same day of the next one that has it,
    or on that one's last day."""
    match window.unit:
        case WindowUnit.TOTAL:
            return Span(0, None)
        case WindowUnit.HOUR:
            return Span(start_ms, start_ms + window.count * _HOUR_MS)
        case WindowUnit.DAY:
            return Span(start_ms, start_ms + window.count * _DAY_MS)
        case WindowUnit.MONTH:
            start = datetime.fromtimestamp(start_ms // 1000, UTC)
            year, month = divmod(start.year * 12 + start.month - 1 + window.count, 12)
            day = min(start.day, monthrange(year, month + 1)[1])
            end = start.replace(year=year, month=month + 1, day=day)
            return Span(start_ms, int(end.timestamp()) * 1000 + start_ms % 1000)


def _even(now_ms: int, length_ms: int) -> Span:
    start_ms = now_ms - now_ms % length_ms
    return Span(start_ms, start_ms + length_ms)


def _month_ms(month: int) -> int:
    """When the `month`-th month after January 1970 begins, Unix ms."""
    return int(datetime(1970 + month // 12, month % 12 + 1, 1, tzinfo=UTC).timestamp()) * 1000
