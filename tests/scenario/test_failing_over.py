"""Which model answers, and what happens when models fail."""

from __future__ import annotations

from collections import Counter
from typing import Any
from unittest import mock

import pytest

from tests.fakes import MemoryLedger
from tests.scenario.stage import Stage, model, staged
from theo_workers.errors import InvalidRequest
from theo_workers.failures import FailureClass
from theo_workers.upstreams.script import Fate

DOWN = Fate(error="provider_unavailable", status_code=503, message="down")
HELLO = Fate(text="hello", prompt_tokens=5, completion_tokens=2)
FIRST = {"weight": 1e12}  # is chosen before all others while it is free


def told(stage: Stage, ref: object) -> list[tuple[str, str, str | None]]:
    outcome = stage.outcome(ref)  # type: ignore[arg-type]
    return [(one.model, str(one.outcome), one.error_code) for one in outcome.attempts]


async def test_a_failing_model_s_job_is_answered_by_the_next_and_both_attempts_are_told() -> None:
    async with staged(model("down", DOWN, routing=FIRST), model("up", HELLO)) as stage:
        ref = stage.push()
        await stage.advance(0.01)
        answered = stage.ok(ref)
        assert [(one.model, one.outcome, one.status_code, one.error_code) for one in answered.attempts] == [
            ("down", "failed", 503, "provider_unavailable"),
            ("up", "ok", 200, None),
        ]
        assert (answered.answer.model, answered.answer.output) == ("up", "hello")


async def test_failover_does_not_wait_for_anything() -> None:
    async with staged(model("down", DOWN, routing=FIRST), model("up", HELLO)) as stage:
        ref = stage.push()
        await stage.advance()
        final = stage.final(ref)
        assert final is not None
        assert final.at == stage.clock.monotonic()


async def test_a_failure_and_the_next_claim_are_one_commit() -> None:
    async with staged(model("down", DOWN, routing=FIRST), model("up", HELLO)) as stage:
        batches: list[list[str]] = []
        assert isinstance(stage.ledger, MemoryLedger)
        writer = stage.ledger._writer
        commit = writer._commit_batch

        def watched(*args: Any) -> None:
            batches.append([type(operation).__name__ for operation, _, _ in args[-1]])
            commit(*args)

        with mock.patch.object(writer, "_commit_batch", watched):
            ref = stage.push()
            await stage.advance()
        assert stage.end(ref) == "ok"
        assert batches == [["Ask"], ["FailureCounted", "Landing", "Ask"], ["Landing"]]


@pytest.mark.parametrize("fates", [(DOWN, HELLO), (DOWN, DOWN, DOWN, HELLO)], ids=["backoff", "parked"])
async def test_a_failure_is_on_the_books_while_its_job_waits(fates: tuple[Fate, ...]) -> None:
    async with staged(model("m", *fates)) as stage:
        ref = stage.push()
        while stage.calls < len(fates) - 1:
            await stage.advance(0.001)
        await stage.advance()
        assert stage.end(ref) == "waiting"
        assert stage.rows("SELECT state FROM attempts") == [("failed",)] * (len(fates) - 1)


async def test_every_candidate_is_tried_even_beyond_max_attempts() -> None:
    models = [model(f"m{n}", DOWN) for n in range(5)]
    async with staged(
        *models, model("up", HELLO, routing={"weight": 0.0}), routing={"max_attempts": 2}
    ) as stage:
        ref = stage.push()
        await stage.advance(1)
        attempts = told(stage, ref)
        assert {name for name, _, _ in attempts[:5]} == {f"m{n}" for n in range(5)}
        assert attempts[5] == ("up", "ok", None)


