"""A model that takes less than half of its calls: the others get them, and no job is worse off for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.scenario.stage import Stage, model, staged
from theo_workers.upstreams.script import Fate

ON = {"circuit_breaker_adaptive": "throttle"}
NO_CIRCUIT = {"circuit_breaker_threshold": 1_000, "circuit_breaker_failure_ratio": 0.0}
FIRST = {"weight": 1e12}  # is chosen before all others while it is free
DOWN = Fate(error="provider_unavailable", status_code=503, latency_ms=10)
WELL = Fate(text="x", latency_ms=10)
THIRD = [DOWN, DOWN, WELL]  # takes one call in three


async def pushed(stage: Stage, count: int, *, every_s: float = 0.5, **fields: Any) -> list[str]:
    """How jobs ended that came one after another."""
    refs = []
    for number in range(count):
        refs.append(stage.push(f"{stage.now_ms} {number}", **fields))
        await stage.advance(every_s)
    await stage.advance(5)
    return stage.ends(refs)


def flaky(name: str = "flaky", *fates: Fate, **routing: Any) -> Any:
    return model(name, *(fates or THIRD), script_end="cycle", routing={**FIRST, **routing})


@pytest.mark.parametrize(
    ("routing", "least", "most"),
    [({}, 200, 200), (ON, 20, 130), ({"circuit_breaker_adaptive": "history"}, 200, 200)],
)
async def test_a_model_that_takes_a_third_of_its_calls_gets_fewer(
    routing: Mapping[str, Any], least: int, most: int
) -> None:
    if routing.get("circuit_breaker_adaptive") == "history":
        routing = {**routing, "circuit_breaker_threshold": 1_000_000}
    async with staged(flaky(), model("well", WELL), routing={**NO_CIRCUIT, **routing}) as stage:
        assert set(await pushed(stage, 200)) == {"ok"}
        assert least <= len(stage.upstreams["flaky"].prompts) <= most
        throttle = stage.core.fleet["flaky"].breaker.throttle
        if throttle is None:
            assert stage.observer.transitions == []
            return
        assert throttle.passed_over == 200 - len(stage.upstreams["flaky"].prompts)
        assert stage.observer.transitions == [("flaky", "model_throttled")]


async def test_what_is_passed_over_is_no_attempt_no_failure_and_opens_no_circuit() -> None:
    async with staged(flaky("flaky", DOWN), model("well", WELL), routing={**NO_CIRCUIT, **ON}) as stage:
        await pushed(stage, 30)
        calls = len(stage.upstreams["flaky"].prompts)
        assert calls < 15
        member = stage.core.fleet["flaky"]
        assert member.worker.health.total_failures == calls
        assert len([one for one in stage.observer.attempts if one.attempt.model == "flaky"]) == calls
        assert ("flaky", "circuit_opened") not in stage.observer.transitions


async def test_nobody_is_kept_from_the_only_model_that_is_free() -> None:
    async with staged(flaky(), routing={**NO_CIRCUIT, **ON, "max_attempts": 1}) as stage:
        ends = await pushed(stage, 30)
        assert len(stage.upstreams["flaky"].prompts) == 30
        assert ends.count("ok") == 10


def distrusted(stage: Stage, name: str) -> None:
    """It took none of its last hundred calls."""
    throttle = stage.core.fleet[name].breaker.throttle
    assert throttle is not None
    for _ in range(100):
        throttle.ended(accepted=False, now=stage.clock.monotonic())


async def test_while_the_others_are_full_a_throttled_model_takes_what_it_gets() -> None:
    busy = model("busy", Fate(text="x", latency_ms=60_000), concurrency=1)
    async with staged(flaky("m", WELL), busy, routing=ON) as stage:
        stage.push("occupies it", model="busy")
        await stage.advance(0.1)
        distrusted(stage, "m")
        assert set(await pushed(stage, 20)) == {"ok"}
        assert len(stage.upstreams["m"].prompts) == 20


async def test_while_the_others_are_out_a_throttled_model_takes_what_it_gets() -> None:
    gone = model("gone", DOWN, script_end="cycle", routing={"circuit_breaker_threshold": 1})
    async with staged(flaky("m", WELL), gone, routing=ON) as stage:
        stage.push("opens it", model="gone")
        await stage.advance(1)
        distrusted(stage, "m")
        assert set(await pushed(stage, 20)) == {"ok"}
        assert len(stage.upstreams["m"].prompts) == 20


async def test_a_probe_is_never_passed_over_and_the_closing_is_a_new_beginning() -> None:
    async with staged(
        flaky("m"), model("well", WELL), routing={**ON, "circuit_breaker_ramp_s": 0.0}
    ) as stage:
        stage.upstreams["m"].fate_for = lambda _: DOWN if stage.clock.monotonic() < until else WELL
        until = stage.clock.monotonic() + 30
        assert set(await pushed(stage, 240)) == {"ok"}
        assert ("m", "circuit_opened") in stage.observer.transitions
        assert stage.observer.transitions[-1] == ("m", "circuit_closed")
        calls = len(stage.upstreams["m"].prompts)
        assert set(await pushed(stage, 20)) == {"ok"}
        assert len(stage.upstreams["m"].prompts) == calls + 20, "it has all its calls at once"


async def test_with_every_circuit_open_jobs_are_parked_as_ever() -> None:
    routing = {**ON, "circuit_breaker_timeout_s": 5.0, "circuit_breaker_failure_ratio": 0.0}
    async with staged(flaky("a"), flaky("b"), routing=routing) as stage:
        until = stage.clock.monotonic() + 4
        for name in "ab":
            stage.upstreams[name].fate_for = lambda _: DOWN if stage.clock.monotonic() < until else WELL
        stage.push_all([f"opener {number}" for number in range(6)])
        await stage.advance(3)
        opened = [model for model, event in stage.observer.transitions if event == "circuit_opened"]
        assert sorted(opened) == ["a", "b"]
        ref = stage.push("waits")
        await stage.advance(0.5)
        assert stage.end(ref) == "waiting"
        await stage.advance(10)
        assert stage.end(ref) == "ok"


async def test_a_refusal_by_429_counts_as_one_to_the_throttle_and_as_none_to_the_breaker() -> None:
    limited = Fate(error="rate_limited", status_code=429, retry_after_s=0.1)
    async with staged(
        flaky("limited", limited, limited, limited, WELL), model("well", WELL), routing=ON
    ) as stage:
        assert set(await pushed(stage, 60)) == {"ok"}
        assert len(stage.upstreams["limited"].prompts) < 45
        assert stage.core.fleet["limited"].worker.health.total_failures == 0
        assert ("limited", "circuit_opened") not in stage.observer.transitions


async def test_requests_that_are_wrong_in_themselves_throttle_nobody() -> None:
    refused = Fate(error="invalid_request", status_code=400)
    async with staged(flaky("m", refused), model("well", WELL), routing=ON) as stage:
        assert set(await pushed(stage, 20)) == {"invalid_request"}
        assert len(stage.upstreams["m"].prompts) == 20


async def test_fallbacks_in_order_pass_a_throttled_one_over_and_never_the_last() -> None:
    too_long = Fate(error="context_length_exceeded", status_code=400)
    fallbacks = {"small": ("flaky", "well")}
    async with staged(
        model("small", too_long, script_end="cycle"), flaky("flaky", DOWN), model("well", WELL),
        routing={**NO_CIRCUIT, **ON, "context_window_fallbacks": fallbacks},
    ) as stage:  # fmt: skip
        assert set(await pushed(stage, 40, model="small")) == {"ok"}
        assert 1 <= len(stage.upstreams["flaky"].prompts) < 20
        assert len(stage.upstreams["well"].prompts) == 40


async def test_with_both_parts_the_breaker_has_both() -> None:
    async with staged(model("m", WELL), routing={"circuit_breaker_adaptive": True}) as stage:
        breaker = stage.core.fleet["m"].breaker
        assert breaker.drift is not None
        assert breaker.throttle is not None
