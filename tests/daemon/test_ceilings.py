"""How refusals for money are put into words, and which of several is the job's."""

from __future__ import annotations

import pytest

from theo_daemon.ceilings import Barred, last_word, over_ceiling
from theo_daemon.ledger.records import OverBudget, Scope
from theo_workers.errors import BudgetExceeded

DOLLAR = 1_000_000_000
NOW = 1_700_000_000_000
RESET = 1_700_006_400_000


def refused(
    name: str, *, tenant: str, reset_ms: int | None = None, bound: int | None = DOLLAR
) -> BudgetExceeded:
    scope = Scope(name, 0 if reset_ms is None else 1, 50 * DOLLAR, reset_ms)
    verdict = OverBudget(scope, spent_nano=49_500_000_000, held_nano=0, bound_nano=bound, by_holds=False)
    return over_ceiling(verdict, NOW, tenant=tenant)


@pytest.mark.parametrize(
    ("name", "tenant", "text"),
    [
        (
            "tenant=acme@total",
            "acme",
            "the budget of tenant acme has spent 49.5 of 50 USD; this call may cost 1 USD",
        ),
        ("model:fast", "", "the budget of model fast has spent 49.5 of 50 USD; this call may cost 1 USD"),
        (
            "tenant=@total",
            "",
            "the budget of jobs without a tenant has spent 49.5 of 50 USD; this call may cost 1 USD",
        ),
        ("model:fast", "acme", "the budget of model fast, 50 USD, is used up; this call may cost 1 USD"),
        ("all@total", "acme", "the budget of all jobs, 50 USD, is used up; this call may cost 1 USD"),
    ],
)
def test_a_tenant_is_told_its_own_figures_and_not_those_of_others(name: str, tenant: str, text: str) -> None:
    error = refused(name, tenant=tenant)
    assert str(error) == text
    assert (error.retryable, error.retry_after_s) == (False, None)


def test_a_window_that_resets_says_when() -> None:
    error = refused("tenant=acme@1h", tenant="acme", reset_ms=RESET)
    assert str(error).endswith("; it resets at 2023-11-15 00:00:00 UTC")
    assert (error.retryable, error.retry_after_s) == (True, 6400.0)


def test_an_unknown_price_is_no_matter_of_time() -> None:
    error = refused("tenant=acme@1h", tenant="acme", reset_ms=RESET, bound=None)
    assert str(error) == (
        "the price of this call is unknown and the budget of tenant acme has a ceiling of 50 USD; "
        "set input_cost_per_mtok and output_cost_per_mtok"
    )
    assert not error.retryable


def test_of_several_candidates_the_one_that_is_free_again_first_is_the_job_s() -> None:
    soon, late = (BudgetExceeded("", retryable=True, retry_after_s=wait_s) for wait_s in (5.0, 50.0))
    never = BudgetExceeded("", retryable=False)
    assert last_word([Barred(one, own=False) for one in (late, never, soon)]).error is soon
    assert last_word([Barred(never, own=False)]).error is never
