"""The bucket of tokens that repeats are paid from."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theo_daemon.retry_budget import RetryBudget, repeat_cost
from theo_workers.failures import FailureClass


@pytest.mark.parametrize("failure", list(FailureClass))
def test_a_repeat_after_throttling_is_cheap(failure: FailureClass) -> None:
    assert repeat_cost(failure) == (5 if failure is FailureClass.RATE_LIMITED else 14)


def test_a_full_bucket_pays_for_thirty_five_repeats_after_failures_and_a_hundred_after_a_429() -> None:
    for cost, repeats in ((14, 35), (5, 100)):
        budget, paid = RetryBudget(500), 0
        while budget.covers(cost):
            budget.take(cost)
            paid += 1
        assert paid == repeats


def test_a_repeat_that_succeeds_gives_back_what_it_took_and_a_first_try_one() -> None:
    budget = RetryBudget(500)
    for _ in range(3):
        budget.take(14)
    budget.succeeded(14)
    assert budget.tokens == 472
    budget.succeeded(0)
    assert budget.tokens == 473


def test_a_repeat_that_did_not_go_out_costs_nothing() -> None:
    budget = RetryBudget(500)
    budget.take(14)
    budget.give_back(14)
    budget.give_back(0)
    assert budget.tokens == 500


def test_it_is_never_more_than_full() -> None:
    budget = RetryBudget(500)
    budget.succeeded(0)
    budget.take(5)
    budget.succeeded(14)
    assert budget.tokens == 500


def test_a_budget_of_nought_is_none() -> None:
    budget = RetryBudget(0)
    for _ in range(100):
        budget.take(14)
    budget.succeeded(14)
    assert budget.covers(14)


def test_that_it_is_spent_is_told_once_until_half_of_it_is_full_again() -> None:
    budget = RetryBudget(20)
    budget.take(14)
    assert [budget.spent_anew(), budget.spent_anew()] == [True, False]
    for _ in range(3):
        budget.succeeded(0)
    assert not budget.spent_anew()
    budget.succeeded(0)
    assert budget.spent_anew()


@pytest.mark.parametrize(
    ("failing", "repeats_per_call"), [(0.02, 0.02), (0.06, 0.06), (0.5, 0.1), (1.0, 0.02)]
)
def test_an_outage_gets_hardly_more_calls_than_there_are_jobs_and_a_bad_minute_all_its_repeats(
    failing: float, repeats_per_call: float
) -> None:
    """Jobs that repeat each failure until it succeeds or the budget is used up."""
    rng, budget, jobs, repeats = random.Random(4), RetryBudget(500), 5_000, 0
    for _ in range(jobs):
        cost = 0
        while rng.random() < failing:
            if not budget.covers(14):
                break
            cost = 14
            budget.take(cost)
            repeats += 1
        else:
            budget.succeeded(cost)
    assert repeats / jobs <= repeats_per_call * 1.3


@given(
    st.integers(1, 1_000),
    st.lists(st.tuples(st.sampled_from(["fail", "throttle", "ok", "again"]), st.booleans()), max_size=200),
)
def test_it_stays_between_empty_and_full(capacity: int, calls: list[tuple[str, bool]]) -> None:
    budget = RetryBudget(capacity)
    for what, _ in calls:
        match what:
            case "fail" | "throttle":
                cost = 14 if what == "fail" else 5
                if budget.covers(cost):
                    before = budget.tokens
                    budget.take(cost)
                    assert budget.tokens == before - cost
            case "ok":
                budget.succeeded(0)
            case "again":
                budget.succeeded(14)
        assert 0 <= budget.tokens <= capacity
