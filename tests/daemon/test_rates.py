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


class Call:
    """One call as the reference keeps it."""

    def __init__(self, second: int, tokens: int) -> None:
        self.second, self.requests, self.tokens, self.reserved = second, 1, tokens, tokens


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("call"), st.integers(0, 30_000), st.integers(1, 400)),
            st.tuples(st.just("settle"), st.integers(0, 50), st.integers(0, 900)),
            st.tuples(st.just("void"), st.integers(0, 50), st.just(0)),
        ),
        max_size=60,
    ),
    st.integers(1, 8),
    st.integers(100, 1_000),
)
def test_with_corrections_too_it_agrees_with_a_list_of_every_call(
    story: list[tuple[str, int, int]], rpm: int, tpm: int
) -> None:
    window: tuple[Slice, ...] = ()
    calls: list[Call] = []
    now_ms = START

    def counting() -> list[Call]:
        return [one for one in calls if (one.second + 1) * 1_000 + 60_000 > now_ms]

    for what, number, amount in story:
        if what == "call":
            now_ms += number
            rate = Rate(rpm, tpm, amount)
            tokens = reserved_tokens(rate)
            requests = sum(one.requests for one in counting())
            used = sum(one.tokens for one in counting())
            found = take(window, rate, now_ms)
            assert isinstance(found, Taken) == (requests < rpm and used + tokens <= tpm)
            if isinstance(found, Taken):
                window = found.window
                calls.append(Call(now_ms // 1_000, tokens))
            continue
        open_calls = [one for one in calls if one.requests and one.tokens == one.reserved]
        if not open_calls:
            continue
        call = open_calls[number % len(open_calls)]
        requests, tokens = (-1, -call.tokens) if what == "void" else (0, amount - call.tokens)
        window = corrected(window, second=call.second, requests=requests, tokens=tokens, now_ms=now_ms)
        call.requests += requests
        call.tokens += tokens
    for one in counting():
        assert any(slice_.second == one.second for slice_ in window)
    assert sum(one.requests for one in counting()) == sum(
        slice_.requests for slice_ in window if (slice_.second + 1) * 1_000 + 60_000 > now_ms
    )
