"""Models that fail in part, and models that come back: in one process and in several."""

from __future__ import annotations

import pytest

from tests.scenario.company import LIMITED, broken, events, fleet
from tests.scenario.stage import Stage, model, staged
from theo_workers.health import HealthSnapshot
from theo_workers.upstreams.script import Fate

ANSWER = Fate(text="hello", latency_ms=100)
DOWN_FATE = Fate(error="provider_unavailable", status_code=503)
BROKEN = Fate(error="provider_unavailable", status_code=500, latency_ms=100)


def running(*stages: Stage) -> list[int]:
    return [len(stage.upstreams["fast"].running) for stage in stages]


async def test_a_circuit_opens_when_every_other_call_fails_though_never_three_in_a_row() -> None:
    m = model("m", ANSWER, BROKEN, script_end="cycle")
    async with staged(m, routing={"max_attempts": 1, "when_unavailable": "fail"}) as stage:
        ends = [await _end(stage, n) for n in range(25)]
        assert ends[:20] == ["ok", "provider_unavailable"] * 10
        assert set(ends[20:]) == {"no_model_available"}
        assert stage.observer.transitions == [("m", "circuit_opened")]


async def test_a_ratio_of_nought_leaves_failures_in_a_row_alone() -> None:
    m = model("m", ANSWER, BROKEN, script_end="cycle")
    async with staged(m, routing={"max_attempts": 1, "circuit_breaker_failure_ratio": 0.0}) as stage:
        assert [await _end(stage, n) for n in range(30)] == ["ok", "provider_unavailable"] * 15


async def _end(stage: Stage, number: int) -> str:
    ref = stage.push(f"{number}")
    await stage.advance(0.2)
    return stage.end(ref)


async def test_each_process_lets_its_own_share_back_in_after_one_good_probe() -> None:
    async with fleet(concurrency=8, routing={"max_attempts": 1}) as found:
        stages = [await found.start(name) for name in "ab"]
        await broken(found, stages[0])
        found.provider.fate = Fate(text="hello", latency_ms=1_000)
        await found.clock.advance(45)
        refs = [(stage, stage.push(f"{one} {n}")) for one, stage in enumerate(stages) for n in range(40)]
        while "circuit_half_open" not in events(*stages):
            await found.clock.advance(0.1)
        assert sorted(running(*stages)) == [0, 1]
        while "circuit_closed" not in events(*stages):
            await found.clock.advance(0.1)
        await found.clock.advance(0.4)
        seen = [running(*stages)]
        for seconds in (5, 5):
            await found.clock.advance(seconds)
            seen.append(running(*stages))
        assert seen == [[2, 2], [4, 4], [8, 8]]
        await found.clock.advance(8)
        assert {stage.end(ref) for stage, ref in refs} == {"ok"}


async def test_a_pause_ends_slowly_in_every_process() -> None:
    async with fleet(concurrency=8) as found:
        stages = [await found.start(name) for name in "ab"]
        found.provider.fate = LIMITED
        stages[0].push("x")
        await found.clock.advance(0.3)
        found.provider.fate = Fate(text="hello", latency_ms=1_000)
        for one, stage in enumerate(stages):
            stage.push_all([f"{one} {n}" for n in range(40)])
        await found.clock.advance(20.5)
        assert running(*stages) == [2, 2]
        await found.clock.advance(10)
        assert running(*stages) == [8, 8]


async def test_a_ramp_costs_no_job_its_answer_and_siblings_take_over_meanwhile() -> None:
    slow = Fate(text="hello", latency_ms=1_000)
    a = model("a", *[DOWN_FATE] * 3, slow, routing={"weight": 1e9}, concurrency=8)
    async with staged(a, model("b", slow, concurrency=100), routing={"max_attempts": 1}) as stage:
        stage.push_all([f"opener {n}" for n in range(3)])
        await stage.advance(60)
        refs = [stage.push("probe")]
        await stage.advance(1.1)
        refs += stage.push_all([f"{n}" for n in range(20)])
        await stage.advance(0.1)
        assert len(stage.upstreams["a"].running) == 2
        assert len(stage.upstreams["b"].running) == 18
        await stage.advance(2)
        assert set(stage.ends(refs)) == {"ok"}


async def test_a_flaky_model_is_kept_where_its_breaker_knows_it() -> None:
    """One call in five fails, as it always did: plain settings take it out again and again."""
    fates = [DOWN_FATE, ANSWER, ANSWER, ANSWER, DOWN_FATE, DOWN_FATE, DOWN_FATE] + [ANSWER] * 13
    opened = {}
    for adaptive in (False, "history"):
        m = model("m", *fates, script_end="cycle")
        routing = {"circuit_breaker_adaptive": adaptive, "max_attempts": 1}
        async with staged(m, routing=routing) as stage:
            member = stage.core.fleet["m"]
            if adaptive:
                member.worker.remember(HealthSnapshot(total_successes=800, total_failures=200))
            for n in range(200):
                stage.push(f"{n}")
                await stage.advance(0.2)
            opened[adaptive] = sum(event == "circuit_opened" for _, event in stage.observer.transitions)
    assert opened == {False: pytest.approx(1, abs=1), "history": 0}
    assert opened[False]


async def test_concurrency_finds_what_the_provider_bears() -> None:
    """A provider that refuses whatever is above six calls at a time."""
    m = model("m", ANSWER, concurrency=40)
    async with staged(m, routing={"adaptive_concurrency": True, "max_attempts": 50}) as stage:
        upstream, refused, most = stage.upstreams["m"], 0, []

        def fate(_: str) -> Fate:
            nonlocal refused
            if len(upstream.running) <= 6:
                return ANSWER
            refused += 1
            return Fate(error="rate_limited", status_code=429, retry_after_s=0.2)

        upstream.fate_for = fate
        refs = stage.push_all([f"{n}" for n in range(1_500)])
        for _ in range(1_000):
            await stage.advance(0.1)
            most.append(len(upstream.running))
        assert set(stage.ends(refs)) == {"ok"}
        assert refused < 400
        assert max(most[50:]) <= 8
