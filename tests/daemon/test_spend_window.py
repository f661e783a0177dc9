from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theo_daemon.spend_window import SpendWindow, WindowUnit, parse_window, window_from, window_of

TEXTS = st.one_of(
    st.integers(1, 8_784).map("{}h".format),
    st.integers(1, 3_660).map("{}d".format),
    st.integers(1, 120).map("{}mo".format),
)
MOMENTS_MS = st.integers(0, 4_102_444_800_000)  # to the year 2100


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("text", "window"),
    [
        ("total", SpendWindow(WindowUnit.TOTAL, 1)),
        ("1h", SpendWindow(WindowUnit.HOUR, 1)),
        ("24h", SpendWindow(WindowUnit.HOUR, 24)),
        ("30d", SpendWindow(WindowUnit.DAY, 30)),
        ("1mo", SpendWindow(WindowUnit.MONTH, 1)),
    ],
)
def test_reads_the_forms_of_the_contract(text: str, window: SpendWindow) -> None:
    assert parse_window(text) == window
    assert str(window) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "1", "h", "0h", "01d", "-1d", "1.5h", " 1h", "1h\n", "1m", "30s", "1w", "1M", "TOTAL", "1h1d"),
        *("9999d", "8785h", "121mo", "99999999999999999999h", "\N{ARABIC-INDIC DIGIT ONE}h"),
    ],
)
def test_refuses_everything_else(text: str) -> None:
    with pytest.raises(ValueError, match="is not allowed"):
        parse_window(text)


@pytest.mark.parametrize(
    ("text", "now", "start", "reset"),
    [
        ("1h", "2025-03-10T14:59:59.999", "2025-03-10T14:00:00", "2025-03-10T15:00:00"),
        ("1h", "2025-03-10T15:00:00", "2025-03-10T15:00:00", "2025-03-10T16:00:00"),
        ("6h", "2025-03-10T14:30:00", "2025-03-10T12:00:00", "2025-03-10T18:00:00"),
        ("1d", "2025-03-30T01:30:00", "2025-03-30T00:00:00", "2025-03-31T00:00:00"),  # summer time elsewhere
        ("30d", "1970-01-30T23:59:59", "1970-01-01T00:00:00", "1970-01-31T00:00:00"),
        ("30d", "1970-01-31T00:00:00", "1970-01-31T00:00:00", "1970-03-02T00:00:00"),
        ("1mo", "2024-02-29T23:59:59.999", "2024-02-01T00:00:00", "2024-03-01T00:00:00"),
        ("1mo", "2024-12-31T12:00:00", "2024-12-01T00:00:00", "2025-01-01T00:00:00"),
        ("3mo", "2025-05-05T05:05:05", "2025-04-01T00:00:00", "2025-07-01T00:00:00"),
        ("12mo", "2025-05-05T05:05:05", "2025-01-01T00:00:00", "2026-01-01T00:00:00"),
    ],
)
def test_windows_follow_the_utc_calendar(text: str, now: str, start: str, reset: str) -> None:
    assert window_of(parse_window(text), ms(now)) == (ms(start), ms(reset))


@given(now_ms=MOMENTS_MS)
def test_a_total_never_resets(now_ms: int) -> None:
    assert window_of(parse_window("total"), now_ms) == (0, None)


@given(text=TEXTS, now_ms=MOMENTS_MS)
def test_windows_tile_time_without_gap_or_overlap(text: str, now_ms: int) -> None:
    window = parse_window(text)
    span = window_of(window, now_ms)
    assert span.reset_ms is not None
    assert span.start_ms <= now_ms < span.reset_ms
    assert window_of(window, span.start_ms) == span
    assert window_of(window, span.reset_ms - 1) == span
    assert window_of(window, span.reset_ms).start_ms == span.reset_ms


@pytest.mark.parametrize(
    ("text", "start", "reset"),
    [
        ("1h", "2025-03-10T14:59:59.999", "2025-03-10T15:59:59.999"),
        ("1d", "2025-03-10T14:30:00", "2025-03-11T14:30:00"),
        ("30d", "2025-03-10T14:30:00", "2025-04-09T14:30:00"),
        ("1mo", "2025-03-10T14:30:00.250", "2025-04-10T14:30:00.250"),
        ("1mo", "2024-01-31T12:00:00", "2024-02-29T12:00:00"),
        ("1mo", "2025-12-31T12:00:00", "2026-01-31T12:00:00"),
        ("13mo", "2024-02-29T00:00:00", "2025-03-29T00:00:00"),
    ],
)
def test_a_window_from_its_first_call_lasts_its_length(text: str, start: str, reset: str) -> None:
    assert window_from(parse_window(text), ms(start)) == (ms(start), ms(reset))


@given(text=TEXTS, now_ms=MOMENTS_MS)
def test_both_kinds_of_window_are_about_as_long(text: str, now_ms: int) -> None:
    window = parse_window(text)
    (start, reset), calendar = window_from(window, now_ms), window_of(window, now_ms)
    assert start == now_ms
    assert reset is not None
    assert calendar.reset_ms is not None
    assert abs((reset - start) - (calendar.reset_ms - calendar.start_ms)) <= 4 * 86_400_000


def test_a_total_has_no_beginning() -> None:
    assert window_from(parse_window("total"), 5) == (0, None)


@given(text=TEXTS)
def test_a_window_is_shown_as_it_was_written(text: str) -> None:
    assert str(parse_window(text)) == text
