"""Which model a job goes to: what its deadline leaves, and load among equals."""

from __future__ import annotations

import pytest
from msgspec import structs

from tests.scenario.stage import Stage, model, staged
from theo_daemon.config import RoutingConfig
from theo_daemon.job import EntryRef
from theo_workers.upstreams.script import Fate

FIRST = {"weight": 1e12}  # is chosen before all others while it is free


def told(stage: Stage, ref: EntryRef) -> list[tuple[str, str]]:
    return [(one.model, str(one.outcome)) for one in stage.outcome(ref).attempts]


async def test_models_of_equal_weight_share_by_load_when_one_is_nearly_full() -> None:
    slow = Fate(text="x", latency_ms=60_000)
    async with staged(model("a", slow, concurrency=8), model("b", slow, concurrency=80)) as stage:
        stage.push_all([f"q{n}" for n in range(80)])
        await stage.advance(1)
        assert len(stage.upstreams["a"].running) == pytest.approx(8, abs=2)
        shares = [len(stage.upstreams[name].running) / stage.core.fleet[name].worker.limit for name in "ab"]
        assert shares[0] == pytest.approx(shares[1], abs=0.13)  # a step of load apart at most


async def _known(stage: Stage) -> None:
    """What each model usually takes is known."""
    for number in range(10):
        for name in stage.upstreams:
            stage.push(f"to know {name} {number}", model=name)
    await stage.advance(10)


async def test_a_job_in_a_hurry_goes_to_a_model_that_usually_makes_it() -> None:
    slow = model("slow", Fate(text="x", latency_ms=2_000), routing={"weight": 1e6})
    async with staged(slow, model("quick", Fate(text="x", latency_ms=500))) as stage:
        await _known(stage)
        assert (await stage.answer(within_s=3)).attempts[0].model == "slow"
        hurry = stage.push("hurry", ttl_ms="1500")
        await stage.advance(1)
        assert told(stage, hurry) == [("quick", "ok")]
        patient = stage.push("patient", ttl_ms="2500")
        await stage.advance(3)
        assert told(stage, patient) == [("slow", "ok")]


async def test_a_job_that_usually_no_model_makes_is_still_sent_to_the_fastest() -> None:
    lucky = model("fast", *[Fate(text="x", latency_ms=800)] * 10, Fate(text="in time", latency_ms=300))
    async with staged(model("slow", Fate(text="x", latency_ms=2_000), routing=FIRST), lucky) as stage:
        await _known(stage)
        ref = stage.push("hurry", ttl_ms="500")
        await stage.advance(1)
        assert stage.ok(ref).answer.output == "in time"


async def test_what_is_left_of_the_deadline_decides_after_a_failure_too() -> None:
    failing = model("failing", *[Fate(text="x")] * 10, Fate(error="provider_unavailable", latency_ms=900))
    slow = model("slow", Fate(text="x", latency_ms=800), routing={"weight": 1e6})
    async with staged(
        structs.replace(failing, routing=RoutingConfig(**FIRST)),
        slow,
        model("quick", Fate(text="x", latency_ms=100)),
    ) as stage:
        await _known(stage)
        ref = stage.push("hurry", ttl_ms="1500")
        await stage.advance(2)
        assert [name for name, _ in told(stage, ref)] == ["failing", "quick"]
