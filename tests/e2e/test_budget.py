"""Ceilings that no number of processes passes."""

from __future__ import annotations

import pytest

from tests.e2e.processes import Fleet, until
from tests.e2e.provider import Fate

pytestmark = pytest.mark.e2e

ONE_DOLLAR = '{"max_tokens": 1000}'


def ceiling(fleet: Fleet, usd: float, **more: object) -> None:
    """A thousand tokens cost one dollar, and are the bound of each call."""
    fleet.config["models"] = [
        fleet.model("fast", output_cost_per_mtok=1000, routing={"spend_ceiling": usd, **more})
    ]


def test_calls_that_use_their_bound_stop_exactly_at_the_ceiling(fleet: Fleet) -> None:
    ceiling(fleet, 10.0)
    fleet.provider.answer(Fate(latency_s=0.3, usage=(10, 1000)))
    fleet.start_all("a", "b")
    replies = fleet.answers(fleet.push_all({"prompt": f"x{n}", "params": ONE_DOLLAR} for n in range(40)), 15)
    assert len(fleet.provider.calls) == 10
    answered = [reply for reply in replies if reply["status"] == "ok"]
    assert len(answered) == 10
    assert sum(float(reply["cost"]) for reply in answered) == pytest.approx(10.0)
    refused = {
        (reply["error_code"], reply["error_retryable"]) for reply in replies if reply["status"] == "error"
    }
    assert refused == {("budget_exceeded", "0")}
    paid = next(reply for reply in replies if reply["status"] == "ok")
    prompt = paid["output"].removeprefix("answer to ")
    again = fleet.ask(prompt=prompt, params=ONE_DOLLAR)
    assert (again["status"], again["cache_hit"]) == ("ok", "1")
    fleet.settled()


def test_a_ceiling_that_is_near_and_one_that_is_reached_are_told(fleet: Fleet) -> None:
    ceiling(fleet, 5.0)
    fleet.provider.answer(Fate(usage=(10, 1000)))
    fleet.start().wait_ready()
    for n in range(4):
        assert fleet.ask(prompt=f"x{n}", params=ONE_DOLLAR)["status"] == "ok"
    (warning,) = until(lambda: fleet.events("budget_warning"), 3, "budget_warning at four of five dollars")
    assert fleet.ask(prompt="x4", params=ONE_DOLLAR)["status"] == "ok"
    assert fleet.ask(prompt="x5", params=ONE_DOLLAR)["error_code"] == "budget_exceeded"
    (exhausted,) = until(lambda: fleet.events("budget_exhausted"), 3, "budget_exhausted")
    assert (warning["model"], exhausted["model"]) == ("fast", "fast")


def test_jobs_blocked_only_by_holds_wait_for_calls_that_turn_out_cheaper(fleet: Fleet) -> None:
    ceiling(fleet, 4.0)
    fleet.provider.answer(Fate(latency_s=0.2, usage=(10, 100)))
    fleet.start_all("a", "b")
    replies = fleet.answers(fleet.push_all({"prompt": f"x{n}", "params": ONE_DOLLAR} for n in range(20)), 15)
    assert {reply["status"] for reply in replies} == {"ok"}
    events = sorted(
        [(call.at, 1) for call in fleet.provider.calls]
        + [(call.ended_at or 0, -1) for call in fleet.provider.calls]
    )
    running = top = 0
    for _, change in events:
        running += change
        top = max(top, running)
    assert 2 <= top <= 4


def test_a_ceiling_of_nothing_forbids(fleet: Fleet) -> None:
    ceiling(fleet, 0)
    fleet.start().wait_ready()
    assert fleet.ask(prompt="x")["error_code"] == "budget_exceeded"
    assert fleet.provider.calls == []


def test_a_window_that_resets_says_when(fleet: Fleet) -> None:
    ceiling(fleet, 1.0, spend_window="1h")
    fleet.provider.answer(Fate(usage=(10, 1000)))
    fleet.start().wait_ready()
    assert fleet.ask(prompt="x", params=ONE_DOLLAR)["status"] == "ok"
    reply = fleet.ask(prompt="y", params=ONE_DOLLAR)
    assert (reply["error_code"], reply["error_retryable"]) == ("budget_exceeded", "1")
    assert 0 < int(reply["retry_after_ms"]) <= 3_600_000


def test_spend_outlives_the_process(fleet: Fleet) -> None:
    ceiling(fleet, 1.0)
    fleet.provider.answer(Fate(usage=(10, 1000)))
    first = fleet.start("a").wait_ready()
    assert fleet.ask(prompt="x", params=ONE_DOLLAR)["status"] == "ok"
    first.kill()
    fleet.start("b").wait_ready()
    assert fleet.ask(prompt="y", params=ONE_DOLLAR)["error_code"] == "budget_exceeded"
    assert fleet.ask(prompt="x", params=ONE_DOLLAR)["cache_hit"] == "1"


def test_a_jobs_own_ceiling_is_kept(fleet: Fleet) -> None:
    fleet.config["models"] = [fleet.model("fast", output_cost_per_mtok=1000)]
    fleet.start().wait_ready()
    reply = fleet.ask(prompt="x", params=ONE_DOLLAR, max_cost="0.99")
    assert (reply["error_code"], reply["error_retryable"]) == ("budget_exceeded", "0")
    assert fleet.ask(prompt="x", params=ONE_DOLLAR, max_cost="1.01")["status"] == "ok"
    assert len(fleet.provider.calls) == 1


def test_a_bill_beyond_the_bound_is_told_and_stops_the_model_until_it_is_reset(fleet: Fleet) -> None:
    ceiling(fleet, 10.0)
    fleet.provider.answer(Fate(usage=(10, 1500)), Fate(usage=(10, 1000)))
    fleet.start().wait_ready()
    paid = fleet.ask(prompt="x", params=ONE_DOLLAR)
    assert (paid["status"], float(paid["cost"])) == ("ok", 1.5)
    (violated,) = until(lambda: fleet.events("bound_violated"), 3, "bound_violated")
    assert {name: violated[name] for name in ("model", "cost", "bound")} == {
        "model": "fast",
        "cost": "1.5",
        "bound": "1",
    }
    assert fleet.ask(prompt="y", params=ONE_DOLLAR)["error_code"] == "no_model_available"
    fleet.redis.xadd(f"{fleet.prefix}:control", {"cmd": "reset", "model": "fast"})
    until(lambda: fleet.ask(prompt="y", params=ONE_DOLLAR)["status"] == "ok", 5)
    assert len(fleet.provider.calls) == 2


def test_a_model_without_a_known_price_is_told_and_refused_under_a_ceiling(fleet: Fleet) -> None:
    unpriced = fleet.model("mystery-model-of-nobody", routing={"spend_ceiling": 5.0})
    del unpriced["input_cost_per_mtok"], unpriced["output_cost_per_mtok"]
    fleet.config["models"] = [unpriced]
    fleet.config["routing"] = {"default": "mystery-model-of-nobody"}
    process = fleet.start().wait_ready()
    assert process.wait_event("price_unknown")["model"] == "mystery-model-of-nobody"
    assert fleet.ask(prompt="x")["error_code"] == "budget_exceeded"
    assert fleet.provider.calls == []
    until(lambda: fleet.redis.xlen(fleet.jobs_key()) == 0, 5)
