"""The health record."""

from __future__ import annotations

import math

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


@pytest.mark.parametrize(("calls", "p99"), [(1, 1.0), (99, 99.0), (100, 99.0), (200, 198.0)])
def test_one_call_in_a_hundred_is_slower_than_the_last_quantile(calls: int, p99: float) -> None:
    health = ModelHealth()
    for latency_ms in range(1, calls + 1):
        health.record_success(0.0, float(latency_ms), 0)
    assert health.snapshot().latency_p99_ms == p99 == health.latency_ms(0.99) == health.latency_p99_ms


def test_before_the_first_answer_no_latency_is_known() -> None:
    health = ModelHealth()
    health.record_failure(1.0)
    assert (health.latency_p50_ms, health.tokens_per_s, health.ttft_p50_ms) == (None, None, None)
    assert health.latency_ms(0.99) == math.inf


def test_the_time_to_the_first_token_is_that_of_streamed_calls() -> None:
    health = ModelHealth()
    for ttft_ms in (None, 30.0, 10.0, 20.0, None):
        health.record_success(0.0, 500.0, 10, ttft_ms)
    assert (health.snapshot().ttft_p50_ms, health.snapshot().ttft_p95_ms) == (20.0, 30.0)


# -- several processes -----------------------------------------------------------------------------------


class Record:
    """What all processes have on record."""

    def __init__(self) -> None:
        self.kept = HealthSnapshot()

    def meet(self, health: ModelHealth) -> None:
        """One process shares what is new, as it does every few seconds."""
        report = health.renew(self.kept)
        if report is not None:
            before, now = report
            text = msgspec.json.encode(merged(self.kept, before=before, now=now))
            self.kept = msgspec.json.decode(text, type=HealthSnapshot)


def test_processes_come_to_the_same_record() -> None:
    record, one, two = Record(), ModelHealth(), ModelHealth()
    for second in range(10):
        one.record_success(100.0 + second, 10.0, 5)
        two.record_success(100.5 + second, 1_000.0, 5, 50.0)
    two.record_failure(111.0)
    for health in (one, two, one):
        record.meet(health)
    assert one.snapshot() == two.snapshot()
    found = one.snapshot()
    assert (found.total_successes, found.total_failures, found.consecutive_failures) == (20, 1, 1)
    assert (found.latency_p50_ms, found.latency_p95_ms, found.ttft_p50_ms) == (10.0, 1_000.0, 50.0)
    assert (found.last_success_time, found.last_failure_time) == (109.5, 111.0)


def test_a_process_that_sees_little_does_not_speak_for_all() -> None:
    record, busy, idle = Record(), ModelHealth(), ModelHealth()
    for second in range(200):
        busy.record_success(100.0 + second, 10.0, 5)
    record.meet(busy)
    idle.record_success(301.0, 9_000.0, 5)
    record.meet(idle)
    assert record.kept.latency_p95_ms == 10.0


def test_nothing_new_is_nothing_to_report_and_is_learnt_all_the_same() -> None:
    record, one, idle = Record(), ModelHealth(), ModelHealth()
    one.record_success(1.0, 10.0, 5)
    record.meet(one)
    assert idle.renew(record.kept) is None
    assert (idle.total_successes, idle.latency_p50_ms) == (1, 10.0)
    assert one.renew(record.kept) is None
    assert one.total_successes == 1


@pytest.mark.parametrize(
    ("mine", "theirs", "run"),
    [
        ("ff", "ff", 4),  # nobody succeeded: all failures are one run
        ("ffs", "", 0),
        ("sff", "", 2),
        ("ff", "  s", 0),  # theirs came after my failures
        (" ff", "s", 2),  # and here before
        ("fs f", "  f", 2),
        ("ffff", "  s f", 5),  # a run that another's success fell into is not parted
    ],
)
def test_a_run_of_failures_ends_with_the_latest_success_whoever_had_it(
    mine: str, theirs: str, run: int
) -> None:
    """Each letter is one second: a success, a failure, or nothing."""
    for order in (0, 1):
        record = Record()
        healths = [ModelHealth(), ModelHealth()]
        for health, story in zip(healths, (mine, theirs), strict=True):
            for second, what in enumerate(story):
                if what == "s":
                    health.record_success(float(second), 1.0, 0)
                elif what == "f":
                    health.record_failure(float(second))
        for health in healths if order else healths[::-1]:
            record.meet(health)
        assert record.kept.consecutive_failures == run


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(["s", "f", "meet"]), st.floats(1, 1e4, allow_nan=False)),
        max_size=80,
    )
)
def test_whenever_they_meet_nothing_is_lost_and_nothing_counted_twice(
    story: list[tuple[int, str, float]],
) -> None:
    record = Record()
    healths = [ModelHealth() for _ in range(3)]
    answered: list[tuple[float, float]] = []
    failures, now = 0, 1_000.0
    for process, what, latency_ms in story:
        now += 1
        match what:
            case "s":
                healths[process].record_success(now, latency_ms, 1)
                answered.append((now, latency_ms))
            case "f":
                healths[process].record_failure(now)
                failures += 1
            case "meet":
                record.meet(healths[process])
                assert healths[process].total_successes <= len(answered)
    for health in [*healths, *healths]:
        record.meet(health)
    for health in healths:
        found = health.snapshot()
        assert (found.total_successes, found.total_failures) == (len(answered), failures)
        assert found == healths[0].snapshot()
        if answered:
            newest = sorted(latency for _, latency in sorted(answered)[-RECENT:])
            assert found.latency_p50_ms == pytest.approx(newest[(len(newest) + 1) // 2 - 1], abs=0.001)
            assert found.last_success_time == answered[-1][0]


def test_what_is_told_at_the_end_needs_no_look_at_the_record() -> None:
    health = ModelHealth()
    health.restore(HealthSnapshot(total_successes=7))
    health.record_success(1.0, 5.0, 0)
    news = health.news()
    assert news is not None
    before, now = news
    assert (before.total_successes, now.total_successes) == (7, 8)
    assert health.news() is None
