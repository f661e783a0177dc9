"""How amounts, times and foreign texts are shown."""

from __future__ import annotations

import pytest

from theo_daemon.cli.console import duration, usd, visible


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        (None, None),
        (0, "$0.00"),
        (5, "$5.00"),
        (12.5, "$12.50"),
        (0.000042, "$0.000042"),
        (1234.567, "$1234.567"),
    ],
)
def test_dollars_have_cents_and_no_digit_is_lost(amount: float | None, shown: str | None) -> None:
    assert usd(amount) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, None),
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (12.4, "12 s"),
        (119, "119 s"),
        (180, "3 min"),
        (18_720, "5.2 h"),
        (345_600, "4 d"),
    ],
)
def test_durations_have_the_unit_that_says_most(seconds: float | None, shown: str | None) -> None:
    assert duration(seconds) == shown


def test_foreign_text_cannot_move_the_cursor() -> None:
    assert visible("red\x1b[31m\r\u202eevil\ttab\nline") == "red\\u001b[31m\\u000d\\u202eevil\ttab\nline"
