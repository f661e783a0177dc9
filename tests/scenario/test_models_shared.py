"""Processes that share books share what they know of models: circuits, probes, pauses, rates, health."""

from __future__ import annotations

from typing import Any

import pytest

from tests.scenario.company import DOWN, LIMITED, REFUSED, broken, events, fleet, reason, standing
from tests.scenario.stage import model, staged
from theo_workers.secret import Secret
from theo_workers.standing import Available
from theo_workers.upstreams.script import Fate


async def test_a_circuit_is_open_everywhere_within_300_ms_and_in_who_comes_later() -> None:
    async with fleet() as found:
        one, two = await found.start("a"), await found.start("b")
        await broken(found, one)
        calls = len(found.provider.calls)
        await found.clock.advance(0.3)
        assert reason(two) == "circuit_open"
        later = await found.start("c")
        assert reason(later) == "circuit_open"
        for stage in (one, two, later):
            stage.push("y")
        await found.clock.advance(20)
        assert len(found.provider.calls) == calls
        assert events(one, two, later) == ["circuit_opened"]


async def test_a_call_that_waits_for_a_slow_ledger_is_not_sent_once_the_circuit_is_known_to_be_open() -> None:
    lag_s = 0.0
    async with fleet(max_attempts=1, routing={"circuit_breaker_timeout_s": 15.0}) as found:
        one, two = await found.start("a"), await found.start("b", lag=lambda: lag_s)
        found.provider.fate, lag_s = DOWN, 1.0
        late = two.push("late")
        await found.clock.advance(0.1)
        one.push_all(["x", "y", "z"])
        await found.clock.advance(0.3)
        assert reason(two) == "circuit_open"
        calls = [("a", 0.1)] * 3
        assert found.provider.calls == calls
        await found.clock.advance(10)
        assert found.provider.calls == calls
        assert two.end(late) == "waiting"
        found.provider.fate, lag_s = Fate(text="hello"), 0.0
        await found.clock.advance(10)
        assert two.end(late) == "ok"


async def test_failures_in_a_row_open_the_circuit_though_no_process_met_three_of_them() -> None:
    async with fleet(max_attempts=1, routing={"circuit_breaker_timeout_s": 30.0}) as found:
        one, two, three = [await found.start(name) for name in "abc"]
        found.provider.fate = DOWN
        for stage in (one, two, three):
            assert not events(one, two, three)
            ref = stage.push("x")
            await stage.advance()
            assert stage.end(ref) == "provider_unavailable"
        assert reason(three) == "circuit_open"
        opened = found.clock.monotonic()
        await found.clock.advance(0.3)
        assert [reason(stage) for stage in (one, two, three)] == ["circuit_open"] * 3
        assert events(one, two, three) == ["circuit_opened"]
        found.provider.fate = Fate(text="hello")
        refs = [(stage, stage.push("y")) for stage in (one, two, three)]
        await found.clock.advance(opened + 29.9 - found.clock.monotonic())
        assert len(found.provider.calls) == 3
        await found.clock.advance(0.5)
        assert {stage.end(ref) for stage, ref in refs} == {"ok"}
        assert found.provider.calls[3][1] == pytest.approx(30.0, abs=0.2)


async def test_an_answer_that_another_process_got_ends_the_row_of_failures() -> None:
    async with fleet(max_attempts=1) as found:
        one, two = await found.start("a"), await found.start("b")
        for stage in (one, two, one):
            found.provider.fate = DOWN
            stage.push("x")
            await stage.advance()
            found.provider.fate = Fate(text="hello")
            await two.answer("y", cache="off")
        assert events(one, two) == []


async def test_one_process_probes_for_all_and_its_answer_opens_the_way_for_all() -> None:
    async with fleet() as found:
        stages = [await found.start(name) for name in "abc"]
        await broken(found, stages[0])
        calls = len(found.provider.calls)
        await found.clock.advance(50)
        found.provider.fate = Fate(text="hello", latency_ms=2_000)
        refs = [(stage, stage.push(f"{n}")) for stage in stages for n in range(4)]
        await found.clock.advance(11)
        assert len(found.provider.calls) == calls + 1, "the probe, which takes two seconds"
        await found.clock.advance(5)
        assert {stage.end(ref) for stage, ref in refs} == {"ok"}
        assert events(*stages) == ["circuit_closed", "circuit_half_open", "circuit_opened"]
        assert [standing(stage) for stage in stages] == [Available()] * 3