@pytest.mark.parametrize(("max_attempts", "calls_of_a"), [(1, 1), (2, 2), (3, 3)])
async def test_while_the_others_are_out_a_model_is_called_again_only_as_often_as_attempts_are_left(
    max_attempts: int, calls_of_a: int
) -> None:
    """Each of these calls may have been billed, and one more of the same model is what `max_attempts` is there for."""
    resets = Fate(error="provider_unavailable", failure=FailureClass.MAYBE)
    async with staged(
        model("a", resets, routing={"circuit_breaker_threshold": 9}),
        model("b", DOWN, HELLO, routing={"circuit_breaker_threshold": 1, "circuit_breaker_timeout_s": 20.0}),
        routing={"max_attempts": max_attempts},
    ) as stage:
        stage.push("opens the circuit of b", model="b")
        await stage.advance(1)
        ref = stage.push()
        await stage.advance(18)
        assert (stage.end(ref), len(stage.upstreams["a"].prompts)) == ("waiting", calls_of_a)
        await stage.advance(2)
        assert told(stage, ref) == [*[("a", "maybe", "provider_unavailable")] * calls_of_a, ("b", "ok", None)]


async def test_the_last_candidate_s_error_is_the_reply_with_all_attempts() -> None:
    busy = Fate(error="provider_unavailable", status_code=500, message="other trouble")
    async with staged(
        model("a", DOWN, routing=FIRST), model("b", busy), routing={"max_attempts": 2}
    ) as stage:
        error = stage.error(await _pushed(stage, 1))
        assert (error.code, error.status_code, error.provider) == ("provider_unavailable", 500, "scripted")
        assert error.message == "HTTP 500: other trouble (retryable: True, provider: scripted)"
        assert [one.model for one in error.attempts] == ["a", "b"]
        assert error.cost_nano == 0


async def _pushed(stage: Stage, seconds: float) -> object:
    ref = stage.push()
    await stage.advance(seconds)
    return ref


async def test_a_lone_model_is_tried_again_until_it_answers() -> None:
    async with staged(model("flaky", DOWN, DOWN, HELLO)) as stage:
        ref = stage.push()
        await stage.advance(10)
        assert told(stage, ref) == [
            ("flaky", "failed", "provider_unavailable"),
            ("flaky", "failed", "provider_unavailable"),
            ("flaky", "ok", None),
        ]


async def test_with_one_attempt_the_first_error_is_final_at_once() -> None:
    limited = Fate(error="rate_limited", status_code=429, retry_after_s=20.0)
    async with staged(model("m", limited), routing={"max_attempts": 1}) as stage:
        ref = stage.push()
        await stage.advance()
        error = stage.error(ref)
        assert (error.code, error.retry_after_ms) == ("rate_limited", 20_000)


async def test_a_refused_request_is_not_tried_elsewhere() -> None:
    refused = Fate(error="invalid_request", status_code=400)
    async with staged(model("a", refused, routing=FIRST), model("b", HELLO)) as stage:
        ref = stage.push()
        await stage.advance(1)
        assert told(stage, ref) == [("a", "failed", "invalid_request")]
        assert stage.end(ref) == "invalid_request"


async def test_a_rate_limited_model_is_asked_again_after_the_time_it_named() -> None:
    limited = Fate(error="rate_limited", status_code=429, retry_after_s=7.0)
    async with staged(model("m", limited, HELLO)) as stage:
        ref = stage.push()
        await stage.advance(6.5)
        assert stage.end(ref) == "waiting"
        await stage.advance(2)
        assert stage.end(ref) == "ok"


async def test_a_useless_credential_takes_the_model_out_until_an_operator_acts() -> None:
    refused = Fate(error="authentication_failed", status_code=401)
    async with staged(model("a", refused, routing=FIRST), model("b", HELLO)) as stage:
        first = stage.push("1")
        await stage.advance(1)
        assert [name for name, _, _ in told(stage, first)] == ["a", "b"]
        second = stage.push("2")
        await stage.advance(3600)
        assert [name for name, _, _ in told(stage, second)] == ["b"]
        assert len(stage.upstreams["a"].prompts) == 1
        stage.core.fleet["a"].worker.reset()
        stage.push("3")
        await stage.advance(1)
        assert len(stage.upstreams["a"].prompts) == 2


