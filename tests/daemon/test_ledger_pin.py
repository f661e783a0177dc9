"""What processes of one ledger believe of its budgets, and what is told when they differ."""

from __future__ import annotations

from theo_daemon.config import BudgetConfig, Config, ModelConfig, RoutingConfig
from theo_daemon.ledger_pin import Differing, differences, plan_of
from theo_daemon.spend_window import parse_window

CAPPED = RoutingConfig(spend_ceiling=20.0, spend_window=parse_window("1d"))
EVERYBODY = BudgetConfig(spend_ceiling=500.0, spend_window=parse_window("1mo"))
EACH_TENANT = BudgetConfig(
    tenant="*", spend_ceiling=1.5, spend_window=parse_window("1h"), calendar_aligned=False
)


def plan(*budgets: BudgetConfig, **models: RoutingConfig) -> dict[str, str]:
    made = tuple(
        ModelConfig(name=name, provider="scripted", model=name, routing=routing)
        for name, routing in models.items()
    )
    return plan_of(Config(models=made, budgets=budgets))


def test_a_plan_tells_every_ceiling_and_which_models_have_none() -> None:
    assert plan(EVERYBODY, EACH_TENANT, fast=CAPPED, free=RoutingConfig()) == {
        "model fast": "20 USD per 1d",
        "model free": "none",
        "budget all@1mo": "500 USD per 1mo",
        "budget tenant=*@~1h": "1.5 USD per 1h from the first use",
    }


def test_the_same_plan_differs_in_nothing() -> None:
    here = plan(EVERYBODY, EACH_TENANT, fast=CAPPED)
    assert differences("p", here, dict(here)) == []


def test_of_models_those_count_that_both_processes_have() -> None:
    here, there = plan(fast=CAPPED, mine=CAPPED), plan(fast=RoutingConfig(), other=CAPPED)
    told = Differing(process="p", scope="model fast", here="20 USD per 1d", there="none")
    assert differences("p", here, there) == [told]


def test_a_budget_that_only_one_process_has_is_told_whichever_it_is() -> None:
    """What the other spends does not count in it."""
    here, there = plan(EVERYBODY), plan(EACH_TENANT)
    assert [(one.scope, one.here, one.there) for one in differences("p", here, there)] == [
        ("budget all@1mo", "500 USD per 1mo", "none"),
        ("budget tenant=*@~1h", "none", "1.5 USD per 1h from the first use"),
    ]
