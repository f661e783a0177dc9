"""Budgets that several processes and many jobs at once draw on: never passed, whoever dies."""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import partial
from typing import Any

import pytest

from tests.e2e.processes import Fleet, Reply, Serve, until
from tests.e2e.provider import Fate
from tests.e2e.test_shared_models import all_are

pytestmark = pytest.mark.e2e

ONE_DOLLAR = '{"max_tokens": 1000}'
JOBS, CEILING = 400, 50
MODEL, TENANT = "the model's own", {"tenant": "*"}
THREEFOLD = {
    "tenant": "*",
    "group": "chat",
    "workflow": "sum",
    "spend_window": "1mo",
    "calendar_aligned": False,
}


def capped(fleet: Fleet, scope: Any, *, latency_s: float = 0.15) -> None:
    """Calls of one dollar, and a ceiling of fifty over the given scope."""
    own = {"routing": {"spend_ceiling": CEILING}} if scope is MODEL else {}
    fleet.config["models"] = [fleet.model("fast", output_cost_per_mtok=1000, concurrency=16, **own)]
    fleet.config["groups"] = {"chat": ["fast"]}
    fleet.config["routing"] = {"default": "chat"}
    fleet.config["budgets"] = [] if scope is MODEL else [{**scope, "spend_ceiling": CEILING}]
    fleet.provider.answer(Fate(latency_s=latency_s, usage=(10, 1000)))


def push(fleet: Fleet, count: int = JOBS) -> list[str]:
    job = {"params": ONE_DOLLAR, "tenant": "acme", "workflow": "sum"}
    return fleet.push_all({"prompt": f"x{n}", **job} for n in range(count))


def ends(replies: list[Reply]) -> Counter[str]:
    return Counter(reply.get("error_code", "ok") for reply in replies)


def running(process: Serve) -> int:
    """Its calls under way."""
    (model,) = json.loads(process.get("/status")[1])["models"]
    return int(model["running"])


def calls_of(process: Serve) -> int:
    """Calls that this process has seen through."""
    found = re.search(
        r'^theo_attempts_finished_total\{model="fast",outcome="ok"\} (\d+)',
        process.get("/metrics")[1],
        re.MULTILINE,
    )
    assert found is not None
    return int(found[1])


@pytest.mark.parametrize("scope", [MODEL, THREEFOLD], ids=str)
def test_four_hundred_jobs_over_two_processes_make_as_many_calls_as_the_ceiling_pays_for(
    fleet: Fleet, scope: Any
) -> None:
    capped(fleet, scope)
    processes = fleet.start_all("a", "b")
    replies = fleet.answers(push(fleet), 30)
    assert len(fleet.provider.calls) == CEILING
    assert ends(replies) == {"ok": CEILING, "budget_exceeded": JOBS - CEILING}
    assert min(calls_of(process) for process in processes) >= 10
    assert len(fleet.events("budget_exhausted")) == len(fleet.events("budget_warning")) == 1


def test_the_ceiling_holds_when_one_of_the_processes_is_killed_over_its_calls(fleet: Fleet) -> None:
    capped(fleet, TENANT, latency_s=0.4)
    victim, survivor = fleet.start_all("a", "b")
    pushed = push(fleet)
    until(lambda: len(fleet.provider.calls) >= 24 and calls_of(survivor) > 0, 10, "calls of both")
    victim.kill()
    replies = fleet.answers(pushed, 40)
    answered = ends(replies)["ok"]
    # What was on record as sent is charged, whether it had left the process by then or not.
    until(lambda: answered + len(fleet.events("outcome_unknown")) == CEILING, 5, "all money is accounted for")
    assert answered < CEILING, "it was killed over nothing"
    assert len(fleet.provider.calls) <= CEILING
    assert sum(float(reply["cost"]) for reply in replies) <= CEILING


def test_under_kill_the_ceiling_holds_and_most_of_it_is_used_when_bills_are_below_their_bounds(
    fleet: Fleet,
) -> None:
    """Fifty bills' worth, each two fifths of what is held for it; the calls of the dead are charged at their bound."""
    capped(fleet, TENANT, latency_s=0.4)
    bill, ceiling = 0.4, 0.4 * CEILING
    fleet.config["budgets"] = [{**TENANT, "spend_ceiling": ceiling}]
    fleet.provider.answer(Fate(latency_s=0.4, usage=(10, 400)))
    victim, survivor = fleet.start_all("a", "b")
    pushed = push(fleet)
    both = lambda: len(fleet.provider.calls) >= 20 and calls_of(survivor) > 2 and running(victim) > 1  # noqa: E731
    until(both, 15, "calls of both")
    victim.kill()
    replies = fleet.answers(pushed, 40)
    answered = ends(replies)["ok"]
    assert ends(replies) == {"ok": answered, "budget_exceeded": JOBS - answered}
    lost = len(until(lambda: fleet.events("outcome_unknown"), 5, "calls that were lost"))
    (budget,) = fleet.command("budget", "show")["budgets"]
    assert (budget["held"], budget["spent"]) == (0, pytest.approx(bill * answered + 1.0 * lost))
    assert budget["spent"] <= ceiling
    assert ceiling - budget["spent"] < 1.0, "a job was refused that could be paid for"
    assert 20 <= len(fleet.provider.calls) <= CEILING
    assert len(fleet.events("budget_exhausted")) == 1


