"""Routing that learns: it chooses among those that everything else allows, and only among those."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tests.scenario.stage import Stage, model, staged
from theo_workers.upstreams.script import Fate

PREDICTIVE = {"strategy": "predictive"}
QUICK, SLOW = Fate(text="x", latency_ms=500), Fate(text="x", latency_ms=2_000)
DOWN = Fate(error="provider_unavailable", status_code=503, latency_ms=300)


async def served(stage: Stage, count: int, *, label: str = "q", **fields: Any) -> Counter[str]:
    """Jobs one after another, and who answered them."""
    refs = []
    for number in range(count):
        refs.append(stage.push(f"{label}{number}", cache="off", **fields))
        await stage.advance(3)
    return Counter(stage.ok(ref).answer.model for ref in refs)


async def test_weights_decide_unless_it_is_switched_on() -> None:
    async with staged(model("quick", QUICK), model("slow", SLOW)) as stage:
        assert stage.core.fleet.learner is None
        assert (await served(stage, 60))["slow"] > 15


async def test_the_better_model_is_found_and_the_other_is_still_tried_now_and_then() -> None:
    async with staged(
        model("quick", QUICK), model("slow", SLOW, routing={"weight": 1e6}), routing=PREDICTIVE
    ) as stage:
        await served(stage, 20)
        later = await served(stage, 200, label="later")
        assert later["quick"] > 180
        assert later["slow"] > 0


async def test_what_it_expects_is_told_by_workflow() -> None:
    priced = {"output_cost_per_mtok": 1000.0, "max_output_tokens": 1000}
    async with staged(
        model("m", Fate(text="x", latency_ms=500, completion_tokens=100), **priced),
        model("n"),
        routing=PREDICTIVE,
    ) as stage:
        await served(stage, 40, model="m", workflow="summarise")
        learner = stage.core.fleet.learner
        assert learner is not None
        told = learner.explain("m", size=100, now=stage.clock.monotonic())
        assert list(told) == ["*", "summarise"]
        assert 0.45 < told["summarise"].latency_s < 0.6
        assert 0.09 < told["summarise"].cost_usd < 0.12
        assert told["summarise"].success > 0.95


async def test_a_weight_of_0_and_a_latency_threshold_outweigh_what_was_learnt() -> None:
    spare = model("spare", QUICK, routing={"weight": 0.0})
    over = model("over", Fate(text="x", latency_ms=900), routing={"latency_threshold_ms": 800.0})
    async with staged(model("plain", SLOW), spare, over, routing=PREDICTIVE) as stage:
        await served(stage, 5, label="to know", model="over")
        assert await served(stage, 30) == {"plain": 30}


async def test_an_open_circuit_a_spent_budget_and_a_window_too_small_outweigh_it_too() -> None:
    dollars = {"output_cost_per_mtok": 1000.0, "max_output_tokens": 1000}
    models = (
        model("open", Fate(text="x"), DOWN),
        model("spent", Fate(text="x", completion_tokens=500), routing={"spend_ceiling": 1.2}, **dollars),
        model("small", Fate(text="x"), context_window=10),
        model("good", SLOW),
    )
    routing = {
        **PREDICTIVE,
        "predictive_usd_per_s": 10.0,
        "circuit_breaker_timeout_s": 1e6,
        "max_attempts": 1,
    }
    async with staged(*models, routing=routing) as stage:
        for number in range(4):
            stage.push(f"opener {number}", model="open")
            await stage.advance(1)
        await served(stage, 1, model="spent")
        assert await served(stage, 30, label="a longer prompt, of more than ten tokens: ") == {"good": 30}
        assert len(stage.upstreams["small"].prompts) == 0


async def test_a_model_that_failed_gets_its_probe_and_its_jobs_back() -> None:
    quick = model("quick", *[QUICK] * 30, DOWN, DOWN, DOWN, QUICK)
    routing = {**PREDICTIVE, "circuit_breaker_timeout_s": 30.0}
    async with staged(quick, model("slow", SLOW), routing=routing) as stage:
        await served(stage, 60)
        assert len(stage.upstreams["quick"].prompts) > 33
        assert (await served(stage, 40, label="later"))["quick"] > 25


async def test_refusals_of_the_job_itself_say_nothing_of_the_model() -> None:
    refusing = model("m", Fate(error="invalid_request", status_code=400))
    async with staged(refusing, model("n", SLOW), routing=PREDICTIVE) as stage:
        stage.push_all([f"q{n}" for n in range(20)], model="m")
        await stage.advance(5)
        assert stage.core.fleet.learner is not None
        assert stage.core.fleet.learner.explain("m", size=100, now=5.0) == {}
