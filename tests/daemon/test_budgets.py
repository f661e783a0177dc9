"""Which budgets a call draws on, and in which windows."""

from __future__ import annotations

from typing import Any

import pytest

from theo_daemon import budgets as module
from theo_daemon.budgets import Budgets, Draw
from theo_daemon.config import BudgetConfig, Config, ModelConfig, RoutingConfig
from theo_daemon.ledger.records import OtherWindow, Scope
from theo_daemon.spend_window import parse_window

DOLLAR = 1_000_000_000
HOUR, DAY = 3_600_000, 86_400_000
NOW = 1_700_000_000_000  # 2023-11-14 22:13:20 UTC
MIDNIGHT = 1_699_920_000_000


def budget(ceiling: float = 1.0, window: str = "total", **fields: Any) -> BudgetConfig:
    return BudgetConfig(spend_ceiling=ceiling, spend_window=parse_window(window), **fields)


def budgets(*tables: BudgetConfig, **routing: Any) -> Budgets:
    if "spend_window" in routing:
        routing["spend_window"] = parse_window(routing["spend_window"])
    models = tuple(
        ModelConfig(name=name, provider="scripted", model=name, routing=RoutingConfig(**routing))
        for name in ("fast", "slow")
    )
    return Budgets(Config(models=models, groups={"chat": ("fast", "slow")}, budgets=tables))


def drawn(
    of: Budgets,
    *,
    model: str = "fast",
    asked: str = "chat",
    workflow: str = "w",
    tenant: str = "acme",
    now: int = NOW,
) -> Draw:
    return of.draw(model, asked, workflow, tenant, now)


def names(draw: Draw) -> list[str]:
    return [scope.name for scope in draw.scopes]


# -- which budgets --------------------------------------------------------------------------------------


def test_without_any_ceiling_a_model_s_total_is_recorded_and_nothing_refused() -> None:
    assert drawn(budgets()) == Draw((Scope("model:fast", 0),), None, None)


def test_a_model_s_own_ceiling_over_its_total_is_one_row_and_over_a_window_two() -> None:
    assert drawn(budgets(spend_ceiling=2.0)).scopes == (
        Scope("model:fast", 0, 2 * DOLLAR, warn_nano=round(1.6 * DOLLAR)),
    )
    daily = drawn(budgets(spend_ceiling=2.0, spend_window="1d"))
    assert daily.scopes == (
        Scope("model:fast", 0),
        Scope("model:fast@1d", MIDNIGHT, 2 * DOLLAR, MIDNIGHT + DAY, round(1.6 * DOLLAR)),
    )
    assert (daily.until_ms, daily.ceiling_nano is None) == (MIDNIGHT + DAY, False)


@pytest.mark.parametrize(
    ("selectors", "job", "scope"),
    [
        ({}, {}, "all@total"),
        ({"tenant": "acme"}, {}, "tenant=acme@total"),
        ({"tenant": "acme"}, {"tenant": "other"}, None),
        ({"tenant": "acme"}, {"tenant": ""}, None),
        ({"tenant": "*"}, {"tenant": "other"}, "tenant=other@total"),
        ({"tenant": "*"}, {"tenant": ""}, "tenant=@total"),
        ({"workflow": "w"}, {}, "workflow=w@total"),
        ({"workflow": "*"}, {"workflow": "default"}, "workflow=default@total"),
        ({"workflow": "w"}, {"workflow": "v"}, None),
        ({"group": "chat"}, {}, "group=chat@total"),
        ({"group": "chat"}, {"asked": "fast"}, None),
        ({"group": "*"}, {}, "group=chat@total"),
        ({"group": "*"}, {"asked": "fast"}, None),
        ({"model": "fast"}, {}, "model=fast@total"),
        ({"model": "fast"}, {"model": "slow"}, None),
        ({"model": "*"}, {"model": "slow"}, "model=slow@total"),
        ({"tenant": "*", "model": "fast"}, {}, "tenant=acme,model=fast@total"),
        ({"tenant": "*", "model": "fast"}, {"model": "slow"}, None),
        ({"tenant": "*", "workflow": "*"}, {}, "tenant=acme,workflow=w@total"),
    ],
)
def test_a_budget_counts_the_calls_that_its_selectors_fit(
    selectors: dict[str, str], job: dict[str, str], scope: str | None
) -> None:
    draw = drawn(budgets(budget(**selectors)), **job)
    assert names(draw)[1:] == ([] if scope is None else [scope])
    assert (draw.ceiling_nano is not None) is (scope is not None)


