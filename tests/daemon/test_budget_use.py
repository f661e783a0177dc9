"""Rows of the ledger beside the ceilings they count for."""

from __future__ import annotations

from tests.daemon.test_budgets import DAY, DOLLAR, HOUR, MIDNIGHT, NOW, budget, budgets
from theo_daemon.budget_use import CeilingUse, use_of
from theo_daemon.budgets import Budgets
from theo_daemon.ledger.figures import Balance


def row(
    scope: str, spent: float = 1.0, *, start: int = 0, reset: int | None = None, held: float = 0.0
) -> Balance:
    return Balance(
        scope=scope, window_start_ms=start, spent_nano=round(spent * DOLLAR), held_nano=round(held * DOLLAR),
        reset_ms=reset,
    )  # fmt: skip


def uses(of: Budgets, *rows: Balance) -> dict[str, CeilingUse]:
    return {use.ceiling.name: use for use in use_of(of.ceilings(), rows, NOW)}


def spent(use: CeilingUse) -> dict[str, float]:
    return {scope.scope: scope.spent_nano / DOLLAR for scope in use.scopes}


def test_a_ceiling_without_a_row_is_unused() -> None:
    found = uses(
        budgets(
            budget(window="1d"),
            budget(tenant="*"),
            budget(tenant="acme", window="1h", calendar_aligned=False),
        )
    )
    (scope,) = found["all@1d"].scopes
    assert (scope.spent_nano, scope.window_start_ms, scope.reset_ms) == (0, MIDNIGHT, MIDNIGHT + DAY)
    assert found["tenant=*@total"].scopes == []
    assert [one.reset_ms for one in found["tenant=acme@~1h"].scopes] == [None]
    assert [use.ratio for use in found.values()] == [0.0] * 3


def test_scopes_of_a_star_are_its_names_and_the_most_used_comes_first() -> None:
    of = budgets(budget(10, tenant="*", downgrade_ratio=0.3), budget(100, tenant="acme"))
    found = uses(of, row("tenant=a@total", 2), row("tenant=b@total", 1, held=4), row("tenant=acme@total", 50))
    assert list(spent(found["tenant=*@total"]).items()) == [("tenant=b@total", 1), ("tenant=a@total", 2)]
    assert (found["tenant=*@total"].ratio, found["tenant=acme@total"].ratio) == (0.5, 0.5)
    assert (found["tenant=*@total"].spent_nano, found["tenant=*@total"].held_nano) == (3 * DOLLAR, 4 * DOLLAR)
    assert not found["tenant=*@total"].downgrading


def test_downgrading_goes_by_what_is_spent() -> None:
    of = budgets(budget(10, tenant="*", downgrade_ratio=0.3))
    assert not uses(of, row("tenant=a@total", 2.9, held=5))["tenant=*@total"].downgrading
    assert uses(of, row("tenant=a@total", 3.0))["tenant=*@total"].downgrading


def test_rows_of_windows_that_are_over_and_of_nobody_s_are_left_out() -> None:
    of = budgets(budget(10, window="1h"), spend_ceiling=3.0, spend_window="1d")
    now_hour = NOW - NOW % HOUR
    found = uses(
        of,
        row("all@1h", 5, start=now_hour - HOUR, reset=now_hour),
        row("all@1h", 2, start=now_hour, reset=now_hour + HOUR),
        row("all@1d", 9, start=MIDNIGHT, reset=MIDNIGHT + DAY),
        row("model:fast", 7),
        row("model:fast", 7, start=MIDNIGHT),
        row("model:fast@1d", 1.5, start=MIDNIGHT, reset=MIDNIGHT + DAY),
    )
    assert {name: spent(use) for name, use in found.items()} == {
        "model:fast@1d": {"model:fast@1d": 1.5},
        "model:slow@1d": {"model:slow@1d": 0},
        "all@1h": {"all@1h": 2},
    }


def test_of_two_windows_the_later_one_counts_as_it_does_in_the_ledger() -> None:
    of = budgets(budget(10, window="1d"))
    later = row("all@1d", 4, start=MIDNIGHT + DAY, reset=MIDNIGHT + 2 * DAY)
    found = uses(of, row("all@1d", 9, start=MIDNIGHT, reset=MIDNIGHT + DAY), later)
    assert spent(found["all@1d"]) == {"all@1d": 4}


def test_a_ceiling_of_nothing_is_used_up() -> None:
    assert uses(budgets(budget(0, tenant="acme")))["tenant=acme@total"].ratio == 1.0
