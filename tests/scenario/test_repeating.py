"""What is asked again and what is not: nothing blindly, nothing for ever, nothing while an endpoint is in trouble."""

from __future__ import annotations

import pytest

from tests.scenario.stage import Stage, model, staged
from theo_daemon.job import EntryRef
from theo_workers.upstreams.script import Fate

DOWN = Fate(error="provider_unavailable", status_code=503, message="down")
UNKNOWN = Fate(error="invalid_request", failure="model_unknown", status_code=404)
LIMITED = Fate(error="rate_limited", status_code=429, retry_after_s=20.0)
REFUSED = Fate(error="authentication_failed", status_code=401)
HELLO = Fate(text="hello")
FIRST = {"weight": 1e12}
MANY = {"circuit_breaker_threshold": 1_000, "circuit_breaker_failure_ratio": 0.0}


async def _pause(stage: Stage, name: str) -> None:
    """Its first fate is LIMITED."""
    stage.push("pause it", model=name, cache="off")
    await stage.advance(0.001)


@pytest.mark.parametrize(
    ("fate", "calls"), [(UNKNOWN, 1), (REFUSED, 1), (DOWN, 4)], ids=["unknown", "refused", "down"]
)
async def test_while_the_only_fresh_candidate_is_away_a_failed_one_is_asked_as_often_as_it_may_be(
    fate: Fate, calls: int
) -> None:
    b = model("b", LIMITED, HELLO)
    async with staged(model("a", fate, routing=FIRST), b, routing=MANY) as stage:
        await _pause(stage, "b")
        ref = stage.push("x")
        await stage.advance(19)
        assert (stage.end(ref), len(stage.upstreams["a"].prompts)) == ("waiting", calls)
        await stage.advance(10)
        assert (stage.end(ref), len(stage.upstreams["a"].prompts)) == ("ok", calls)


async def test_a_failed_candidate_that_recovers_answers_though_a_fresh_one_is_away_for_long() -> None:
    away = Fate(error="rate_limited", status_code=429, retry_after_s=100.0)
    async with staged(model("a", DOWN, HELLO, routing=FIRST), model("b", away)) as stage:
        await _pause(stage, "b")
        ref = stage.push("x")
        await stage.advance(1)
        assert stage.end(ref) == "ok"
        assert [one.model for one in stage.ok(ref).attempts] == ["a", "a"]


async def test_a_hostile_retry_after_ends_the_job_with_the_providers_own_error_at_once() -> None:
    hostile = Fate(error="rate_limited", status_code=429, retry_after_s=3_600.0)
    async with staged(model("m", hostile)) as stage:
        ref = stage.push()
        await stage.advance()
        error = stage.error(ref)
        assert (error.code, error.retry_after_ms) == ("rate_limited", 3_600_000)


async def test_a_hostile_retry_after_keeps_the_model_from_nobody_for_longer_than_two_minutes() -> None:
    hostile = Fate(error="rate_limited", status_code=429, retry_after_s=3_600.0)
    async with staged(model("m", hostile, HELLO), routing={"max_wait_s": 150.0}) as stage:
        stage.push("x")
        await stage.advance()
        ref = stage.push("y")
        await stage.advance(119)
        assert stage.end(ref) == "waiting"
        await stage.advance(2)
        assert stage.end(ref) == "ok"


async def _failing_jobs(stage: Stage, number: int) -> list[EntryRef]:
    refs = stage.push_all([f"{n}" for n in range(number)])
    await stage.advance(60)
    return refs


async def test_jobs_of_a_failing_endpoint_are_repeated_until_its_budget_is_spent_and_it_is_told_once() -> (
    None
):
    async with staged(model("m", DOWN, concurrency=100), routing=MANY) as stage:
        refs = await _failing_jobs(stage, 60)
        assert set(stage.ends(refs)) == {"provider_unavailable"}
        assert stage.calls == 60 + 35
        assert stage.observer.retries_spent == ["m"]