async def test_a_probe_that_fails_closes_the_door_for_all() -> None:
    async with fleet() as found:
        stages = [await found.start(name) for name in "abc"]
        await broken(found, stages[0])
        calls = len(found.provider.calls)
        await found.clock.advance(50)
        for stage in stages:
            stage.push("y")
        await found.clock.advance(20)
        assert len(found.provider.calls) == calls + 1
        assert [reason(stage) for stage in stages] == ["circuit_open"] * 3
        assert events(*stages) == ["circuit_half_open", "circuit_opened", "circuit_opened"]


async def test_a_probe_given_up_makes_room_for_another_processs() -> None:
    async with fleet() as found:
        one, two = await found.start("a"), await found.start("b")
        await broken(found, one)
        await found.clock.advance(59)
        found.provider.fate = Fate(hang=True)
        ref = one.push("y")
        await found.clock.advance(2)
        two.push("z")
        await found.clock.advance(1)
        prober = found.provider.calls[-1][0]
        calls = len(found.provider.calls)
        assert prober == "a"
        found.provider.fate = Fate(text="hello")
        one.cancel(ref.entry_id)
        await found.clock.advance(0.5)
        assert [name for name, _ in found.provider.calls[calls:]] == ["b"]
        assert reason(one) is reason(two) is None


async def test_a_pause_holds_for_all_and_is_told_once() -> None:
    async with fleet() as found:
        one, two = await found.start("a"), await found.start("b")
        found.provider.fate = LIMITED
        one.push("x")
        await found.clock.advance(0.3)
        assert [reason(one), reason(two)] == ["paused", "paused"]
        found.provider.fate = Fate(text="hello")
        ref = two.push("y")
        await found.clock.advance(19.5)
        assert two.end(ref) == "waiting"
        await found.clock.advance(0.5)
        assert two.end(ref) == "ok"
        assert events(one, two) == ["model_paused"]


async def test_a_refused_credential_is_refused_everywhere_until_it_is_another() -> None:
    async with fleet(api_key=Secret("old")) as found:
        one, two = await found.start("a"), await found.start("b")
        found.provider.fate = REFUSED
        one.push("x")
        await found.clock.advance(0.3)
        assert [reason(one), reason(two)] == ["disabled", "disabled"]
        assert events(one, two) == ["model_disabled"]
        found.provider.fate = Fate(text="hello")
        assert reason(await found.start("c")) == "disabled"
        other = await found.start("d", api_key=Secret("new"))
        await other.answer("y")
        assert reason(other) is None
        await found.clock.advance(1)
        assert reason(one) == "disabled"


async def test_an_operators_word_outlives_all_processes_and_old_commands_change_nothing() -> None:
    async with fleet() as found:
        one, two = await found.start("a"), await found.start("b")
        for stage in (one, two):  # every process reads every command
            stage.core.standings.order("disable", "fast", "100-0")
        await found.clock.advance(0.3)
        assert [reason(one), reason(two)] == ["disabled", "disabled"]
        await found.stop()
        three = await found.start("c")
        assert reason(three) == "disabled"
        three.core.standings.order("enable", "fast", "99-0")
        await found.clock.advance(0.3)
        assert reason(three) == "disabled"
        four = await found.start("d")
        three.core.standings.order("enable", "fast", "101-0")
        await found.clock.advance(0.3)
        assert [standing(three), standing(four)] == [Available()] * 2
        four.core.standings.order("disable", "fast", "100-0")  # it catches up with the past
        await found.clock.advance(0.3)
        assert [standing(three), standing(four)] == [Available()] * 2
        assert events(one, two, three, four) == ["model_disabled", "model_enabled"]


async def test_a_reset_forgets_failures_everywhere() -> None:
    async with fleet() as found:
        one, two = await found.start("a"), await found.start("b")
        await broken(found, one)
        await found.clock.advance(0.3)
        two.core.standings.order("reset", "fast", "100-0")
        await found.clock.advance(0.3)
        assert [standing(one), standing(two)] == [Available()] * 2
        assert events(one, two) == ["circuit_opened", "model_enabled"]


