"""The right to probe: one for the whole fleet, whatever becomes of who has it, of its clock or of the machine's."""

from __future__ import annotations

import itertools

import pytest

from tests.fakes import MemoryLedger
from tests.scenario.company import DOWN, LIMITED, Fleet, broken, events, fleet, reason, standing
from tests.scenario.stage import Stage
from theo_workers.standing import Available
from theo_workers.upstreams.script import Fate

HELLO = Fate(text="hello")
LEASE_S = 125.0  # timeout_s and a little


def kill(stage: Stage) -> None:
    """Nothing that it does from here on has any effect."""
    assert isinstance(stage.ledger, MemoryLedger)
    stage.ledger.kill()


def stall(stage: Stage, seconds: float) -> None:
    """What it says from now on arrives so much later."""
    assert isinstance(stage.ledger, MemoryLedger)
    stage.ledger._writer._lag = lambda: seconds


async def probing(found: Fleet, *, hangs: bool) -> list[Stage]:
    """Three processes with waiting jobs, the first of which has its probe out."""
    stages = [await found.start(name) for name in "abc"]
    await broken(found, stages[0])
    await found.clock.advance(59)
    found.provider.fate = Fate(hang=True) if hangs else HELLO
    stages[0].push("probe", on_unknown="fail")
    await found.clock.advance(2)
    assert found.provider.calls[-1][0] == "a"
    assert events(*stages) == ["circuit_half_open", "circuit_opened"]
    return stages


async def test_when_the_prober_is_killed_another_one_probes_within_seconds() -> None:
    async with fleet() as found:
        stages = await probing(found, hangs=True)
        calls = len(found.provider.calls)
        found.provider.fate = Fate(text="hello", latency_ms=500)
        kill(stages[0])
        refs = [(stage, stage.push(f"{number}")) for number, stage in enumerate(stages[1:])]
        await found.clock.advance(4)
        assert {stage.end(ref) for stage, ref in refs} == {"ok"}
        first, second = found.provider.calls[calls:]
        assert second[1] >= first[1] + 0.5, "one probe, and when it had shown something the other call"
        assert [standing(stage) for stage in stages[1:]] == [Available()] * 2


async def test_a_prober_that_stalls_keeps_the_right_for_its_lease_and_no_longer() -> None:
    async with fleet() as found:
        stages = await probing(found, hangs=True)
        calls = len(found.provider.calls)
        stall(stages[0], 1_000.0)
        found.provider.fate = HELLO
        for number in range(40):  # jobs come all the time, and give up after the longest wait
            for stage in stages[1:]:
                stage.push(f"{stage.ledger!r} {number}")
            await found.clock.advance(5)
            if len(found.provider.calls) > calls:
                break
        name, at = found.provider.calls[calls]
        assert name in "bc"
        assert 60 + LEASE_S <= at <= 60 + LEASE_S + 6
        assert [standing(stage) for stage in stages[1:]] == [Available()] * 2
        await found.clock.advance(2_000)  # what the stalled one had to say arrives: its probe timed out
        assert [standing(stage) for stage in stages] == [Available()] * 3
        assert events(*stages).count("circuit_opened") == 1, "late evidence is none"


@pytest.mark.parametrize("seconds", [-3_600.0, 3_600.0], ids=["back", "on"])
async def test_a_clock_that_is_set_closes_no_model_for_longer_and_sends_no_second_probe(
    seconds: float,
) -> None:
    async with fleet() as found:
        stages = [await found.start(name) for name in "ab"]
        await broken(found, stages[0])
        calls = len(found.provider.calls)
        await found.clock.advance(20)
        found.clock._wall_offset += seconds
        found.provider.fate = Fate(text="hello", latency_ms=2_000)
        await found.clock.advance(20)
        refs = [(stage, stage.push(f"{number} {n}")) for number, stage in enumerate(stages) for n in range(3)]
        await found.clock.advance(18)
        assert len(found.provider.calls) == calls, "each goes on by its own clock"
        await found.clock.advance(3)
        assert len(found.provider.calls) == calls + 1
        await found.clock.advance(6)
        assert {stage.end(ref) for stage, ref in refs} == {"ok"}


async def test_a_process_that_starts_after_the_clock_was_set_back_is_not_kept_out_for_an_hour() -> None:
    async with fleet() as found:
        one = await found.start("a")
        await broken(found, one)
        found.clock._wall_offset -= 3_600
        late = await found.start("b")
        found.provider.fate = HELLO
        ref = late.push("y")
        await found.clock.advance(1)
        assert late.end(ref) == "ok"
        await found.clock.advance(1)
        assert reason(one) is None


async def test_a_pause_outlives_no_clock_that_is_set_back() -> None:
    async with fleet() as found:
        one, two = await found.start("a"), await found.start("b")
        found.provider.fate = LIMITED
        one.push("x")
        await found.clock.advance(1)
        assert [reason(one), reason(two)] == ["paused", "paused"]
        found.clock._wall_offset -= 3_600
        found.provider.fate = HELLO
        await found.clock.advance(20)
        ref = two.push("y")
        await found.clock.advance(1)
        assert two.end(ref) == "ok"


async def test_over_many_openings_three_processes_send_one_probe_each_time() -> None:
    async with fleet(routing={"max_attempts": 1, "circuit_breaker_timeout_s": 5.0}) as found:
        stages = [await found.start(name) for name in "abc"]
        await broken(found, stages[0])
        await found.clock.advance(0.3)
        before = len(found.provider.calls)
        found.provider.fate = DOWN
        for number in range(600):
            for name, stage in zip("abc", stages, strict=True):
                stage.push(f"{name}{number}", ttl_ms="20000")
            await found.clock.advance(1)
        probes = found.provider.calls[before:]
        assert events(*stages).count("circuit_half_open") == len(probes)
        assert events(*stages).count("circuit_opened") == len(probes) + 1
        gaps = [later[1] - earlier[1] for earlier, later in itertools.pairwise(probes)]
        assert min(gaps) >= 5 * 2 * 0.8
        assert min(gaps[3:]) >= 5 * 8 * 0.8, "after some failed probes the openings are as long as they get"
        assert len(probes) >= 600 / (5 * 8 * 1.2 + 2)
