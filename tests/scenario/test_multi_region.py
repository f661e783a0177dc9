"""Models in several regions: the preferred one first, a region that is out of order left as a whole, and taken back."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tests.fakes import MemoryBooks
from tests.scenario.stage import Stage, model, staged
from theo_daemon.config import ModelConfig
from theo_workers.upstreams.script import Fate

DOWN = Fate(error="provider_unavailable", status_code=503)
BRIEF = {"circuit_breaker_timeout_s": 20.0}


def regional(name: str, *fates: Fate, **options: Any) -> ModelConfig:
    """`eu-1` is a model of the region eu."""
    return model(name, *fates, region=name.partition("-")[0], **options)


def both(**eu: Fate) -> tuple[ModelConfig, ...]:
    return (regional("us-1"), *(regional(name.replace("_", "-"), fate) for name, fate in eu.items()))


async def asked(stage: Stage, count: int, *, label: str = "q", **fields: Any) -> Counter[str]:
    """Jobs one after another, and who answered them."""
    refs = []
    for number in range(count):
        refs.append(stage.push(f"{label}{number}", cache="off", **fields))
        await stage.advance(0.01)
    return Counter(stage.ok(ref).answer.model for ref in refs)


def calls(stage: Stage, name: str) -> int:
    return len(stage.upstreams[name].prompts)


async def test_without_an_order_regions_make_no_difference() -> None:
    async with staged(regional("eu-1"), regional("us-1")) as stage:
        assert set(await asked(stage, 30)) == {"eu-1", "us-1"}


async def test_the_preferred_region_is_asked_first_whatever_the_weights() -> None:
    us = regional("us-1", routing={"weight": 1e9})
    async with staged(us, regional("eu-1"), model("nowhere"), routing={"regions": ("eu", "us")}) as stage:
        assert await asked(stage, 30) == {"eu-1": 30}


async def test_what_the_preferred_region_cannot_take_at_once_goes_to_the_next() -> None:
    slow = Fate(text="x", latency_ms=1_000)
    models = (
        regional("eu-1", slow, concurrency=2),
        regional("us-1", slow, concurrency=2),
        model("nowhere", slow),
    )
    async with staged(*models, routing={"regions": ("eu", "us")}) as stage:
        stage.push_all([f"q{n}" for n in range(5)])
        await stage.advance(0.5)
        assert [calls(stage, name) for name in ("eu-1", "us-1", "nowhere")] == [2, 2, 1]


async def test_a_region_out_of_order_is_left_as_a_whole_before_each_of_its_models_has_failed() -> None:
    models = both(eu_1=DOWN, eu_2=DOWN, eu_3=DOWN, eu_4=DOWN)
    async with staged(*models, routing={"regions": ("eu", "us"), **BRIEF}) as stage:
        await asked(stage, 30)
        before = sum(calls(stage, f"eu-{n}") for n in range(1, 5))
        assert await asked(stage, 20, label="later") == {"us-1": 20}
        assert sum(calls(stage, f"eu-{n}") for n in range(1, 5)) == before < 12  # not three failures of each
        assert stage.observer.regions == [("region_evicted", "eu")]


async def test_one_model_s_trouble_is_not_its_region_s() -> None:
    models = both(eu_1=DOWN, eu_2=Fate(text="fine"), eu_3=Fate(text="fine"))
    async with staged(*models, routing={"regions": ("eu", "us")}) as stage:
        assert "us-1" not in await asked(stage, 60)
        assert stage.observer.regions == []


async def test_one_good_probe_takes_the_whole_region_back() -> None:
    # Each fails three times at most before its circuit opens, and is well from its probe on.
    fates = (DOWN, DOWN, DOWN, Fate(text="well again"))
    models = regional("us-1"), regional("eu-1", *fates), regional("eu-2", *fates), regional("eu-3")
    routing = {"regions": ("eu", "us"), "region_eviction_ratio": 0.6, "max_attempts": 1, **BRIEF}
    async with staged(*models, routing=routing) as stage:
        for name in ("eu-1", "eu-2"):
            for number in range(3):
                stage.push(f"opener of {name} {number}", model=name)
                await stage.advance(1)
        await stage.advance(1)
        assert stage.observer.regions == [("region_evicted", "eu")]
        assert await asked(stage, 10, label="while it is out") == {"us-1": 10}
        await stage.advance(20)
        first = await asked(stage, 1, label="the probe")
        assert set(first) <= {"eu-1", "eu-2"}
        assert stage.observer.regions == [("region_evicted", "eu"), ("region_readmitted", "eu")]
        assert "us-1" not in await asked(stage, 20, label="after it")


async def test_one_probe_at_a_time_is_for_the_whole_region_and_a_bad_one_costs_its_job_nothing() -> None:
    slowly_down = Fate(error="provider_unavailable", status_code=503, latency_ms=500)
    models = both(eu_1=DOWN, eu_2=DOWN, eu_3=DOWN)
    async with staged(*models, routing={"regions": ("eu", "us"), "max_attempts": 1, **BRIEF}) as stage:
        for name in ("eu-1", "eu-2", "eu-3"):
            for number in range(3):
                stage.push(f"opener of {name} {number}", model=name)
                await stage.advance(0.01)
            stage.upstreams[name].fate_for = lambda _: slowly_down
        for wait_s in (20, 48):  # a second bad probe makes the region wait twice as long, and 20 % more
            await stage.advance(wait_s)
            before = sum(calls(stage, name) for name in ("eu-1", "eu-2", "eu-3"))
            refs = []
            for number in range(20):
                refs += stage.push_all([f"after {wait_s} {number} {n}" for n in range(3)])
                await stage.advance(0.2)
            await stage.advance(1)
            assert stage.ends(refs) == ["ok"] * 60
            assert sum(calls(stage, name) for name in ("eu-1", "eu-2", "eu-3")) == before + 1
        assert stage.observer.regions == [("region_evicted", "eu")]


async def test_an_evicted_region_still_serves_when_nobody_else_can() -> None:
    models = regional("eu-1", DOWN), regional("eu-2", DOWN), regional("eu-3"), regional("us-1", DOWN)
    routing = {"regions": ("eu", "us"), "region_eviction_ratio": 0.5}
    async with staged(*models, routing=routing, groups={"broken": ("eu-1", "eu-2")}) as stage:
        for number in range(6):
            stage.push(f"opener {number}", model="broken", cache="off")
            await stage.advance(0.01)
        assert stage.observer.regions == [("region_evicted", "eu")]
        assert await asked(stage, 5) == {"eu-3": 5}


async def test_every_process_leaves_the_region_and_one_tells_of_it() -> None:
    books = MemoryBooks()
    models = both(eu_1=DOWN, eu_2=DOWN)
    routing = {"regions": ("eu", "us"), **BRIEF}
    try:
        async with (
            staged(*models, routing=routing, books=books, name="one") as one,
            staged(*models, routing=routing, books=books, name="two") as two,
        ):
            await asked(one, 20)
            await two.advance(1)
            assert await asked(two, 20, label="of the other") == {"us-1": 20}
            assert calls(two, "eu-1") + calls(two, "eu-2") == 0
            assert one.observer.regions == [("region_evicted", "eu")]
            assert two.observer.regions == []
    finally:
        books.close()
