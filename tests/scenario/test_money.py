"""What jobs may cost: their own ceilings, those of models, lost calls, and bills that nobody could foresee."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.fakes import MemoryBooks, MemoryLedger
from tests.scenario.stage import Stage, model, staged
from theo_daemon.config import ModelConfig
from theo_daemon.job import Answered, EntryRef, Failed, JobOutcome
from theo_daemon.ledger.records import CallLost, CeilingReached
from theo_daemon.repricing import keep_prices
from theo_daemon.spend_window import parse_window
from theo_workers.prices import Price, flat
from theo_workers.upstreams.script import Fate

DOLLAR = 1_000_000_000
HELLO = Fate(text="hello", completion_tokens=500)
DOWN = Fate(error="provider_unavailable", status_code=503)
LOST = Fate(error="provider_timeout")  # charged at the bound
HANGS = Fate(hang=True)
FIRST = {"weight": 1e9}  # chosen before any other that can be


def dollar(name: str, *fates: Fate, **options: object) -> ModelConfig:
    """A model whose calls are bounded at one dollar."""
    return model(name, *fates, output_cost_per_mtok=1000.0, max_output_tokens=1000, **options)  # type: ignore[arg-type]


def cent(name: str, *fates: Fate, **options: object) -> ModelConfig:
    return model(name, *fates, output_cost_per_mtok=10.0, max_output_tokens=1000, **options)  # type: ignore[arg-type]


def bill(outcome: JobOutcome) -> list[tuple[str, str, float]]:
    return [(one.model, one.outcome, one.cost) for one in outcome.attempts]


# -- a job's own ceiling ---------------------------------------------------------------------------------


async def test_candidates_that_fit_a_job_s_own_ceiling_are_asked_and_others_are_not() -> None:
    async with staged(dollar("dear", HELLO, routing=FIRST), cent("cheap", HELLO)) as stage:
        answered = await stage.answer(max_cost="0.5")
        assert isinstance(answered, Answered)
        assert answered.answer.model == "cheap"
        assert (await stage.answer("again", max_cost="1")).attempts[0].model == "dear"


async def test_a_job_that_fits_nowhere_says_what_a_call_may_cost_and_what_it_may() -> None:
    async with staged(dollar("dear", HELLO)) as stage:
        refused = await stage.answer(max_cost="0.999")
        assert isinstance(refused, Failed)
        assert (refused.code, refused.retryable, refused.retry_after_ms) == ("budget_exceeded", False, None)
        assert refused.message == "a call of dear may cost 1 USD and max_cost is 0.999 USD"
        assert stage.calls == 0


async def test_a_job_that_may_cost_nothing_gets_what_is_free_or_on_record() -> None:
    free = model("free", HELLO, input_cost_per_mtok=0.0, output_cost_per_mtok=0.0, max_output_tokens=1000)
    async with staged(dollar("dear", HELLO, routing=FIRST), free) as stage:
        refused = await stage.answer(max_cost="0", model="dear")
        assert isinstance(refused, Failed)
        assert refused.code == "budget_exceeded"
        answered = await stage.answer("free of charge", max_cost="0")
        assert bill(answered) == [("free", "ok", 0.0)]
        await stage.answer(model="dear")
        again = await stage.answer(max_cost="0", model="dear")
        assert isinstance(again, Answered)
        assert again.cache_hit


async def test_an_answer_that_nothing_caps_is_capped_under_a_job_s_own_ceiling_and_only_there() -> None:
    async with staged(model("endless", HELLO, output_cost_per_mtok=1000.0)) as stage:
        refused = await stage.answer(max_cost="4.09")
        assert isinstance(refused, Failed)
        assert refused.message == "a call of endless may cost 4.096 USD and max_cost is 4.09 USD"
        assert (await stage.answer(max_cost="4.1", cache="off")).cost_nano == DOLLAR // 2
        await stage.answer(max_cost="4.1", cache="off", params={"max_tokens": 900, "seed": 1})
        await stage.answer(cache="off", params={"seed": 1})
        asked = [dict(params) for params in stage.upstreams["endless"].params]
        assert asked == [{"max_tokens": 4096}, {"max_tokens": 900, "seed": 1}, {"seed": 1}]


async def test_a_small_window_keeps_half_of_itself_for_the_prompt() -> None:
    small = model("small", HELLO, output_cost_per_mtok=1000.0, context_window=6000)
    async with staged(small) as stage:
        assert isinstance(await stage.answer(max_cost="3"), Answered)
        assert [dict(params) for params in stage.upstreams["small"].params] == [{"max_tokens": 3000}]


async def test_a_model_s_ceiling_caps_what_nothing_else_caps() -> None:
    endless = model("endless", HELLO, output_cost_per_mtok=1000.0, routing={"spend_ceiling": 20.0})
    async with staged(endless) as stage:
        assert isinstance(await stage.answer("one"), Answered)
        assert isinstance(await stage.answer("two", params={"max_tokens": 900}), Answered)
        asked = [dict(params) for params in stage.upstreams["endless"].params]
        assert asked == [{"max_tokens": 4096}, {"max_tokens": 900}]


async def test_a_price_that_nobody_knows_is_refused_under_a_job_s_own_ceiling() -> None:
    async with staged(model("endless", HELLO, output_cost_per_mtok=1000.0)) as stage:
        stage.core.fleet.reprice("endless", None)
        refused = await stage.answer(max_cost="1000")
        assert isinstance(refused, Failed)
        assert refused.code == "budget_exceeded"
        assert "unknown" in refused.message
        assert (await stage.answer()).cost_nano == 0


async def test_a_job_s_own_ceiling_holds_over_all_its_attempts() -> None:
    async with staged(dollar("first", LOST, routing=FIRST), dollar("second", HELLO)) as stage:
        failed = await stage.answer(max_cost="1.9", within_s=60)
        assert isinstance(failed, Failed)
        assert (failed.code, failed.cost_nano) == ("provider_timeout", DOLLAR)
        assert stage.upstreams["second"].prompts == []
        answered = await stage.answer("again", max_cost="2", within_s=60)
        assert bill(answered) == [("first", "maybe", 1.0), ("second", "ok", 0.5)]


async def test_an_answer_on_record_is_served_whatever_a_call_may_cost() -> None:
    async with staged(dollar("dear", HELLO)) as stage:
        await stage.answer()
        again = await stage.answer(max_cost="0.01")
        assert isinstance(again, Answered)
        assert (again.cache_hit, again.cost_nano) == (True, 0)


async def test_one_job_s_own_ceiling_is_not_that_of_those_who_wait_with_it() -> None:
    async with staged(dollar("dear", HELLO)) as stage:
        poor, rich = stage.push(max_cost="0.01"), stage.push()
        await stage.advance(1)
        assert stage.ends([poor, rich]) == ["budget_exceeded", "ok"]


async def test_a_job_that_takes_over_a_place_in_the_line_keeps_to_its_own_ceiling() -> None:
    async with staged(dollar("dear", Fate(text="x", latency_ms=500), concurrency=1)) as stage:
        stage.push("busy")
        rich, poor = stage.push(id="rich"), stage.push(max_cost="0.01")
        await stage.advance(0.1)
        stage.cancel("rich")
        await stage.advance(2)
        assert stage.ends([rich, poor]) == ["cancelled", "budget_exceeded"]
        assert stage.upstreams["dear"].prompts == ["busy"]
        assert stage.rows("SELECT sum(held_nano) FROM spend") == [(0,)]


# -- ceilings of models ----------------------------------------------------------------------------------


async def test_a_model_whose_budget_is_spent_leaves_its_jobs_to_the_others() -> None:
    spent = dollar("spent", HELLO, routing={**FIRST, "spend_ceiling": 1.4})
    async with staged(spent, cent("other", HELLO, concurrency=1)) as stage:
        refs = stage.push_all(["a", "b", "c"])
        await stage.advance(5)
        assert stage.ends(refs) == ["ok"] * 3
        assert len(stage.upstreams["spent"].prompts) == 1
        assert [type(one) for one in stage.observer.news] == [CeilingReached]


async def test_when_every_budget_is_spent_the_first_to_reset_is_named() -> None:
    total = dollar("total", routing={"spend_ceiling": 0.5})
    daily = dollar("daily", routing={"spend_ceiling": 0.5, "spend_window": parse_window("1d")})
    async with staged(total, daily) as stage:
        refused = await stage.answer()
        assert isinstance(refused, Failed)
        assert (refused.code, refused.retryable) == ("budget_exceeded", True)
        assert refused.message == (
            "the budget of model daily has spent 0 of 0.5 USD; this call may cost 1 USD; "
            "it resets at 2023-11-15 00:00:00 UTC"
        )
        assert 0 < (refused.retry_after_ms or 0) <= 86_400_000


async def test_a_failed_model_is_tried_again_when_there_is_no_money_for_another() -> None:
    flaky = dollar("flaky", DOWN, HELLO, routing=FIRST)
    async with staged(flaky, dollar("spent", routing={"spend_ceiling": 0.0})) as stage:
        answered = await stage.answer(within_s=20)
        assert bill(answered) == [("flaky", "failed", 0.0), ("flaky", "ok", 0.5)]


async def test_the_failure_of_the_last_candidate_is_told_not_the_empty_budget_of_another() -> None:
    down = dollar("down", DOWN, routing=FIRST)
    ceiling = dollar("spent", routing={"spend_ceiling": 0.0})
    async with staged(down, ceiling, routing={"max_attempts": 1}) as stage:
        failed = await stage.answer(within_s=20)
        assert isinstance(failed, Failed)
        assert (failed.code, failed.status_code) == ("provider_unavailable", 503)


# -- lost calls ------------------------------------------------------------------------------------------


async def crash_of(books: MemoryBooks, *fates: Fate, **fields: Any) -> EntryRef:
    """A process that dies over a job after these fates; the job's entry."""
    async with staged(dollar("dear", *fates), books=books, name="victim") as stage:
        delivery = stage.entry(**fields)
        stage.dispatcher.deliver([delivery])
        await stage.advance(30)
        assert stage.end(delivery.ref) == "waiting"
        assert isinstance(stage.ledger, MemoryLedger)
        stage.ledger.kill()
    return delivery.ref


