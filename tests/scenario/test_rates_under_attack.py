"""Calls and tokens per minute, kept by several processes together: bursts, edges of the window, corrections, deaths.

The provider is the judge: it knows when each call began, and looks at every sixty seconds that begin with one.
"""

from __future__ import annotations

import random

import pytest

from tests.fakes import MemoryLedger
from tests.scenario.company import DOWN, Fleet, fleet
from tests.scenario.stage import Stage
from theo_workers.upstreams.script import Fate

RPM = 10


def most_in_a_minute(found: Fleet) -> int:
    times = [at for _, at in found.provider.calls]
    return max((sum(start <= at < start + 60 for at in times) for start in times), default=0)


async def poured(found: Fleet, stages: list[Stage], gaps_s: list[float]) -> list[tuple[Stage, object]]:
    """One job after each of these gaps, by turns."""
    refs: list[tuple[Stage, object]] = []
    for number, gap_s in enumerate(gaps_s):
        await found.clock.advance(gap_s)
        stage = stages[number % len(stages)]
        refs.append((stage, stage.push(f"{number}")))
    return refs


@pytest.mark.parametrize(
    "gaps_s",
    [
        [0.0] * 40,
        [0.0] * RPM + [59.9] + [0.0] * 20,
        [59.9] + [0.0] * 9 + [0.2] + [0.0] * 9 + [59.8] + [0.0] * 9,
        [0.999] * 40,
        [6.0] * 30,
        [*([0.0] * 5 + [30.0]) * 5],
    ],
    ids=[
        "all at once",
        "twice at an edge",
        "astride the minute",
        "steady, too fast",
        "just fitting",
        "half and half",
    ],
)
async def test_no_minute_has_more_calls_than_allowed_and_every_job_is_answered(gaps_s: list[float]) -> None:
    async with fleet(rpm=RPM) as found:
        stages = [await found.start(name) for name in "ab"]
        refs = await poured(found, stages, gaps_s)
        await found.clock.advance(61 * (len(gaps_s) / RPM + 1))
        assert {stage.end(ref) for stage, ref in refs} == {"ok"}  # type: ignore[arg-type]
        assert most_in_a_minute(found) <= RPM
        assert len(found.provider.calls) == len(gaps_s)


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_the_traffic_no_minute_is_overdrawn_and_what_there_is_is_used(seed: int) -> None:
    rng = random.Random(seed)
    async with fleet(rpm=RPM) as found:
        stages = [await found.start(name) for name in "abc"]
        gaps_s = [rng.choice([0.0, 0.0, 0.0, 0.3, 7.0, 20.0]) for _ in range(60)]
        began = found.clock.monotonic()
        refs = await poured(found, stages, gaps_s)
        while any(stage.end(ref) == "waiting" for stage, ref in refs):  # type: ignore[arg-type]
            await found.clock.advance(1)
        took_s = found.clock.monotonic() - began
        assert most_in_a_minute(found) <= RPM
        assert took_s <= max(sum(gaps_s), 61 * len(gaps_s) / RPM) + 62


async def test_a_call_that_fails_counts_for_the_rate_as_it_does_at_the_provider() -> None:
    async with fleet(rpm=4, routing={"max_attempts": 1, "circuit_breaker_threshold": 100}) as found:
        stages = [await found.start(name) for name in "ab"]
        found.provider.fate = DOWN
        await poured(found, stages, [0.0] * 8)
        await found.clock.advance(59)
        assert len(found.provider.calls) == 4


async def test_tokens_that_turn_out_dearer_than_thought_are_made_up_for_before_the_next_call() -> None:
    async with fleet(tpm=1_000) as found:
        one, two = await found.start("a"), await found.start("b")
        found.provider.fate = Fate(text="hello", prompt_tokens=900, completion_tokens=100)
        one.push("x", params={"max_tokens": 100})  # expected to be a little more than 100
        await found.clock.advance(1)
        ref = two.push("y", params={"max_tokens": 100})
        await found.clock.advance(58)
        assert (two.end(ref), len(found.provider.calls)) == ("waiting", 1)
        await found.clock.advance(4)
        assert two.end(ref) == "ok"


async def test_tokens_that_were_not_used_are_there_for_another_process_at_once() -> None:
    async with fleet(tpm=1_000) as found:
        one, two = await found.start("a"), await found.start("b")
        found.provider.fate = Fate(text="hello", prompt_tokens=5, completion_tokens=5)
        one.push("x", params={"max_tokens": 900})
        await found.clock.advance(1)
        ref = two.push("y", params={"max_tokens": 900})
        await found.clock.advance(0.5)
        assert two.end(ref) == "ok"


async def test_what_a_dead_process_took_stays_taken_for_its_minute() -> None:
    async with fleet(rpm=4) as found:
        one, two = await found.start("a"), await found.start("b")
        found.provider.fate = Fate(hang=True)
        one.push_all([f"{n}" for n in range(4)])
        await found.clock.advance(1)
        assert isinstance(one.ledger, MemoryLedger)
        one.ledger.kill()
        found.provider.fate = Fate(text="hello")
        ref = two.push("y")
        await found.clock.advance(58)
        assert two.end(ref) == "waiting"
        await found.clock.advance(4)
        assert two.end(ref) == "ok"
        assert most_in_a_minute(found) <= 4


async def test_a_rate_outlives_a_restart_of_the_fleet() -> None:
    async with fleet(rpm=4) as found:
        one = await found.start("a")
        one.push_all([f"{n}" for n in range(4)])
        await found.clock.advance(1)
        await found.stop()
        two = await found.start("b")
        ref = two.push("y")
        await found.clock.advance(58)
        assert two.end(ref) == "waiting"
        await found.clock.advance(4)
        assert two.end(ref) == "ok"


async def test_a_job_that_is_cancelled_while_it_waits_for_the_rate_takes_nothing_of_it() -> None:
    async with fleet(rpm=2) as found:
        one, two = await found.start("a"), await found.start("b")
        one.push_all(["1", "2"])
        await found.clock.advance(1)
        given_up = [one.push(f"given up {n}") for n in range(5)]
        await found.clock.advance(1)
        for ref in given_up:
            one.cancel(ref.entry_id)
        kept = [two.push(f"kept {n}") for n in range(2)]
        await found.clock.advance(61)
        assert two.ends(kept) == ["ok", "ok"]
        assert one.ends(given_up) == ["cancelled"] * 5