def test_a_call_draws_on_all_that_fit() -> None:
    several = budgets(
        budget(), budget(tenant="*"), budget(tenant="*", window="1d"), budget(group="chat"), spend_ceiling=1.0
    )
    assert names(drawn(several)) == [
        "model:fast", "all@total", "tenant=acme@total", "tenant=acme@1d", "group=chat@total",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("tables", "ceilings"),
    [
        ([{"tenant": "*"}, {"tenant": "acme"}], [2]),
        ([{"tenant": "acme"}, {"tenant": "*"}], [1]),
        ([{"tenant": "*"}, {"tenant": "acme", "window": "1d"}], [1, 2]),
        (
            [{"tenant": "*", "window": "1d"}, {"tenant": "acme", "window": "1d", "calendar_aligned": False}],
            [1, 2],
        ),
        ([{"tenant": "*"}, {"tenant": "acme", "model": "fast"}], [1, 2]),
        ([{"tenant": "*", "model": "*"}, {"tenant": "acme", "model": "*"}], [2]),
        ([{"tenant": "*", "model": "fast"}, {"tenant": "acme", "model": "*"}], [1, 2]),
        (
            [
                {"tenant": "*", "model": "fast"},
                {"tenant": "acme", "model": "*"},
                {"tenant": "acme", "model": "fast"},
            ],
            [3],
        ),
        ([{"tenant": "*"}, {"tenant": "other"}], [1]),
    ],
)
def test_names_take_the_place_of_a_star_over_the_same_window(
    tables: list[dict[str, Any]], ceilings: list[int]
) -> None:
    ceiling_of = budgets(*(budget(number, **table) for number, table in enumerate(tables, 1)))
    found = [scope.ceiling_nano for scope in drawn(ceiling_of).scopes if scope.ceiling_nano is not None]
    assert found == [number * DOLLAR for number in ceilings]


def test_warnings_and_downgrading_are_parts_of_the_ceiling() -> None:
    (_, scope) = drawn(budgets(budget(10, tenant="*", warning_ratio=0.5, downgrade_ratio=0.7))).scopes
    assert (scope.warn_nano, scope.ease_nano) == (5 * DOLLAR, 7 * DOLLAR)
    (_, nothing) = drawn(budgets(budget(0, tenant="*"))).scopes
    assert (nothing.ceiling_nano, nothing.warn_nano, nothing.ease_nano) == (0, None, None)


# -- windows --------------------------------------------------------------------------------------------


def test_a_draw_is_kept_until_its_first_window_ends() -> None:
    of = budgets(budget(tenant="*", window="1d"), budget(window="1h"))
    first = drawn(of)
    assert first.until_ms == NOW - NOW % HOUR + HOUR
    assert drawn(of, now=first.until_ms - 1) is first
    later = drawn(of, now=first.until_ms)
    assert [scope.window_start_ms for scope in later.scopes] == [0, MIDNIGHT, first.until_ms]


def test_time_never_goes_back() -> None:
    of = budgets(budget(tenant="*", window="1h"))
    ahead = drawn(of, now=NOW + 5 * HOUR)
    assert drawn(of, now=NOW) is ahead
    assert drawn(of, tenant="other", now=NOW).scopes[1].window_start_ms == ahead.scopes[1].window_start_ms


def test_a_window_that_is_not_of_the_calendar_begins_with_the_first_call_and_the_next_with_one_after_it() -> (
    None
):
    of = budgets(budget(tenant="*", window="1h", calendar_aligned=False))
    first = drawn(of).scopes[1]
    assert (first.name, first.window_start_ms, first.reset_ms) == ("tenant=acme@~1h", NOW, NOW + HOUR)
    assert drawn(of, model="slow", now=NOW + 7).scopes[1] == first
    assert drawn(of, now=NOW + 3 * HOUR).scopes[1].window_start_ms == NOW + 3 * HOUR


def test_of_the_window_that_runs_the_ledger_has_the_last_word() -> None:
    of = budgets(budget(tenant="*", window="1h", calendar_aligned=False))
    assert drawn(of).scopes[1].window_start_ms == NOW
    of.learn(OtherWindow("tenant=acme@~1h", NOW - 60_000, NOW - 60_000 + HOUR))
    assert drawn(of).scopes[1].window_start_ms == NOW - 60_000
    assert drawn(of).until_ms == NOW - 60_000 + HOUR


def test_a_later_window_of_the_calendar_that_others_are_in_is_joined() -> None:
    of = budgets(budget(window="1d"))
    of.learn(OtherWindow("all@1d", MIDNIGHT + DAY, MIDNIGHT + 2 * DAY))
    assert drawn(of).scopes[1].window_start_ms == MIDNIGHT + DAY


def test_what_is_remembered_is_bounded_however_many_tenants_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 8)
    of = budgets(budget(tenant="*", window="1h", calendar_aligned=False))
    for number in range(100):
        assert names(drawn(of, tenant=f"t{number}")) == ["model:fast", f"tenant=t{number}@~1h"]
        assert len(of._draws) <= 8
        assert len(of._windows) <= 8


def test_what_makes_no_difference_is_not_remembered_apart() -> None:
    of = budgets(budget(tenant="*"))
    assert drawn(of, workflow="a", asked="chat") is drawn(of, workflow="b", asked="fast")
    alone = budgets(spend_ceiling=1.0)
    assert drawn(alone, tenant="a") is drawn(alone, tenant="b")


# -- pressure -------------------------------------------------------------------------------------------


def test_a_scope_is_strained_when_the_last_claim_on_it_said_so() -> None:
    of = budgets(budget(tenant="*", downgrade_ratio=0.5))
    assert of.may_strain
    acme, other = drawn(of), drawn(of, tenant="other")
    of.note(acme.scopes, ("tenant=acme@total",))
    assert (of.strained(acme), of.strained(other)) == (True, False)
    of.note(acme.scopes, ())
    assert not of.strained(acme)
    assert not budgets(budget(tenant="*")).may_strain
