"""Is this still usual for the model? The cumulative sum, against its formula and against chance."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theo_workers.drift import HIGHEST, MOST_CALLS, Drift


def grown(usual: float, calls: int = 5_000, *, seed: int = 1) -> Drift:
    """With a history of independent failures at that share."""
    rng, drift = random.Random(seed), Drift(3)
    for _ in range(calls):
        if rng.random() < usual:
            if drift.failed():
                drift.clear()
        else:
            drift.succeeded()
    return drift


@pytest.mark.parametrize("threshold", [1, 2, 3, 5, 10])
def test_without_a_history_the_threshold_is_the_configured_one(threshold: int) -> None:
    drift = Drift(threshold)
    assert drift.in_a_row == threshold
    assert [drift.failed() for _ in range(threshold)] == [False] * (threshold - 1) + [True]


@pytest.mark.parametrize(
    ("usual", "in_a_row"), [(0.0, 2), (0.01, 3), (0.05, 5), (0.1, 7), (0.2, 11), (0.35, 18)]
)
def test_the_more_often_it_fails_as_a_rule_the_more_failures_it_is_forgiven(
    usual: float, in_a_row: int
) -> None:
    drift = Drift(3)
    drift.recall(round(1_000 * (1 - usual)), round(1_000 * usual))
    assert drift.in_a_row == pytest.approx(in_a_row, abs=0.2 * in_a_row)
    alarms = [drift.failed() for _ in range(drift.in_a_row)]
    assert alarms == [False] * (drift.in_a_row - 1) + [True]


def test_a_success_halves_the_odds() -> None:
    drift = Drift(3)
    for _ in range(2):
        drift.failed()
    drift.succeeded()
    assert not drift.failed(), "a success stands between: three failures are not enough"
    assert drift.failed()


@pytest.mark.parametrize("usual", [0.0, 0.02, 0.1, 0.25])
def test_it_learns_what_is_usual(usual: float) -> None:
    assert grown(usual).usual == pytest.approx(usual, abs=0.05)


def test_an_outage_does_not_become_the_usual() -> None:
    drift = grown(0.02)
    usual = drift.usual
    for _ in range(50):  # opened, closed by a lucky probe, and failing again
        while not drift.failed():
            pass
        drift.clear()
    assert drift.usual == usual


def test_who_fails_more_than_half_of_the_time_is_known_as_failing_half_of_the_time() -> None:
    drift = Drift(3)
    drift.recall(10, 990)
    assert drift.usual == HIGHEST
    assert drift.in_a_row < 40


def test_an_old_record_counts_for_half_and_is_outgrown() -> None:
    drift = Drift(3)
    drift.recall(700_000, 300_000)
    assert drift.usual == pytest.approx(0.27, abs=0.01)
    for _ in range(int(MOST_CALLS) * 5):
        drift.succeeded()
    assert drift.usual < 0.01


def test_no_record_is_no_history() -> None:
    drift = Drift(3)
    drift.recall(0, 0)
    assert drift.in_a_row == 3


def false_alarms(usual: float, calls: int, *, seed: int) -> int:
    """Openings of a model that only fails as it always did."""
    rng, drift, count = random.Random(seed), grown(usual), 0
    for _ in range(calls):
        if rng.random() >= usual:
            drift.succeeded()
        elif drift.failed():
            count += 1
            drift.clear()
    return count


def plain_alarms(usual: float, calls: int, *, seed: int) -> int:
    """The same with three failures in a row."""
    rng, run, count = random.Random(seed), 0, 0
    for _ in range(calls):
        run = run + 1 if rng.random() < usual else 0
        if run == 3:
            run, count = 0, count + 1
    return count


@pytest.mark.parametrize(("usual", "plain"), [(0.05, 5), (0.1, 40), (0.2, 250)])
def test_a_flaky_model_is_not_taken_out_for_what_it_always_does(usual: float, plain: int) -> None:
    calls = 60_000
    assert plain_alarms(usual, calls, seed=3) >= plain
    assert false_alarms(usual, calls, seed=3) <= 2


@pytest.mark.parametrize(
    ("usual", "at_most"),
    [(0.001, 3), (0.01, 4), (0.05, 7), (0.2, 14)],
    ids=["never", "rarely", "some", "often"],
)
def test_an_outage_is_found_within_a_few_calls(usual: float, at_most: int) -> None:
    rng = random.Random(5)
    for seed in range(20):
        drift, calls, found = grown(usual, seed=seed), 0, False
        while not found:
            calls += 1
            if rng.random() < 0.95:  # down, but for a call here and there
                found = drift.failed()
            else:
                drift.succeeded()
        assert calls <= at_most + 3
    assert grown(usual).in_a_row <= at_most


@given(st.integers(1, 10), st.lists(st.booleans(), max_size=300))
def test_only_a_failure_opens_and_never_fewer_in_a_row_than_a_spotless_model_is_given(
    threshold: int, verdicts: list[bool]
) -> None:
    drift, run = Drift(threshold), 0
    for failed in verdicts:
        if not failed:
            drift.succeeded()
            run = 0
            continue
        run += 1
        if drift.failed():
            assert sum(verdicts) >= max(1, threshold // 2)
            drift.clear()
            run = 0
        assert run <= 40 * threshold
        assert 0 < drift.usual <= HIGHEST
