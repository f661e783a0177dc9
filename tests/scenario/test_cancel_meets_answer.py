"""A job that ends early in the very moment in which its call ends: the books say what the provider did."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.fakes import MemoryBooks, VirtualClock
from tests.scenario.stage import Stage, WatchedUpstream, model, staged
from tests.scenario.test_hedging import DOLLARS, answer, racing
from theo_workers.messages import Completion
from theo_workers.upstreams.script import Fate

TAKES_S = 2.0
TURNS = range(10)  # of the loop, from the one in which the provider's last byte is there
PRICED = {"output_cost_per_mtok": 1000.0, "input_cost_per_mtok": 0.0, "max_output_tokens": 1000}
ANSWER = Fate(text="slow", latency_ms=TAKES_S * 1000)
FAILURE = Fate(error="provider_unavailable", status_code=500, latency_ms=TAKES_S * 1000)
ALONE: Mapping[str, Any] = {}
RACING: Mapping[str, Any] = {"hedge_after_ms": 2_500 * TAKES_S}


def cancel_in(stage: Stage, turns: int, name: str) -> None:
    after_the_end(stage.upstreams["m"], turns, lambda: stage.cancel(name))


def after_the_end(upstream: WatchedUpstream, turns: int, act: Callable[[], object]) -> None:
    """Do it so many turns of the loop after the provider has told the end of a call."""
    waits: list[asyncio.Task[None]] = []

    async def wait() -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        act()

    generate = upstream.generate

    async def generate_and_tell(*args: Any, **options: Any) -> Completion:
        try:
            return await generate(*args, **options)
        finally:
            waits.append(asyncio.ensure_future(wait()))

    upstream.generate = generate_and_tell  # type: ignore[method-assign]


async def how_it_ends(turns: int, routing: Mapping[str, Any]) -> tuple[str, bool]:
    """The job's end, and whether the provider was cut off."""
    async with staged(model("m", ANSWER, **PRICED), routing=routing) as stage:
        ref = stage.push("x")
        cancel_in(stage, turns, ref.entry_id)
        await stage.advance(TAKES_S + 0.5)
        again = stage.push("x")
        await stage.advance(TAKES_S + 0.5)
        cut_off = bool(stage.upstreams["m"].closed)
        assert stage.end(again) == "ok"
        assert stage.calls == (2 if cut_off else 1)
        told = sum(stage.outcome(one).cost_nano for one in (ref, again))
        ((booked,),) = stage.rows("SELECT sum(cost_nano) FROM attempts")
        assert told == booked
        if not cut_off:
            assert booked == stage.ok(again).answer.usage.completion_tokens * 1_000_000
        return stage.end(ref), cut_off


@pytest.mark.parametrize("routing", [ALONE, RACING], ids=["alone", "racing"])
async def test_an_answer_that_is_here_when_its_job_is_cancelled_is_billed_exactly_and_kept_for_the_next(
    routing: Mapping[str, Any],
) -> None:
    ends = {await how_it_ends(turns, routing) for turns in TURNS}
    assert {("cancelled", False), ("ok", False)} <= ends


async def test_so_is_the_answer_of_a_rival() -> None:
    ends = set()
    for turns in TURNS:
        slow, quick = answer("slow", 5_000), answer("quick", 500)
        async with racing(slow, quick, routing={"hedge_max_cost": 1.0}, **DOLLARS) as stage:
            ref = stage.push("x")
            other = stage.upstreams["other"]
            generate = other.generate
            after_the_end(other, turns, lambda stage=stage, ref=ref: stage.cancel(ref.entry_id))
            await stage.advance(1.7)
            other.generate = generate  # type: ignore[method-assign]
            assert not other.closed
            calls = stage.calls
            again = stage.push("x")
            await stage.advance(6)
            ends.add((stage.end(ref), stage.end(again), stage.calls - calls))
    assert ends == {("cancelled", "ok", 0), ("ok", "ok", 0)}


async def test_a_failure_that_costs_nothing_costs_a_cancelled_job_nothing() -> None:
    ends = set()
    for turns in TURNS:
        async with staged(model("m", FAILURE, **PRICED), routing={"max_attempts": 1}) as stage:
            ref = stage.push("x")
            cancel_in(stage, turns, ref.entry_id)
            await stage.advance(TAKES_S + 0.5)
            assert stage.error(ref).cost_nano == 0 or stage.upstreams["m"].closed
            ends.add((stage.end(ref), bool(stage.upstreams["m"].closed)))
    assert {("cancelled", False), ("provider_unavailable", False)} <= ends


@pytest.mark.parametrize("cache", ["use", "off"])
async def test_an_answer_that_is_here_when_its_process_cuts_its_calls_off_costs_what_it_cost_and_is_kept(
    cache: str,
) -> None:
    cut_off = 0
    for turns in TURNS:
        books, clock = MemoryBooks(), VirtualClock()
        options: Any = {"books": books, "clock": clock}
        async with (
            staged(model("m", ANSWER, **PRICED), name="old", **options) as old,
            staged(model("m", ANSWER, **PRICED), name="new", **options) as new,
        ):
            job = old.entry("x", cache=cache)
            old.dispatcher.deliver([job])
            stops: list[asyncio.Future[None]] = []
            stop = old.dispatcher.stop
            after_the_end(
                old.upstreams["m"],
                turns,
                lambda stop=stop, stops=stops: stops.append(asyncio.ensure_future(stop())),
            )
            await old.advance(TAKES_S + 0.5)
            assert not old.upstreams["m"].closed
            if old.final(job.ref) is not None:
                continue
            new.dispatcher.deliver([job._replace(redelivered=True)])
            await new.advance(TAKES_S + 0.5)
            told = new.ok(job.ref)
            cut_off += "cancelled" in [one.outcome for one in told.attempts]
            if cache == "use":
                assert new.calls == 0
            ((booked,),) = books.rows("SELECT sum(cost_nano) FROM attempts")
            assert booked == (1 + new.calls) * 1_000_000
            assert round(sum(one.cost for one in told.attempts) * 1e9) == booked
        books.close()
    assert cut_off
