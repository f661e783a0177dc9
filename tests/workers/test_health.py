"""The health record."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theo_workers.health import RECENT, HealthSnapshot, ModelHealth, merged


def test_a_new_record_knows_nothing() -> None:
    assert ModelHealth().snapshot() == HealthSnapshot()


def test_counts_and_times_follow_the_calls() -> None:
    health = ModelHealth()
    health.record_failure(1.0)
    health.record_success(2.0, 10.0, 3)
    health.record_failure(3.0)
    health.record_failure(4.0)
    assert (health.total_successes, health.total_failures, health.consecutive_failures) == (1, 3, 2)
    assert (health.last_success_time, health.last_failure_time) == (2.0, 4.0)


def test_a_success_ends_the_row_of_failures_and_keeps_the_total() -> None:
    health = ModelHealth()
    for now in (1.0, 2.0):
        health.record_failure(now)
    health.record_success(3.0, 10.0, 0)
    assert (health.total_failures, health.consecutive_failures) == (2, 0)


def test_failures_leave_latency_alone() -> None:
    health = ModelHealth()
    health.record_success(1.0, 10.0, 3)
    before = health.snapshot().latency_p50_ms
    health.record_failure(2.0)
    assert health.snapshot().latency_p50_ms == before == 10.0


def test_the_average_begins_with_the_first_call_and_moves_a_fifth_of_the_way() -> None:
    health = ModelHealth()
    health.record_success(1.0, 100.0, 0)
    assert health.latency_ewma_ms == 100.0
    health.record_success(1.0, 200.0, 0)
    assert health.latency_ewma_ms == pytest.approx(120.0)


@pytest.mark.parametrize(
    ("latencies", "p50", "p95"),
    [
        ([7.0], 7.0, 7.0),
        ([3.0, 1.0, 2.0], 2.0, 3.0),
        ([float(n) for n in range(100, 0, -1)], 50.0, 95.0),
        ([float(n) for n in range(1, 21)], 10.0, 19.0),
    ],
)
def test_quantiles_are_nearest_ranks(latencies: list[float], p50: float, p95: float) -> None:
    health = ModelHealth()
    for latency_ms in latencies:
        health.record_success(0.0, latency_ms, 0)
    snapshot = health.snapshot()
    assert (snapshot.latency_p50_ms, snapshot.latency_p95_ms) == (p50, p95)


def test_quantiles_are_of_recent_calls_only() -> None:
    health = ModelHealth()
    for latency_ms in [9_999.0] * 50 + [1.0] * RECENT:
        health.record_success(0.0, latency_ms, 0)
    assert health.snapshot().latency_p95_ms == 1.0


def test_speed_is_tokens_over_the_time_waited() -> None:
    health = ModelHealth()
    health.record_success(0.0, 500.0, 40)
    health.record_success(0.0, 1_500.0, 20)
    assert health.snapshot().tokens_per_s == pytest.approx(30.0)


def test_speed_is_unknown_when_no_time_passed() -> None:
    health = ModelHealth()
    health.record_success(0.0, 0.0, 40)
    assert health.snapshot().tokens_per_s is None


@given(
    st.lists(
        st.one_of(
            st.tuples(st.floats(0, 2e9), st.floats(0, 1e6), st.integers(0, 100_000)),
            st.tuples(st.floats(0, 2e9)),
        ),
        max_size=30,
    )
)
def test_a_snapshot_survives_json_and_restoring(calls: list[tuple[float, ...]]) -> None:
    health = ModelHealth()
    for call in calls:
        match call:
            case (now, latency_ms, tokens):
                health.record_success(now, latency_ms, int(tokens))
            case (now,):
                health.record_failure(now)
    snapshot = health.snapshot()
    assert msgspec.json.decode(msgspec.json.encode(snapshot), type=HealthSnapshot) == snapshot
    again = ModelHealth()
    again.restore(snapshot)
    assert again.snapshot() == snapshot


def test_a_restored_record_goes_on_counting_and_measures_anew() -> None:
    before = ModelHealth()
    for _ in range(3):
        before.record_success(1.0, 100.0, 10)
    after = ModelHealth()
    after.restore(before.snapshot())
    after.record_failure(2.0)
    assert after.snapshot().latency_p50_ms == 100.0
    after.record_success(3.0, 20.0, 10)
    snapshot = after.snapshot()
    assert (snapshot.total_successes, snapshot.total_failures, snapshot.latency_p50_ms) == (4, 1, 20.0)
    assert snapshot.latency_ewma_ms == pytest.approx(84.0)


def test_what_one_process_saw_is_added_to_the_record_of_all() -> None:
    kept = HealthSnapshot(total_successes=10, total_failures=5, last_success_time=50.0, latency_ewma_ms=9.0)
    before = HealthSnapshot(total_successes=7, total_failures=5, last_success_time=30.0)
    now = HealthSnapshot(
        total_successes=9,
        total_failures=6,
        consecutive_failures=1,
        last_success_time=40.0,
        last_failure_time=41.0,
        latency_ewma_ms=20.0,
        latency_p50_ms=18.0,
        latency_p95_ms=30.0,
        tokens_per_s=7.0,
    )
    together = merged(kept, before=before, now=now)
    assert (together.total_successes, together.total_failures, together.consecutive_failures) == (12, 6, 1)
    assert (together.last_success_time, together.last_failure_time) == (50.0, 41.0)
    assert (together.latency_ewma_ms, together.latency_p50_ms, together.latency_p95_ms) == (20.0, 18.0, 30.0)
    assert together.tokens_per_s == 7.0


def test_a_report_of_nothing_new_changes_no_count() -> None:
    kept = HealthSnapshot(total_successes=10, total_failures=5)
    same = HealthSnapshot(total_successes=7, total_failures=2)
    together = merged(kept, before=same, now=same)
    assert (together.total_successes, together.total_failures) == (10, 5)
