"""Reads how long a provider asks us to wait; hostile values are ignored."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

LONGEST_S = 3_600.0

_NUMBER = re.compile(r"\+?\d{1,30}(?:\.\d{0,30})?\Z", re.ASCII)
_IN_WORDS = re.compile(
    r"(?:try again|retry) in (?:(?P<m>\d{1,4})m(?!s))?(?P<n>\d{1,9}(?:\.\d{1,9})?) ?(?P<u>ms|s)",
    re.IGNORECASE,
)


def retry_after_s(headers: Mapping[str, str], message: str = "", *, now: float) -> float | None:
    """Seconds to wait, 0 to 3600, or None when nothing usable was said.

    `now` is Unix seconds, for the date form. Of `retry-after` and `retry-after-ms` the longer one counts:
    `retry-after-ms: 0` is seen beside `retry-after: 1`. Without either, the words of `message` do.
    """
    waits = [
        wait
        for wait in (_after(headers.get("retry-after"), now), _milliseconds(headers.get("retry-after-ms")))
        if wait is not None
    ]
    if not waits and (said := _IN_WORDS.search(message[:2_000])):
        unit_s = 0.001 if said["u"].lower() == "ms" else 1.0
        waits.append(60.0 * int(said["m"] or 0) + unit_s * float(said["n"]))
    return min(max(waits), LONGEST_S) if waits else None


def _after(value: str | None, now: float) -> float | None:
    if value is None:
        return None
    value = value.strip()
    if _NUMBER.match(value):
        return float(value)
    if len(value) > 64:
        return None
    try:
        at = parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError):
        return None
    return max(0.0, at - now) if math.isfinite(at) else None


def _milliseconds(value: str | None) -> float | None:
    if value is None or not _NUMBER.match(value.strip()):
        return None
    return float(value) / 1_000
