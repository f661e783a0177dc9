"""Calls and tokens per minute, without a clock."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from theo_daemon.ledger.rates import Pace, Rate, Slice, Taken, corrected, reserved_tokens, take

START = 1_700_000_000_000


def taken(window: tuple[Slice, ...], rate: Rate, at_ms: int) -> Taken:
    found = take(window, rate, at_ms)
    assert isinstance(found, Taken)
    return found


def test_calls_fit_until_the_limit_and_again_when_a_minute_has_passed() -> None:
    rate = Rate(3, None)
    window: tuple[Slice, ...] = ()
    lefts: list[Pace] = []
    for at_ms in (START, START, START + 10_000):
        found = taken(window, rate, at_ms)
        window, lefts = found.window, [*lefts, found.left]
    assert lefts == [Pace(START, 2), Pace(START, 1), Pace(START + 61_000, 2)]
    assert take(window, rate, START + 60_999) == Pace(START + 61_000, 2)
    assert taken(window, rate, START + 61_000).left == Pace(START + 61_000, 1)


def test_tokens_count_as_expected_and_as_found_out() -> None:
    rate = Rate(None, 1_000, 400)
    window = taken(taken((), rate, START).window, rate, START).window
    assert take(window, rate, START) == Pace(START + 61_000, 2)
    cheaper = corrected(window, second=START // 1000, requests=0, tokens=-350, now_ms=START)
    assert isinstance(take(cheaper, rate, START), Taken)
    dearer = corrected(window, second=START // 1000, requests=0, tokens=200, now_ms=START)
    assert take(dearer, Rate(None, 1_000, 1), START) == Pace(START + 61_000, 1_000)


def test_a_call_larger_than_the_limit_has_the_window_to_itself() -> None:
    rate = Rate(None, 1_000, 5_000)
    assert reserved_tokens(rate) == 1_000
    window = taken((), rate, START).window
    assert take(window, Rate(None, 1_000, 1), START) == Pace(START + 61_000, 1_000)
    small = taken((), Rate(None, 1_000, 1), START).window
    assert take(small, rate, START) == Pace(START + 61_000, 1)


def test_a_call_that_was_never_made_is_given_back() -> None:
    rate = Rate(1, None)
    window = taken((), rate, START).window
    assert isinstance(take(window, rate, START), Pace)
    assert isinstance(
        take(corrected(window, second=START // 1000, requests=-1, tokens=0, now_ms=START), rate, START), Taken
    )


def test_what_is_corrected_after_a_minute_is_let_be() -> None:
    window = taken((), Rate(None, 1_000, 400), START).window
    assert corrected(window, second=START // 1000, requests=0, tokens=600, now_ms=START + 61_000) == ()


def test_a_clock_that_was_set_back_closes_no_model_for_hours() -> None:
    rate = Rate(1, None)
    window = taken((), rate, START + 3_600_000).window
    assert isinstance(take(window, rate, START), Taken)


@given(
    st.lists(st.tuples(st.integers(0, 20_000), st.integers(1, 400)), max_size=60),
    st.one_of(st.none(), st.integers(1, 10)),
    st.one_of(st.none(), st.integers(1, 1_000)),
)
def test_no_minute_ever_holds_more_than_the_limits(
    asks: list[tuple[int, int]], rpm: int | None, tpm: int | None
) -> None:
    window: tuple[Slice, ...] = ()
    now_ms = START
    granted: list[tuple[int, int]] = []
    for pause_ms, tokens in asks:
        now_ms += pause_ms
        rate = Rate(rpm, tpm, tokens)
        found = take(window, rate, now_ms)
        if isinstance(found, Taken):
            window = found.window
            granted.append((now_ms, reserved_tokens(rate)))
        else:
            assert found.from_ms > now_ms
            assert isinstance(take(window, rate, found.from_ms), Taken), "the room that was promised"
            assert isinstance(take(window, rate, found.from_ms - 1), Pace), (
                "and not a moment later than need be"
            )
    for end_ms, _ in granted:
        minute = [tokens for at_ms, tokens in granted if end_ms - 60_000 < at_ms <= end_ms]
        assert rpm is None or len(minute) <= rpm
        assert tpm is None or sum(minute) <= tpm
    assert len(window) <= 62