# -- no model available ----------------------------------------------------------------------------------


async def _opened(stage: Stage) -> None:
    """The circuit of the lone model is open."""
    for number in range(3):
        stage.push(f"opener {number}", cache="off")
        await stage.advance(0.001)


async def test_a_job_is_parked_until_the_circuit_lets_a_probe_through() -> None:
    routing = {"max_attempts": 1, "circuit_breaker_timeout_s": 20.0}
    async with staged(model("m", DOWN, DOWN, DOWN, HELLO), routing=routing) as stage:
        await _opened(stage)
        ref = stage.push("parked")
        await stage.advance(19)
        assert (stage.end(ref), stage.calls) == ("waiting", 3)
        await stage.advance(1.1)
        assert (stage.end(ref), stage.calls) == ("ok", 4)


async def test_only_one_parked_job_probes_and_the_others_follow_its_success() -> None:
    slow = Fate(text="up again", latency_ms=1000)
    routing = {"max_attempts": 1, "circuit_breaker_timeout_s": 20.0}
    async with staged(model("m", DOWN, DOWN, DOWN, slow), routing=routing) as stage:
        await _opened(stage)
        refs = stage.push_all([f"parked {n}" for n in range(20)])
        await stage.advance(20.5)
        assert len(stage.upstreams["m"].running) == 1
        await stage.advance(0.6)
        assert len(stage.upstreams["m"].running) == 16, "a quarter of its concurrency, to begin with"
        await stage.advance(2.1)
        assert stage.ends(refs) == ["ok"] * 20


async def test_parking_ends_after_the_longest_wait_and_tells_when_to_come_again() -> None:
    routing = {"max_attempts": 1, "max_wait_s": 5.0}
    async with staged(model("m", DOWN), routing=routing) as stage:
        await _opened(stage)
        ref = stage.push("parked")
        await stage.advance(4.9)
        assert stage.end(ref) == "waiting"
        await stage.advance(0.2)
        error = stage.error(ref)
        assert (error.code, error.retryable, error.attempts) == ("no_model_available", True, ())
        assert error.retry_after_ms == pytest.approx(55_000, abs=10)


async def test_parking_ends_at_the_job_s_deadline_if_that_is_earlier() -> None:
    async with staged(model("m", DOWN), routing={"max_attempts": 1}) as stage:
        await _opened(stage)
        ref = stage.push("parked", ttl_ms="2000")
        await stage.advance(1.9)
        assert stage.end(ref) == "waiting"
        await stage.advance(0.2)
        assert stage.end(ref) == "deadline_exceeded"


async def test_when_told_to_fail_a_job_without_a_model_fails_at_once() -> None:
    async with staged(model("m", DOWN), routing={"max_attempts": 1, "when_unavailable": "fail"}) as stage:
        await _opened(stage)
        ref = stage.push("no luck")
        await stage.advance()
        assert stage.end(ref) == "no_model_available"


async def test_a_cached_answer_is_served_while_no_model_is_available() -> None:
    routing = {"max_attempts": 1, "when_unavailable": "fail"}
    async with staged(model("m", HELLO, DOWN), routing=routing) as stage:
        first = stage.push("asked before")
        await stage.advance(0.01)
        assert stage.end(first) == "ok"
        await _opened(stage)
        again = stage.push("asked before")
        await stage.advance(0.01)
        assert stage.ok(again).cache_hit


async def test_jobs_whose_model_is_down_do_not_hold_up_the_jobs_of_another() -> None:
    models = model("down", DOWN), model("up", HELLO)
    async with staged(*models, routing={"max_attempts": 1}) as stage:
        for number in range(3):
            stage.push(f"opener {number}", model="down")
            await stage.advance(0.001)
        parked = stage.push_all([f"parked {n}" for n in range(50)], model="down")
        good = stage.push_all([f"good {n}" for n in range(50)], model="up")
        await stage.advance(0.01)
        assert set(stage.ends(good)) == {"ok"}
        assert set(stage.ends(parked)) == {"waiting"}


