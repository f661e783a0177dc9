"""The window of recent calls, against one that keeps every call."""

from __future__ import annotations

import heapq
import random

from hypothesis import given
from hypothesis import strategies as st

from theo_workers.failure_rate import FailureRate, RateRule


@given(
    st.lists(st.tuples(st.floats(0, 40), st.booleans()), max_size=80),
    st.integers(1, 12),
    st.sampled_from([0.1, 0.5, 1.0]),
)
def test_it_agrees_with_a_list_of_every_call(
    calls: list[tuple[float, bool]], minimum: int, ratio: float
) -> None:
    rate = FailureRate(RateRule(ratio=ratio, minimum_calls=minimum, window_s=60.0, buckets=6))
    kept: list[tuple[int, bool]] = []
    now = 0.0
    for pause_s, failed in calls:
        now += pause_s
        rate.record(failed=failed, now=now)
        kept.append((int(now / 10), failed))
        recent = [one for number, one in kept if number > int(now / 10) - 6]
        assert rate.exceeded() == (len(recent) >= minimum and sum(recent) >= ratio * len(recent))


def minutes_of(
    calls_per_s: float, hang_share: float, *, begins_s: float, ends_s: float
) -> list[tuple[float, bool]]:
    """Calls as they end: two seconds each, but from `begins_s` on a share of them hangs for a time-out of 120 s."""
    rng, ended = random.Random(1), []
    for number in range(int(ends_s * calls_per_s)):
        sent = number / calls_per_s
        hangs = sent >= begins_s and rng.random() < hang_share
        heapq.heappush(ended, (sent + (120.0 if hangs else 2.0), hangs))
    return [heapq.heappop(ended) for _ in range(len(ended))]


def test_calls_that_hang_for_longer_than_the_window_are_found_out() -> None:
    rate, found = FailureRate(RateRule()), None
    for now, failed in minutes_of(5.0, 0.7, begins_s=300.0, ends_s=900.0):
        rate.record(failed=failed, now=now)
        if found is None and rate.exceeded():
            found = now
    assert found is not None
    first = 300.0 + 120.0
    assert first < found < first + 45.0


def test_a_healthy_model_is_not_found_out() -> None:
    rate = FailureRate(RateRule())
    rng = random.Random(2)
    for number in range(20_000):
        rate.record(failed=rng.random() < 0.2, now=number / 3)
        assert not rate.exceeded()