async def test_models_of_one_endpoint_share_its_budget_and_other_endpoints_have_their_own() -> None:
    one = {"base_url": "http://127.0.0.1:1/v1"}
    models = model("a", DOWN, **one), model("b", DOWN, **one), model("c", DOWN)
    async with staged(*models, routing=MANY) as stage:
        for name in "abc":
            stage.push_all([f"{name}{n}" for n in range(30)], model=name)
            await stage.advance(60)
        calls = {name: len(upstream.prompts) for name, upstream in stage.upstreams.items()}
        assert calls["a"] + calls["b"] == 60 + 35
        assert calls["c"] == 30 + 35


async def test_failover_goes_on_when_the_budget_is_spent() -> None:
    async with staged(model("a", DOWN, routing=FIRST), model("b", HELLO), routing=MANY) as stage:
        stage.push_all([f"x{n}" for n in range(20)], model="a")
        await stage.advance(60)
        assert stage.core.fleet["a"].retries.tokens < 14
        refs = stage.push_all([f"y{n}" for n in range(20)])
        await stage.advance()
        assert {(stage.end(ref), len(stage.ok(ref).attempts)) for ref in refs} == {("ok", 2)}


async def test_success_fills_it_again() -> None:
    async with staged(model("m", *[DOWN] * 60, HELLO), routing={**MANY, "max_attempts": 2}) as stage:
        stage.push_all([f"x{n}" for n in range(50)])
        await stage.advance(60)
        tokens = stage.core.fleet["m"].retries.tokens
        assert tokens < 500
        stage.push_all([f"y{n}" for n in range(600)])
        await stage.advance(60)
        assert stage.core.fleet["m"].retries.tokens == 500


async def test_a_budget_of_nought_counts_nothing() -> None:
    async with staged(model("m", DOWN, concurrency=100), routing={**MANY, "retry_budget": 0}) as stage:
        await _failing_jobs(stage, 60)
        assert stage.calls == 240


async def test_waiting_for_a_circuit_costs_no_tokens() -> None:
    m = model("m", *[DOWN] * 3, HELLO)
    async with staged(m, routing={"circuit_breaker_timeout_s": 20.0}) as stage:
        refs = stage.push_all([f"{n}" for n in range(50)])
        await stage.advance(40)
        assert set(stage.ends(refs)) == {"ok"}
        assert stage.core.fleet["m"].retries.tokens == 500


async def test_a_job_waits_its_longest_wait_again_while_its_model_answers_others_between_two_pauses() -> None:
    """Four pauses of five seconds, and an answer after each: it is not one outage of twenty seconds."""
    fates = [Fate(error="rate_limited", status_code=429, retry_after_s=5.0), HELLO] * 6
    m = model("m", *fates, concurrency=1)
    async with staged(m, routing={"max_wait_s": 8.0, "circuit_breaker_ramp_s": 0.0}) as stage:
        refs = stage.push_all([f"{n}" for n in range(4)])
        await stage.advance(60)
        assert set(stage.ends(refs)) == {"ok"}


async def test_who_takes_over_a_job_that_waits_has_the_candidates_that_its_lead_could_not_pay() -> None:
    dear = {"output_cost_per_mtok": 1_000.0, "max_output_tokens": 1_000}
    models = model("cheap", UNKNOWN, routing=FIRST), model("away", LIMITED), model("dear", HELLO, **dear)
    async with staged(*models) as stage:
        await _pause(stage, "away")
        first = stage.push("x", max_cost="0.1")
        second = stage.push("x")
        await stage.advance(1)
        assert stage.ends([first, second]) == ["waiting", "waiting"]
        stage.cancel(first.entry_id)
        await stage.advance(1)
        assert stage.ends([first, second]) == ["cancelled", "ok"]
        assert len(stage.upstreams["cheap"].prompts) == 1
