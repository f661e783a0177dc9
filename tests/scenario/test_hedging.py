"""Slow calls and their rivals: who may have one, which answer counts, and what both cost."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any
from unittest import mock

import pytest

from tests.fakes import MemoryBooks, MemoryLedger
from tests.scenario.stage import Stage, model, staged
from theo_daemon.job import EntryRef
from theo_daemon.ledger.records import Landing
from theo_workers.breaker import Closed
from theo_workers.upstreams.script import Fate

FIRST = {"weight": 1e12}  # is chosen before all others while it is free
AFTER_1_S = {"hedge_after_ms": 1_000.0}
DOLLARS: dict[str, Any] = {"output_cost_per_mtok": 1000.0, "max_output_tokens": 1000}  # a call may cost one
SLOW, QUICK = Fate(text="slow", latency_ms=5_000), Fate(text="quick", latency_ms=500)
DOWN = Fate(error="provider_unavailable", status_code=503, latency_ms=2_000)


def answer(text: str, latency_ms: float) -> Fate:
    """Billed at half a dollar by models that cost DOLLARS."""
    return Fate(text=text, latency_ms=latency_ms, completion_tokens=500)


@contextlib.asynccontextmanager
async def racing(
    main: Fate, other: Fate, *, routing: dict[str, Any] | None = None, allowed: int = 1, **options: Any
) -> AsyncIterator[Stage]:
    """`main` is asked first and `other` is its rival; enough calls were made for `allowed` rivals."""
    models = [model("main", routing=FIRST, **options), model("other", **options)]
    async with staged(
        *models, routing={"circuit_breaker_threshold": 50, **AFTER_1_S, **(routing or {})}
    ) as stage:
        await saved_up(stage, allowed)
        stage.upstreams["main"].fate_for = lambda _: main
        stage.upstreams["other"].fate_for = lambda _: other
        for upstream in stage.upstreams.values():
            upstream.prompts.clear()
        yield stage


async def saved_up(stage: Stage, rivals: int) -> None:
    for number in range(20 * rivals):
        stage.push(f"quick one {number}", cache="off")
        await stage.advance(0.001)


def told(stage: Stage, ref: EntryRef) -> list[tuple[str, str, float]]:
    return [(one.model, str(one.outcome), one.cost) for one in stage.outcome(ref).attempts]


def asked(stage: Stage) -> list[int]:
    return [len(stage.upstreams[name].prompts) for name in ("main", "other")]


async def test_no_call_has_a_rival_unless_it_is_asked_for() -> None:
    async with racing(SLOW, QUICK, routing={"hedge_after_ms": None}) as stage:
        ref = stage.push()
        await stage.advance(6)
        assert (stage.ok(ref).answer.output, asked(stage)) == ("slow", [1, 0])


async def test_a_slow_call_s_rival_answers_and_the_slow_one_is_closed_and_told() -> None:
    async with racing(SLOW, QUICK) as stage:
        ref = stage.push()
        await stage.advance(0.9)
        assert asked(stage) == [1, 0]
        await stage.advance(0.7)
        assert stage.ok(ref).answer.output == "quick"
        assert told(stage, ref) == [("main", "cancelled", 0.0), ("other", "ok", 0.0)]
        assert stage.upstreams["main"].closed == ["hi"]
        assert stage.core.fleet["main"].breaker.state == Closed()
        assert stage.core.fleet["main"].worker.running == 0


async def test_a_call_that_answers_before_its_rival_wins_the_race() -> None:
    async with racing(Fate(text="slow", latency_ms=1_200), QUICK) as stage:
        ref = stage.push()
        await stage.advance(2)
        assert told(stage, ref) == [("other", "cancelled", 0.0), ("main", "ok", 0.0)]
        assert stage.upstreams["other"].closed == ["hi"]


async def test_calls_that_cost_something_have_rivals_only_up_to_the_price_that_is_allowed() -> None:
    for most, rivals in ((None, 0), (0.99, 0), (1.0, 1)):
        async with racing(SLOW, QUICK, routing={"hedge_max_cost": most}, **DOLLARS) as stage:
            stage.push(cache="off")
            await stage.advance(6)
            assert asked(stage) == [1, rivals]


async def test_both_calls_are_held_and_the_one_that_is_closed_is_charged_at_its_bound() -> None:
    async with racing(
        answer("slow", 5_000), answer("quick", 500), routing={"hedge_max_cost": 1.0}, **DOLLARS
    ) as stage:
        (before,) = stage.rows("SELECT sum(spent_nano), sum(held_nano) FROM spend")
        ref = stage.push()
        await stage.advance(1.1)
        assert stage.rows("SELECT sum(held_nano) FROM spend") == [(2_000_000_000,)]
        await stage.advance(1)
        assert stage.ok(ref).cost_nano == 1_500_000_000
        assert told(stage, ref) == [("main", "cancelled", 1.0), ("other", "ok", 0.5)]
        await stage.advance(1)
        assert stage.rows("SELECT sum(spent_nano), sum(held_nano) FROM spend") == [
            (before[0] + 1_500_000_000, 0)
        ]


async def test_at_most_one_call_in_twenty_has_a_rival() -> None:
    async with racing(Fate(text="slow", latency_ms=1_500), QUICK, allowed=0) as stage:
        for number in range(400):
            stage.push(f"q{number}", cache="off")
            await stage.advance(2)
        assert asked(stage) == [400, 20]


async def test_after_a_quiet_time_no_more_than_a_few_rivals_are_sent_at_once() -> None:
    async with racing(SLOW, QUICK, allowed=50, concurrency=100) as stage:
        stage.push_all([f"q{n}" for n in range(60)])
        await stage.advance(1.2)
        assert asked(stage)[1] <= 13  # ten saved up, and one for each twenty of these


async def test_a_job_s_own_ceiling_holds_over_both_calls() -> None:
    async with racing(SLOW, QUICK, routing={"hedge_max_cost": 1.0}, allowed=2, **DOLLARS) as stage:
        stage.push("poor", max_cost="1.9")
        await stage.advance(6)
        assert asked(stage) == [1, 0]
        stage.push("rich", max_cost="2")
        await stage.advance(6)
        assert asked(stage) == [2, 1]


async def test_a_rival_that_its_budget_does_not_allow_is_not_sent_and_the_call_goes_on() -> None:
    priced = {**DOLLARS, "routing": {"spend_ceiling": 0.5}}
    models = [model("main", SLOW, routing=FIRST), model("other", QUICK, **priced)]
    async with staged(*models, routing={**AFTER_1_S, "hedge_max_cost": 1.0}) as stage:
        stage.upstreams["main"].fate_for = lambda prompt: SLOW if prompt == "hi" else Fate(text="x")
        await saved_up(stage, 1)
        ref = stage.push()
        await stage.advance(6)
        assert told(stage, ref) == [("main", "ok", 0.0)]
        assert stage.upstreams["other"].prompts == []
        assert stage.rows("SELECT count(*) FROM inflight") == [(0,)]


@pytest.mark.parametrize(
    "fields", [{"stream": "1"}, {"on_unknown": "fail"}], ids=["streamed", "not to be sent twice"]
)
async def test_some_jobs_never_have_a_rival(fields: dict[str, str]) -> None:
    async with racing(SLOW, QUICK) as stage:
        stage.push(**fields)
        await stage.advance(6)
        assert asked(stage) == [1, 0]


async def test_a_rival_that_fails_leaves_the_call_as_it_is() -> None:
    async with racing(SLOW, DOWN) as stage:
        ref = stage.push()
        await stage.advance(6)
        assert told(stage, ref) == [("other", "failed", 0.0), ("main", "ok", 0.0)]


async def test_a_call_that_fails_leaves_the_job_to_its_rival_without_a_third() -> None:
    async with racing(DOWN, Fate(text="slow rival", latency_ms=3_000)) as stage:
        ref = stage.push()
        await stage.advance(5)
        assert told(stage, ref) == [("main", "failed", 0.0), ("other", "ok", 0.0)]
        assert asked(stage) == [1, 1]


async def test_when_both_fail_what_follows_is_as_after_any_two_failures() -> None:
    async with racing(DOWN, DOWN, routing={"max_attempts": 2}) as stage:
        ref = stage.push()
        await stage.advance(8)
        assert stage.end(ref) == "provider_unavailable"
        assert told(stage, ref) == [("main", "failed", 0.0), ("other", "failed", 0.0)]


async def test_a_refused_request_ends_the_race() -> None:
    refused = Fate(error="invalid_request", status_code=400, latency_ms=1_200)
    async with racing(refused, SLOW) as stage:
        ref = stage.push()
        await stage.advance(2)
        assert stage.end(ref) == "invalid_request"
        assert stage.upstreams["other"].closed == ["hi"]


async def test_a_job_that_is_cancelled_closes_and_pays_for_both_calls() -> None:
    async with racing(SLOW, SLOW, routing={"hedge_max_cost": 1.0}, **DOLLARS) as stage:
        ref = stage.push(id="mine")
        await stage.advance(2)
        stage.cancel("mine")
        await stage.advance(1)
        assert stage.end(ref) == "cancelled"
        assert sorted(told(stage, ref)) == [("main", "cancelled", 1.0), ("other", "cancelled", 1.0)]
        assert [stage.upstreams[name].closed for name in ("main", "other")] == [["hi"], ["hi"]]
        await stage.advance(1)
        assert stage.rows("SELECT sum(held_nano) FROM spend") == [(0,)]


@pytest.mark.parametrize("ends_after_ms", range(600, 1_100, 50))
@pytest.mark.parametrize("how", ["answered", "cancelled"])
async def test_a_rival_given_up_while_its_claim_is_on_its_way_is_void_before_the_job_is_told_its_cost(
    ends_after_ms: int, how: str
) -> None:
    """Commits take 0.2 s to be made and 0.2 s to be told, so the rival is asked for at 1.0 and granted at 1.4."""
    main = answer("main", ends_after_ms if how == "answered" else 5_000)
    async with racing(main, answer("rival", 9_000), routing={"hedge_max_cost": 1.0}, **DOLLARS) as stage:
        await stage.advance(1)
        stage.ledger._writer._lag = lambda: 0.2  # type: ignore[attr-defined]
        ref = stage.push(cache="off")
        await stage.advance(0.4 + ends_after_ms / 1_000)
        if how == "cancelled":
            stage.cancel(ref.entry_id)
        for _ in range(30):
            await stage.advance(0.05)
            charged = stage.rows(f"SELECT sum(cost_nano) FROM attempts WHERE entry_id = '{ref.entry_id}'")
            still_open = stage.rows("SELECT count(*) FROM attempts WHERE state = 'sent'")
            if stage.end(ref) != "waiting":
                assert (charged, still_open) == ([(stage.outcome(ref).cost_nano,)], [(0,)])
        assert stage.end(ref) == ("ok" if how == "answered" else "cancelled")
        assert stage.rows("SELECT sum(held_nano) FROM spend") == [(0,)]
        sent = stage.rows(
            f"SELECT count(*) FROM attempts WHERE state <> 'void' AND entry_id = '{ref.entry_id}'"
        )
        assert sent == [(sum(asked(stage)),)]


async def test_a_rival_that_is_granted_when_the_job_may_be_another_process_s_is_not_sent() -> None:
    async with racing(answer("main", 3_000), QUICK, routing={"hedge_max_cost": 1.0}, **DOLLARS) as stage:
        await stage.advance(1)
        ref = stage.push(cache="off")
        await stage.advance(0.9)
        stage.ledger._writer._lag = lambda: 0.2  # type: ignore[attr-defined]
        stage.replies.kept_until = stage.clock.monotonic() + 0.2  # while the rival's claim is on its way
        await stage.advance(4)
        assert told(stage, ref) == [("main", "ok", 0.5)]
        assert asked(stage) == [1, 0]
        assert stage.rows("SELECT state FROM attempts ORDER BY id DESC LIMIT 1") == [("void",)]
        assert stage.rows("SELECT sum(held_nano) FROM spend") == [(0,)]


async def test_the_end_of_a_job_goes_on_record_after_the_void_of_its_rival() -> None:
    async with racing(Fate(text="main", latency_ms=900), QUICK) as stage:
        await stage.advance(1)
        writer, batches = stage.ledger._writer, []  # type: ignore[attr-defined, var-annotated]
        writer._lag = lambda: 0.2
        commit = writer._commit_batch

        def watched(*args: Any) -> None:
            batches.append([one for one, _, _ in args[-1] if isinstance(one, Landing)])
            commit(*args)

        with mock.patch.object(writer, "_commit_batch", watched):
            stage.push()
            await stage.advance(5)
        voids = [
            number for number, batch in enumerate(batches) if any(_state(one) == "void" for one in batch)
        ]
        ends = [number for number, batch in enumerate(batches) if any(one.ends for one in batch)]
        assert (len(voids), len(ends)) == (1, 1)
        assert voids < ends


def _state(landing: Landing) -> str | None:
    return None if landing.settled is None else landing.settled.state


async def test_a_half_open_circuit_s_probe_is_never_a_rival() -> None:
    models = [model("main", SLOW, routing=FIRST), model("other", DOWN)]
    routing = {**AFTER_1_S, "circuit_breaker_timeout_s": 5.0, "max_attempts": 1}
    async with staged(*models, routing=routing) as stage:
        stage.upstreams["main"].fate_for = lambda prompt: SLOW if prompt == "hi" else Fate(text="x")
        await saved_up(stage, 1)
        for number in range(3):
            stage.push(f"opener {number}", model="other")
        await stage.advance(10)
        stage.upstreams["other"].prompts.clear()
        stage.push()
        await stage.advance(6)
        assert stage.upstreams["other"].prompts == []


async def test_a_process_that_dies_with_both_calls_out_has_died_over_the_job_once() -> None:
    books = MemoryBooks()
    models = [model("main", SLOW, routing=FIRST), model("other", SLOW)]
    ingress = {"max_deliveries": 2}
    try:
        async with staged(*models, routing=AFTER_1_S, ingress=ingress, books=books, name="dead") as stage:
            stage.upstreams["main"].fate_for = lambda prompt: SLOW if prompt == "hi" else Fate(text="x")
            await saved_up(stage, 1)
            delivery = stage.entry()
            stage.dispatcher.deliver([delivery])
            await stage.advance(2)
            assert [stage.upstreams[name].running for name in ("main", "other")] == [["hi"], ["hi"]]
            assert isinstance(stage.ledger, MemoryLedger)
            stage.ledger.kill()
        async with staged(*models, ingress=ingress, books=books, name="heir") as heir:
            await heir.advance(2)
            heir.dispatcher.deliver([delivery._replace(redelivered=True)])
            await heir.advance(10)
            outcome = heir.outcome(delivery.ref)
            assert [one.outcome for one in outcome.attempts] == ["unknown", "unknown", "ok"]
    finally:
        books.close()