@pytest.mark.parametrize("names", ["a", "ab"])
async def test_no_minute_holds_more_calls_than_rpm_and_nobody_fails_for_it(names: str) -> None:
    async with fleet(rpm=10) as found:
        stages = [await found.start(name) for name in names]
        refs = [(stage, stage.push(f"{n}")) for n in range(24) for stage in [stages[n % len(stages)]]]
        await found.clock.advance(50)
        assert len(found.provider.calls) == 10
        assert events(*stages) == [], "using up a rate is no fault of the model's"
        await found.clock.advance(150)
        assert {stage.end(ref) for stage, ref in refs} == {"ok"}
        times = [at for _, at in found.provider.calls]
        assert len(times) == 24
        assert all(later - earlier > 60 for earlier, later in zip(times, times[10:], strict=False))
        assert times[-1] < 125, "and no longer than need be"


async def test_tokens_per_minute_are_shared_too() -> None:
    async with fleet(tpm=1_000) as found:
        one, two = await found.start("a"), await found.start("b")
        found.provider.fate = Fate(text="hello", prompt_tokens=100, completion_tokens=300)
        refs = [
            (stage, stage.push(f"{n}", params={"max_tokens": 300})) for n in range(3) for stage in (one, two)
        ]
        await found.clock.advance(50)
        assert len(found.provider.calls) == 3  # each was expected to use a little more than 300
        await found.clock.advance(100)
        assert {stage.end(ref) for stage, ref in refs} == {"ok"}


async def test_few_claims_are_wasted_on_a_rate_that_is_used_up() -> None:
    async with fleet(rpm=10) as found:
        stage = await found.start("a")
        asked = 0
        ask = stage.core.ledger.ask

        def counted(*args: Any, **options: Any) -> Any:
            nonlocal asked
            asked += 1
            return ask(*args, **options)

        stage.core.ledger.ask = counted  # type: ignore[method-assign]
        stage.push_all([f"{n}" for n in range(100)])
        await found.clock.advance(60 * 4)
        assert 40 <= len(found.provider.calls) <= 50
        assert asked < 100 + 2 * 64 + 10 * 5  # one look for each that waits, one herd at the start


async def test_health_is_kept_across_restarts_and_added_up() -> None:
    async with fleet() as found:
        one, two = await found.start("a"), await found.start("b")
        found.provider.fate = Fate(text="hello", latency_ms=100)
        await one.answer("x")
        await two.answer("y")
        await two.answer("z")
        await found.stop()
        three = await found.start("c")
        health = three.core.fleet["fast"].worker.health
        assert (health.total_successes, health.total_failures) == (3, 0)
        assert health.latency_ewma_ms == pytest.approx(100, abs=1)
        await three.answer("q")
        await found.clock.advance(5)
        assert three.rows("SELECT json_extract(health, '$.total_successes') FROM standings") == [(4,)]


async def test_what_processes_know_of_a_models_health_comes_together_within_seconds() -> None:
    async with fleet() as found:
        one, two, idle = [await found.start(name) for name in "abc"]
        found.provider.fate = Fate(text="hello", latency_ms=100)
        for number in range(5):
            await one.answer(f"a{number}")
        found.provider.fate = Fate(text="hello", latency_ms=900)
        await two.answer("b")
        await found.clock.advance(12)
        healths = [stage.core.fleet["fast"].worker.health.snapshot() for stage in (one, two, idle)]
        assert healths[0] == healths[1] == healths[2]
        assert healths[0].total_successes == 6
        assert (healths[0].latency_p50_ms, healths[0].latency_p99_ms) == (
            pytest.approx(100),
            pytest.approx(900),
        )
        found.provider.fate = DOWN
        two.push("x", on_unknown="fail", ttl_ms="900")
        await found.clock.advance(12)
        (first, *_) = [stage.core.fleet["fast"].worker.health for stage in (one, two, idle)]
        assert first.total_failures == first.consecutive_failures > 0


async def test_a_job_that_fails_over_to_a_rate_that_is_used_up_waits_for_it_longer_than_a_call_may_take() -> (
    None
):
    down = Fate(error="provider_unavailable", status_code=503)
    up = model("up", rpm=1, routing={"timeout_s": 20.0})
    async with staged(model("down", down, routing={"weight": 1e9}), up) as stage:
        first, second = stage.push("a"), stage.push("b")
        await stage.advance(50)
        assert stage.ends([first, second]).count("ok") == 1
        await stage.advance(15)
        assert stage.ends([first, second]) == ["ok", "ok"]
        assert stage.calls == 4
