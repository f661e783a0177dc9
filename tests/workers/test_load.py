"""The concurrency that a model bears, found by trying."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theo_workers.load import DECREASE, Load

QUICK = 10.0


def load(most: int = 64) -> Load:
    return Load(most, least_slow_ms=1_000.0)


def answer(one: Load, *, latency_ms: float = QUICK, running: int = 1_000, at: float = 100.0) -> bool:
    return one.answered(latency_ms, admitted=at, running=running, now=at)


def test_it_begins_at_the_ceiling_and_success_leads_no_higher() -> None:
    one = load(4)
    for _ in range(100):
        answer(one)
    assert one.limit == 4


def test_overload_takes_three_tenths_away_and_never_the_last_call() -> None:
    one, seen = load(10), []
    for now in range(12):
        assert one.overloaded(float(now), float(now))
        seen.append(int(one.limit))
    assert seen == [7, 4, 3, 2, 1, 1, 1, 1, 1, 1, 1, 1]
    assert one.limit == 1.0


def test_many_refusals_of_one_burst_count_once() -> None:
    one = load()
    changes = [one.overloaded(admitted, 10.0 + admitted / 100) for admitted in (5.0, 6.0, 7.0, 9.9)]
    assert changes == [True, False, False, False]
    assert one.limit == pytest.approx(64 * DECREASE)
    assert one.overloaded(11.0, 11.5), "admitted after the limit was lowered, and refused all the same"


def test_a_whole_limit_of_successes_adds_one() -> None:
    one = load()
    one.overloaded(1.0, 1.0)
    one.limit = 20.0
    for _ in range(20):
        answer(one)
    assert one.limit == pytest.approx(21.0, abs=0.03)
    while one.limit < 64:
        assert answer(one)
    assert one.limit == 64.0


def test_what_is_not_used_proves_nothing() -> None:
    one = load()
    one.limit = 20.0
    assert not answer(one, running=9)
    assert answer(one, running=10)


@pytest.mark.parametrize(
    ("p99_ms", "latency_ms", "slow"),
    [
        (100.0, 900.0, False),  # far beyond three times the usual, but nobody would call that slow
        (100.0, 1_001.0, True),
        (400.0, 1_190.0, False),
        (400.0, 1_201.0, True),
        (None, 1e9, False),  # nobody knows yet what is slow
    ],
)
def test_a_call_far_slower_than_nearly_all_is_a_sign_of_overload(
    p99_ms: float | None, latency_ms: float, slow: bool
) -> None:
    one = load()
    if p99_ms is not None:
        one.learn(p99_ms)
    answer(one, latency_ms=latency_ms)
    assert (one.limit < 64) is slow


def test_it_settles_near_what_the_provider_takes() -> None:
    """A provider that refuses whatever runs beyond 20 at a time, asked by rounds of as many calls as are allowed."""
    one, sizes = load(), []
    for second in range(2_000):
        running = int(one.limit)
        now = float(second)
        for number in range(running):
            if number < 20:
                one.answered(QUICK, admitted=now, running=running, now=now + 0.5)
            else:
                one.overloaded(now, now + 0.5)
        sizes.append(running)
    assert all(13 <= size <= 22 for size in sizes[100:])
    assert sum(sizes[100:]) / len(sizes[100:]) > 16


@given(
    st.integers(1, 200),
    st.lists(st.tuples(st.booleans(), st.floats(0, 5), st.integers(1, 300), st.floats(0, 1e5)), max_size=80),
)
def test_the_limit_stays_between_one_and_the_ceiling_and_falls_once_a_burst(
    most: int, calls: list[tuple[bool, float, int, float]]
) -> None:
    one, now, lowered = load(most), 100.0, -math.inf
    one.learn(500.0)
    for refused, before_s, running, latency_ms in calls:
        now += 0.1
        limit, admitted = one.limit, now - before_s
        if refused:
            one.overloaded(admitted, now)
        else:
            one.answered(latency_ms, admitted=admitted, running=running, now=now)
        assert 1 <= one.limit <= most
        if one.limit < limit:
            assert admitted > lowered
            lowered = now