async def retried(stage: Stage, ref: EntryRef, **fields: Any) -> JobOutcome:
    await stage.advance(2)  # the death is noticed
    stage.dispatcher.deliver([stage.entry(redelivered=True, **fields)._replace(ref=ref)])
    await stage.advance(30)
    return stage.outcome(ref)


@pytest.fixture
def books() -> MemoryBooks:
    return MemoryBooks()


async def test_a_lost_call_is_in_the_reply_of_the_run_that_follows_and_told_once(books: MemoryBooks) -> None:
    ref = await crash_of(books, DOWN, HANGS)
    async with (
        staged(dollar("dear", HELLO), books=books, name="heir") as heir,
        staged(dollar("dear", HELLO), books=books, name="bystander") as bystander,
    ):
        await bystander.advance(2)
        answered = await retried(heir, ref)
        assert isinstance(answered, Answered)
        assert bill(answered) == [("dear", "failed", 0.0), ("dear", "unknown", 1.0), ("dear", "ok", 0.5)]
        assert answered.cost_nano == DOLLAR * 3 // 2
        news = [*heir.observer.news, *bystander.observer.news]
        assert [one.ref for one in news if isinstance(one, CallLost)] == [ref]
        assert heir.rows("SELECT sum(spent_nano), sum(held_nano) FROM spend") == [(DOLLAR * 3 // 2, 0)]


async def test_calls_after_one_that_may_have_been_billed_are_told_as_resent(books: MemoryBooks) -> None:
    async with staged(
        dollar("a", LOST, routing=FIRST), dollar("b", DOWN, routing={"weight": 1e5}), dollar("c", HELLO)
    ) as stage:
        assert isinstance(await stage.answer(within_s=30), Answered)
        told = [(one.attempt.model, one.resent) for one in stage.observer.attempts]
        assert told == [("a", False), ("b", True), ("c", True)]
    ref = await crash_of(books, DOWN, HANGS)
    async with staged(dollar("dear", HELLO), books=books, name="heir") as heir:
        await retried(heir, ref)
        (record,) = heir.observer.attempts
        assert (record.resent, record.cost_nano) == (True, DOLLAR // 2)


async def test_a_lost_call_that_must_not_be_repeated_is_charged_in_the_error(books: MemoryBooks) -> None:
    ref = await crash_of(books, HANGS, on_unknown="fail")
    async with staged(dollar("dear", HELLO), books=books, name="heir") as stage:
        failed = await retried(stage, ref, on_unknown="fail")
        assert isinstance(failed, Failed)
        assert (failed.code, failed.cost_nano) == ("outcome_unknown", DOLLAR)
        assert bill(failed) == [("dear", "unknown", 1.0)]
        assert stage.calls == 0


async def test_a_job_given_up_after_too_many_deaths_is_charged_for_all_of_them(books: MemoryBooks) -> None:
    ref = await crash_of(books, HANGS)
    async with staged(dollar("dear", HELLO), books=books, ingress={"max_deliveries": 1}) as stage:
        failed = await retried(stage, ref)
        assert isinstance(failed, Failed)
        assert (failed.code, failed.cost_nano) == ("delivery_limit_exceeded", DOLLAR)
        assert stage.observer.dead == [(ref, "delivery_limit_exceeded")]
        assert bill(failed) == [("dear", "unknown", 1.0)]


async def test_a_lost_call_counts_against_a_job_s_own_ceiling(books: MemoryBooks) -> None:
    ref = await crash_of(books, HANGS, max_cost="1.5")
    async with staged(dollar("dear", HELLO), books=books, name="heir") as stage:
        failed = await retried(stage, ref, max_cost="1.5")
        assert isinstance(failed, Failed)
        assert (failed.code, failed.cost_nano, stage.calls) == ("budget_exceeded", DOLLAR, 0)
        assert failed.message == (
            "a call of dear may cost 1 USD and max_cost is 1.5 USD, of which 1 is spent"
        )


# -- bills ----------------------------------------------------------------------------------------------


async def test_a_bill_beyond_the_bound_is_booked_and_stops_the_model_until_it_is_reset() -> None:
    greedy = dollar("greedy", Fate(text="x", completion_tokens=1001), HELLO)
    async with staged(greedy, routing={"when_unavailable": "fail"}) as stage:
        first = await stage.answer("a")
        assert (type(first), first.cost_nano) == (Answered, 1_001_000_000)
        assert stage.rows("SELECT spent_nano, held_nano FROM spend") == [(1_001_000_000, 0)]
        assert stage.observer.violations == ["greedy"]
        assert stage.observer.transitions == [("greedy", "model_disabled")]
        refused = await stage.answer("b")
        assert isinstance(refused, Failed)
        assert refused.code == "no_model_available"
        stage.core.fleet["greedy"].worker.reset()
        assert isinstance(await stage.answer("c"), Answered)


async def test_a_bill_of_exactly_the_bound_is_none_of_its_kind() -> None:
    async with staged(dollar("full", Fate(text="x", completion_tokens=1000))) as stage:
        assert (await stage.answer()).cost_nano == DOLLAR
        assert stage.observer.violations == []


async def test_a_price_that_ends_is_looked_up_again_and_calls_under_way_keep_theirs() -> None:
    async with staged(dollar("dear", Fate(text="x", completion_tokens=500, latency_ms=2_000))) as stage:
        began, fleet = stage.clock.wall(), stage.core.fleet
        asked: list[float] = []

        async def look_up(config: ModelConfig) -> Price:
            asked.append(stage.clock.wall() - began)
            dearer = flat(0, 2_000 * DOLLAR)
            return Price(rates=dearer.rates, until=began + 60 if len(asked) < 2 else None)

        cheap = flat(0, 1_000 * DOLLAR)
        fleet.reprice("dear", Price(rates=cheap.rates, until=began + 11))
        keeping = asyncio.ensure_future(keep_prices(fleet, look_up, stage.clock))
        await stage.advance(10)
        early = stage.push("early")
        await stage.advance(5)
        assert stage.outcome(early).cost_nano == DOLLAR // 2
        assert (await stage.answer("late", within_s=3)).cost_nano == DOLLAR
        await stage.advance(100)
        assert asked == [11, 60]
        assert keeping.done()