# -- the choice ------------------------------------------------------------------------------------------


async def test_models_share_the_jobs_by_weight() -> None:
    heavy = model("heavy", HELLO, routing={"weight": 3.0}, concurrency=1000)
    light = model("light", HELLO, concurrency=1000)
    async with staged(heavy, light) as stage:
        refs = stage.push_all([f"q{n}" for n in range(400)])
        await stage.advance(1)
        share = Counter(stage.ok(ref).answer.model for ref in refs)
        assert share["heavy"] / 400 == pytest.approx(0.75, abs=0.07)


async def test_a_weight_of_zero_is_for_when_nothing_else_is_free() -> None:
    slow = Fate(text="x", latency_ms=1000)
    main = model("main", slow, concurrency=2)
    async with staged(main, model("spare", slow, routing={"weight": 0.0})) as stage:
        stage.push_all(["1", "2"])
        await stage.advance(0.5)
        assert stage.upstreams["spare"].prompts == []
        stage.push("3")
        await stage.advance(0.1)
        assert stage.upstreams["spare"].prompts == ["3"]


async def test_a_slow_model_is_used_only_while_nothing_else_is_free() -> None:
    routing = {"weight": 1e6, "latency_threshold_ms": 100.0}
    slow = model("slow", Fate(text="x", latency_ms=500), routing=routing)
    fast = model("fast", Fate(text="x", latency_ms=50), concurrency=1)
    async with staged(slow, fast) as stage:
        stage.push("which one is slow is not known yet")
        await stage.advance(1)
        assert len(stage.upstreams["slow"].prompts) == 1
        for number in range(5):
            stage.push(f"one by one {number}")
            await stage.advance(1)
        assert len(stage.upstreams["slow"].prompts) == 1
        stage.push_all(["two", "at once"])
        await stage.advance(1)
        assert len(stage.upstreams["slow"].prompts) == 2


async def test_a_model_never_has_more_calls_than_its_concurrency() -> None:
    async with staged(model("m", Fate(text="x", latency_ms=100), concurrency=3)) as stage:
        refs = stage.push_all([f"q{n}" for n in range(10)])
        most = 0
        for _ in range(50):
            most = max(most, len(stage.upstreams["m"].running))
            await stage.advance(0.01)
        assert most == 3
        assert stage.ends(refs) == ["ok"] * 10


async def test_a_model_that_its_provider_does_not_know_is_skipped_and_told_once_until_it_answers() -> None:
    async with staged(model("renamed", routing=FIRST), model("up", HELLO)) as stage:
        unknown = InvalidRequest("no such model", failure=FailureClass.MODEL_UNKNOWN)
        fates: list[Fate | BaseException] = [unknown, unknown, HELLO, unknown]
        stage.upstreams["renamed"].fate_for = lambda _: fates.pop(0)
        for answered_by, told_of in (("up", 1), ("up", 1), ("renamed", 1), ("up", 2)):
            ref = stage.push(prompt=f"after {len(fates)}")
            await stage.advance(0.1)
            assert stage.ok(ref).answer.model == answered_by
            assert stage.observer.unknown == ["renamed"] * told_of


async def test_a_job_that_stood_in_a_model_s_mailbox_for_as_long_as_a_call_may_take_gets_another_turn() -> (
    None
):
    """It has no deadline that could have passed: it fell back on a model with one slot, behind others."""
    slow = Fate(text="hello", latency_ms=1500)
    models = model("down", DOWN, routing=FIRST), model("up", slow, concurrency=1)
    async with staged(*models, routing={"timeout_s": 2.0}) as stage:
        refs = stage.push_all([f"question {number}" for number in range(5)])
        await stage.advance(10)
        assert stage.ends(refs) == ["ok"] * 5
        assert stage.upstreams["up"].closed == []