def test_a_tenant_s_refusal_names_its_budget_and_leaves_other_tenants_alone(fleet: Fleet) -> None:
    capped(fleet, {"tenant": "*", "spend_window": "1d"}, latency_s=0)
    fleet.config["budgets"][0]["spend_ceiling"] = 1
    fleet.start().wait_ready()
    assert fleet.ask(prompt="x", params=ONE_DOLLAR, tenant="acme")["status"] == "ok"
    refused = fleet.ask(prompt="y", params=ONE_DOLLAR, tenant="acme")
    assert refused["error_code"] == "budget_exceeded"
    assert refused["error_message"].startswith("the budget of tenant acme has spent 1 of 1 USD; ")
    assert "; it resets at " in refused["error_message"]
    assert 0 < int(refused["retry_after_ms"]) <= 86_400_000
    assert fleet.ask(prompt="y", params=ONE_DOLLAR, tenant="other")["status"] == "ok"
    assert fleet.ask(prompt="x", params=ONE_DOLLAR, tenant="acme")["cache_hit"] == "1"
    told = until(lambda: fleet.events("budget_exhausted"), 3, "budget_exhausted")
    assert [(one["scope"], one["spent"], one["ceiling"]) for one in told] == [("tenant=acme@1d", "1", "1")]


def test_a_bill_beyond_the_bound_stops_the_model_in_all_processes_also_those_that_start_later(
    fleet: Fleet,
) -> None:
    capped(fleet, MODEL, latency_s=0)
    fleet.config["routing"] = {"default": "fast", "when_unavailable": "fail"}
    fleet.provider.answer(Fate(usage=(10, 1500)), Fate(usage=(10, 1000)))
    one, two = fleet.start_all("a", "b")
    assert float(fleet.ask(prompt="x", params=ONE_DOLLAR)["cost"]) == 1.5
    until(partial(all_are, "disabled", one, two), 1, "disabled in both")
    one.kill()
    two.kill()
    late = fleet.start("c").wait_ready()
    assert fleet.ask(prompt="y", params=ONE_DOLLAR)["error_code"] == "no_model_available"
    assert len(fleet.provider.calls) == len(fleet.events("bound_violated")) == 1
    fleet.redis.xadd(f"{fleet.prefix}:control", {"cmd": "enable", "model": "fast"})
    until(partial(all_are, "closed", late), 3, "enabled")
    assert fleet.ask(prompt="z", params=ONE_DOLLAR)["status"] == "ok"


@pytest.mark.parametrize(
    ("price", "own", "usage"),
    [
        # Nothing but a ceiling and a price: the answers' cap is the router's own.
        ({"input_cost_per_mtok": 0.15, "output_cost_per_mtok": 0.6}, {"model": "gpt-4o-mini"}, (9, 40)),
        ({"input_cost_per_mtok": 2.0, "output_cost_per_mtok": 8.0}, {"model": "unheard-of"}, (20, 20)),
        # The longest answer is ten times as long as those that come.
        ({"input_cost_per_mtok": 0.15, "output_cost_per_mtok": 0.6},
         {"model": "gpt-4o-mini", "max_output_tokens": 1000}, (20, 100)),
        # Answers of a few tokens, from a server that is known to add nothing unseen.
        ({"input_cost_per_mtok": 1.0, "output_cost_per_mtok": 2.0},
         {"model": "unheard-of", "max_output_tokens": 50, "hidden_tokens": 0}, (10, 5)),
    ],
    ids=("known model", "unknown model", "capped model", "own server"),
)  # fmt: skip
def test_a_ceiling_and_a_price_are_enough_for_most_of_the_calls_that_it_pays_for(
    fleet: Fleet, price: dict[str, float], own: dict[str, Any], usage: tuple[int, int]
) -> None:
    """The bound of a call is many times its bill; what is held waits, and the last few calls are not made."""
    bill = (price["input_cost_per_mtok"] * usage[0] + price["output_cost_per_mtok"] * usage[1]) / 1e6
    ceiling = {"spend_ceiling": round(CEILING * bill, 9)}
    fleet.config["models"] = [fleet.model("fast", concurrency=16, routing=ceiling, **{**own, **price})]
    fleet.provider.answer(Fate(latency_s=0.05, usage=usage))
    processes = fleet.start_all("a", "b")
    replies = fleet.answers(fleet.push_all({"prompt": f"x{n}"} for n in range(JOBS)), 40)
    made = len(fleet.provider.calls)
    assert ends(replies) == {"ok": made, "budget_exceeded": JOBS - made}
    assert min(calls_of(process) for process in processes) >= 10
    assert made <= CEILING
    assert sum(float(reply["cost"]) for reply in replies) <= ceiling["spend_ceiling"]
