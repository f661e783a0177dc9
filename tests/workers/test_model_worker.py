"""The actor of one model, by a clock that stands still."""

from __future__ import annotations

import asyncio
import random

import pytest
from msgspec import structs
from worker_fakes import HANG, HELLO, Fate, Stage, outcome

from theo_workers.breaker import HalfOpen, Open
from theo_workers.call import CallFailed, Completed, Result
from theo_workers.errors import (
    AuthenticationFailed,
    InternalError,
    InvalidRequest,
    MailboxFull,
    NotAdmitted,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
    WorkerStopped,
)
from theo_workers.failures import FailureClass
from theo_workers.load import Load
from theo_workers.messages import Outcome
from theo_workers.standing import Available, Pace, Shared, Unavailable

DOWN = ProviderUnavailable("boom", status_code=500)
LIMITED = RateLimited("slow down", status_code=429, retry_after_s=5.0)


async def test_answers_with_the_completion_and_the_time_it_took() -> None:
    async with Stage(takes_s=0.25).running() as stage:
        reply = stage.submit()
        await stage.clock.advance(0.25)
        assert reply.result() == Completed(completion=HELLO, latency_ms=250.0)
        assert stage.listener.attempts == [(Outcome.OK, 250.0)]


async def test_opens_after_three_failures_and_is_available_again_after_sixty_seconds() -> None:
    async with Stage(DOWN, DOWN, DOWN, HELLO).running() as stage:
        assert await stage.outcomes(3) == ["CallFailed"] * 3
        opened_at = stage.clock.monotonic()
        assert stage.availability() == Unavailable("circuit_open", opened_at + 60.0)
        assert stage.free == 0
        await stage.clock.advance(59.9)
        assert await stage.outcomes(1) == ["NotAdmitted"]
        await stage.clock.advance(0.1)
        assert stage.availability() == Available()
        assert stage.free == 1
        assert await stage.outcomes(2) == ["Completed"] * 2
        counted, circuit = stage.listener.events[:2], stage.listener.events[2:]
        assert counted == ["failure_counted"] * 2
        assert circuit == ["circuit_opened", "circuit_half_open", "circuit_closed"]
        assert stage.free == 8


async def test_an_event_says_why_it_opened_how_often_and_for_how_long() -> None:
    async with Stage(DOWN, threshold=1).running() as stage:
        await stage.outcomes(1)
        assert stage.listener.transitions == [
            (
                "circuit_opened",
                {
                    "reason": "in_a_row",
                    "failures": 1,
                    "openings": 1,
                    "retry_after_ms": 60_000,
                    "error_code": "provider_unavailable",
                    "status_code": 500,
                },
            )
        ]


async def test_a_failed_probe_opens_for_longer() -> None:
    async with Stage(DOWN, threshold=1).running() as stage:
        await stage.outcomes(1)
        await stage.clock.advance(60)
        await stage.outcomes(1)
        state = stage.standing.breaker.state
        assert isinstance(state, Open)
        assert 96.0 <= state.until - stage.clock.monotonic() <= 144.0
        assert stage.listener.events == ["circuit_opened", "circuit_half_open", "circuit_opened"]


async def test_half_open_sends_one_probe_and_turns_the_others_away_at_once() -> None:
    stage = Stage(DOWN, HELLO, threshold=1)
    async with stage.running():
        await stage.outcomes(1)
        await stage.clock.advance(60)
        stage.upstream.takes_s = 1.0
        replies = [stage.submit() for _ in range(3)]
        assert stage.free == 0, "the probe is spoken for"
        await stage.clock.advance(0)
        assert [outcome(reply) for reply in replies] == ["waiting", "NotAdmitted", "NotAdmitted"]
        assert stage.availability() == Unavailable("circuit_open", None)
        await stage.clock.advance(1)
        assert outcome(replies[0]) == "Completed"
        assert stage.upstream.begun == 2


async def test_the_owner_hears_when_an_opening_ends() -> None:
    async with Stage(DOWN, threshold=1).running() as stage:
        await stage.outcomes(1)
        before = stage.changes
        await stage.clock.advance(59.9)
        assert stage.changes == before
        await stage.clock.advance(0.2)
        assert stage.changes == before + 1


async def test_a_429_pauses_for_its_retry_after_and_is_no_failure() -> None:
    async with Stage(LIMITED, HELLO, threshold=1).running() as stage:
        assert await stage.outcomes(2) == ["CallFailed", "NotAdmitted"]
        assert stage.availability() == Unavailable("paused", stage.clock.monotonic() + 5.0)
        assert stage.worker.health.total_failures == 0
        before = stage.changes
        await stage.clock.advance(5)
        assert stage.changes == before + 1
        assert await stage.outcomes(1) == ["Completed"]
        assert stage.listener.transitions == [
            ("model_paused", {"retry_after_ms": 5_000, "error_code": "rate_limited", "status_code": 429})
        ]


async def test_the_owner_hears_when_a_pause_made_longer_ends() -> None:
    longer = RateLimited("slower", status_code=429, retry_after_s=9.0)
    async with Stage(LIMITED, longer).running() as stage:
        stage.submit()
        stage.submit()
        await stage.clock.advance(8.9)
        before = stage.changes
        await stage.clock.advance(0.1)
        assert stage.changes == before + 1
        assert stage.availability() == Available()


async def test_the_owner_may_submit_when_it_hears_of_a_change() -> None:
    stage = Stage(takes_s=1.0, limit=1)
    replies: list[asyncio.Future[Result]] = []

    def submit_one_more() -> None:
        if len(replies) < 3 and stage.free:
            replies.append(stage.submit())

    stage.worker.on_change = submit_one_more
    async with stage.running():
        await stage.clock.advance(3)
        assert [outcome(reply) for reply in replies] == ["Completed"] * 3


async def test_a_useless_credential_disables_until_an_operator_resets_it() -> None:
    async with Stage(AuthenticationFailed("no", status_code=401), HELLO).running() as stage:
        assert await stage.outcomes(2) == ["CallFailed", "NotAdmitted"]
        await stage.clock.advance(86_400)
        assert stage.availability() == Unavailable("disabled", None)
        before = stage.changes
        stage.worker.reset()
        assert await stage.outcomes(1) == ["Completed"]
        assert stage.changes > before
        assert stage.listener.transitions == [
            (
                "model_disabled",
                {
                    "cause": "authentication_failed",
                    "error_code": "authentication_failed",
                    "status_code": 401,
                },
            )
        ]


async def test_an_operator_disables_and_waiting_calls_are_turned_away() -> None:
    async with Stage(takes_s=1.0, limit=1).running() as stage:
        replies = [stage.submit() for _ in range(3)]
        await stage.clock.advance(0.5)
        stage.worker.disable("operator")
        await stage.clock.advance(0)
        assert [outcome(reply) for reply in replies] == ["waiting", "NotAdmitted", "NotAdmitted"]
        await stage.clock.advance(0.5)
        assert outcome(replies[0]) == "Completed", "what was sent is not thrown away"


async def test_a_state_known_from_elsewhere_is_taken_over_and_not_announced() -> None:
    async with Stage().running() as stage:
        until = stage.clock.monotonic() + 10.0
        stage.worker.adopt(Shared(open_until=until, openings=2))
        await stage.clock.advance(0)
        assert stage.availability() == Unavailable("circuit_open", until)
        before = stage.changes
        await stage.clock.advance(10)
        assert stage.changes == before + 1
        assert stage.standing.breaker.peek(stage.clock.monotonic()) == HalfOpen(2)
        stage.worker.adopt(Shared())
        await stage.clock.advance(0)
        assert stage.free == 8
        assert stage.listener.events == []


@pytest.mark.parametrize(
    ("error", "failures", "reported"),
    [
        (DOWN, 1, Outcome.FAILED),
        (ProviderUnavailable("cut", failure=FailureClass.MAYBE), 1, Outcome.MAYBE),
        (AuthenticationFailed("no"), 1, Outcome.FAILED),
        (LIMITED, 0, Outcome.FAILED),
        (InvalidRequest("bad"), 0, Outcome.FAILED),
        (InvalidRequest("which model?", failure=FailureClass.MODEL_UNKNOWN), 0, Outcome.FAILED),
    ],
)
async def test_health_counts_the_models_own_failures(
    error: ProviderUnavailable, failures: int, reported: Outcome
) -> None:
    async with Stage(error, takes_s=0.5).running() as stage:
        reply = stage.submit()
        await stage.clock.advance(1)
        assert reply.result() == CallFailed(error=error, latency_ms=500.0)
        assert stage.worker.health.total_failures == failures
        assert stage.listener.attempts == [(reported, 500.0)]


async def test_health_records_successes_by_the_wall_clock() -> None:
    async with Stage(takes_s=0.1).running() as stage:
        await stage.outcomes(2, after_s=0.1)
        snapshot = stage.worker.health.snapshot()
        assert snapshot.total_successes == 2
        assert snapshot.latency_p50_ms == pytest.approx(100.0)
        assert snapshot.last_success_time == pytest.approx(stage.clock.wall())
        assert snapshot.tokens_per_s == pytest.approx(20.0)


async def test_time_outs_of_impatient_jobs_do_not_open_the_circuit() -> None:
    stage = Stage(ProviderTimeout("late"), takes_s=0.02, threshold=1)
    async with stage.running():
        assert await stage.outcomes(5, after_s=0.02, within_s=0.02) == ["CallFailed"] * 5
        assert stage.availability() == Available()
        stage.upstream.takes_s = 120.0
        assert await stage.outcomes(1, after_s=120.0) == ["CallFailed"]
        assert stage.listener.events == ["circuit_opened"]


async def test_runs_as_many_as_the_limit_and_the_rest_in_order() -> None:
    async with Stage(takes_s=1.0, limit=2, mailbox=3).running() as stage:
        assert stage.free == 2
        replies = [stage.submit() for _ in range(5)]
        assert stage.free == 0, "what is in the mail counts"
        with pytest.raises(MailboxFull):
            stage.submit()
        seen = []
        for _ in range(3):
            await stage.clock.advance(1)
            seen.append([outcome(reply) for reply in replies].count("Completed"))
        assert seen == [2, 4, 5]
        assert stage.upstream.most_running == 2
        assert stage.free == 2


async def test_waiting_calls_are_turned_away_at_once_when_the_circuit_opens() -> None:
    async with Stage(DOWN, takes_s=1.0, limit=2, threshold=1).running() as stage:
        replies = [stage.submit() for _ in range(4)]
        await stage.clock.advance(1)
        assert [outcome(reply) for reply in replies] == ["CallFailed", "CallFailed"] + ["NotAdmitted"] * 2
        refusal = replies[3].exception()
        assert isinstance(refusal, NotAdmitted)
        assert (refusal.reason, refusal.until) == ("circuit_open", stage.clock.monotonic() + 60.0)


async def test_a_waiting_call_is_answered_at_its_own_deadline() -> None:
    async with Stage(takes_s=HANG, limit=1).running() as stage:
        stage.submit(within_s=HANG)
        await stage.clock.advance(0)
        late, later, patient = (stage.submit(within_s=within_s) for within_s in (2.0, 3.0, 9.0))
        await stage.clock.advance(1.9)
        assert outcome(late) == "waiting"
        await stage.clock.advance(0.1)
        assert [outcome(reply) for reply in (late, later, patient)] == [
            "DeadlineExceeded",
            "waiting",
            "waiting",
        ]
        await stage.clock.advance(1)
        assert [outcome(reply) for reply in (later, patient)] == ["DeadlineExceeded", "waiting"]
        sooner = stage.submit(within_s=0.5)
        await stage.clock.advance(0.5)
        assert outcome(sooner) == "DeadlineExceeded"
        assert stage.upstream.begun == 1


async def test_deadlines_hold_for_calls_that_came_in_one_batch() -> None:
    async with Stage(takes_s=HANG, limit=1).running() as stage:
        replies = [stage.submit(within_s=within_s) for within_s in (HANG, 5.0, 1.0)]
        await stage.clock.advance(1)
        assert [outcome(reply) for reply in replies] == ["waiting", "waiting", "DeadlineExceeded"]


async def test_a_call_whose_deadline_has_passed_is_never_sent() -> None:
    async with Stage().running() as stage:
        assert await stage.outcomes(1, within_s=0.0) == ["DeadlineExceeded"]
        assert stage.upstream.begun == 0


async def test_cancelling_a_waiting_call_gives_its_place_back() -> None:
    async with Stage(takes_s=1.0, limit=1, mailbox=1).running() as stage:
        first, second = stage.submit(), stage.submit()
        await stage.clock.advance(0)
        second.cancel()
        await stage.clock.advance(0)
        third = stage.submit()
        await stage.clock.advance(2)
        assert [outcome(reply) for reply in (first, second, third)] == ["Completed", "cancelled", "Completed"]
        assert stage.upstream.begun == 2


async def test_cancelling_a_running_call_closes_it_and_says_nothing_of_the_model() -> None:
    async with Stage(takes_s=HANG, threshold=1).running() as stage:
        reply = stage.submit()
        await stage.clock.advance(2)
        before = stage.changes
        reply.cancel()
        await stage.clock.advance(0)
        assert stage.upstream.closed_early == 1
        assert (stage.free, stage.availability()) == (8, Available())
        assert stage.changes > before
        assert stage.listener.attempts == [(Outcome.CANCELLED, 2_000.0)]
        assert stage.worker.health.total_failures == 0


async def test_a_call_given_up_before_it_was_read_is_never_claimed() -> None:
    claims = 0

    async def claim() -> None:
        nonlocal claims
        claims += 1

    async with Stage().running() as stage:
        stage.submit(before_send=claim).cancel()
        await stage.clock.advance(0)
        assert claims == 0
        assert stage.free == 8


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
async def test_a_call_cancelled_at_any_step_frees_its_slot(turns: int) -> None:
    async with Stage(takes_s=HANG).running() as stage:
        reply = stage.submit()
        for _ in range(turns):
            await asyncio.sleep(0)
        reply.cancel()
        await stage.clock.advance(0)
        assert (stage.free, stage.upstream.running) == (8, 0)


async def test_a_cancelled_probe_is_handed_back() -> None:
    stage = Stage(DOWN, HELLO, threshold=1)
    async with stage.running():
        await stage.outcomes(1)
        await stage.clock.advance(60)
        stage.upstream.takes_s = HANG
        probe = stage.submit()
        await stage.clock.advance(0)
        assert stage.free == 0
        probe.cancel()
        await stage.clock.advance(0)
        assert (stage.free, stage.availability()) == (1, Available())


async def test_the_claim_is_made_after_admission_and_before_sending() -> None:
    order: list[str] = []
    gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def claim() -> None:
        order.append("claim")
        await gate
        order.append("claimed")

    async with Stage(takes_s=0.5).running() as stage:
        reply = stage.submit(before_send=claim)
        await stage.clock.advance(3)
        assert (order, stage.upstream.begun) == (["claim"], 0)
        gate.set_result(None)
        await stage.clock.advance(0.5)
        result = reply.result()
        assert isinstance(result, Completed)
        assert result.latency_ms == pytest.approx(500.0), "the claim's three seconds are not the provider's"


async def test_the_claim_is_not_made_for_a_call_that_is_not_admitted() -> None:
    claims = 0

    async def claim() -> None:
        nonlocal claims
        claims += 1

    async with Stage(DOWN, threshold=1).running() as stage:
        await stage.outcomes(2, before_send=claim)
        assert claims == 1


async def test_a_refused_claim_reaches_the_caller_and_hands_the_probe_back() -> None:
    class OverBudgetError(Exception):
        pass

    async def refuse() -> None:
        raise OverBudgetError

    async with Stage(DOWN, threshold=1).running() as stage:
        await stage.outcomes(1)
        await stage.clock.advance(60)
        assert await stage.outcomes(1, before_send=refuse) == ["OverBudgetError"]
        assert (stage.free, stage.upstream.begun) == (1, 1)
        assert len(stage.listener.attempts) == 1
        assert stage.worker.health.total_failures == 1


async def test_a_defect_of_the_adapter_is_the_calls_end_and_not_the_workers() -> None:
    async with Stage(KeyError("choices"), KeyError("choices"), HELLO, threshold=2).running() as stage:
        reply = stage.submit()
        await stage.clock.advance(0)
        error = reply.exception()
        assert isinstance(error, InternalError)
        assert str(error) == "the upstream's adapter raised KeyError"
        assert stage.listener.defects == [error]
        assert stage.listener.attempts == [(Outcome.MAYBE, 0.0)]
        await stage.outcomes(1)
        assert stage.listener.events == ["failure_counted", "circuit_opened"]
        await stage.clock.advance(60)
        assert await stage.outcomes(1) == ["Completed"]


async def test_an_adapter_that_cancels_itself_is_a_defect() -> None:
    async with Stage(asyncio.CancelledError(), HELLO).running() as stage:
        assert await stage.outcomes(2) == ["InternalError", "Completed"]
        assert stage.worker.health.total_failures == 1


async def test_a_drain_refuses_what_waits_lets_sent_calls_finish_and_ends_the_run() -> None:
    stage = Stage(takes_s=1.0, limit=2)
    actor = asyncio.get_running_loop().create_task(stage.worker.run())
    replies = [stage.submit() for _ in range(3)]
    await stage.clock.advance(0.5)
    stage.worker.drain()
    with pytest.raises(WorkerStopped):
        stage.submit()
    assert (stage.free, stage.availability()) == (0, Unavailable("stopped", None))
    await stage.clock.advance(0)
    assert [outcome(reply) for reply in replies] == ["waiting", "waiting", "WorkerStopped"]
    assert not actor.done()
    await stage.clock.advance(0.5)
    assert [outcome(reply) for reply in replies[:2]] == ["Completed"] * 2
    assert actor.done()
    assert actor.exception() is None


async def test_an_idle_worker_drains_at_once() -> None:
    stage = Stage()
    actor = asyncio.get_running_loop().create_task(stage.worker.run())
    await stage.clock.advance(0)
    stage.worker.drain()
    await stage.clock.advance(0)
    assert actor.done()


async def test_a_cancelled_run_closes_its_calls_and_answers_everybody() -> None:
    stage = Stage(takes_s=HANG, limit=1)
    async with stage.running():
        sent, waiting = stage.submit(), stage.submit()
        await stage.clock.advance(0)
        posted = stage.submit()
    found = [reply.exception() for reply in (sent, waiting, posted)]
    assert [type(error) for error in found] == [WorkerStopped] * 3
    assert [isinstance(error, WorkerStopped) and error.sent for error in found] == [True, False, False]
    assert stage.upstream.closed_early == 1


async def test_a_crash_answers_everybody_and_reaches_whoever_runs_it() -> None:
    stage = Stage(takes_s=1.0, limit=2)
    actor = asyncio.get_running_loop().create_task(stage.worker.run())
    stage.listener.crash_on_attempt = True
    replies = [stage.submit() for _ in range(3)]
    await stage.clock.advance(1)
    assert isinstance(actor.exception(), LookupError)
    # The crash was in the report on the first call: its answer is there, and paid for.
    assert [outcome(reply) for reply in replies] == ["Completed", "WorkerStopped", "WorkerStopped"]
    with pytest.raises(WorkerStopped):
        stage.submit()


async def test_runs_again_after_a_crash_with_the_same_breaker_and_health() -> None:
    stage = Stage(DOWN, DOWN, HELLO, threshold=2)
    first = asyncio.get_running_loop().create_task(stage.worker.run())
    await stage.outcomes(1)
    stage.listener.crash_on_attempt = True
    reply = stage.submit()
    await stage.clock.advance(0)
    assert first.exception() is not None
    assert outcome(reply) == "CallFailed"
    async with stage.running():
        assert isinstance(stage.availability(), Unavailable)
        assert stage.worker.health.total_failures == 2
        before = stage.changes
        await stage.clock.advance(60)
        assert stage.changes == before + 1, "the timer was set again"
        assert await stage.outcomes(1) == ["Completed"]


async def test_what_a_crash_cut_off_counts_for_nothing_in_the_next_run() -> None:
    stage = Stage(HELLO, threshold=1, limit=2)
    first = asyncio.get_running_loop().create_task(stage.worker.run())
    stage.upstream.takes_s = HANG
    cut_off = stage.submit(within_s=HANG)
    await stage.clock.advance(0)
    stage.upstream.takes_s, stage.listener.crash_on_attempt = 0.0, True
    stage.submit()
    await stage.clock.advance(0)
    assert first.exception() is not None
    assert outcome(cut_off) == "WorkerStopped"
    async with stage.running():
        assert stage.free == 2
        assert await stage.outcomes(1) == ["Completed"]
        assert stage.worker.health.total_failures == 0
        assert stage.listener.defects == []


async def test_a_crash_hands_a_running_probe_back() -> None:
    stage = Stage(DOWN, HELLO, threshold=1)
    async with stage.running():
        await stage.outcomes(1)
        await stage.clock.advance(60)
        stage.upstream.takes_s = HANG
        stage.submit()
        await stage.clock.advance(0)
        assert stage.free == 0
    async with stage.running():
        assert stage.free == 1


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_happens_every_call_is_answered_and_every_slot_comes_back(seed: int) -> None:
    rng = random.Random(seed)
    kinds: list[Fate] = [HELLO, HELLO, DOWN, LIMITED, KeyError("x"), InvalidRequest("x")]
    fates = [rng.choice(kinds) for _ in range(400)]
    stage = Stage(*fates, threshold=6, limit=4, mailbox=6)

    async def claim() -> None:
        if rng.random() < 0.1:
            raise LookupError

    async with stage.running():
        replies = []
        for _ in range(300):
            stage.upstream.takes_s = rng.choice([0.0, 0.3, 2.0])
            try:
                replies.append(stage.submit(within_s=rng.choice([0.1, 1.0, 60.0]), before_send=claim))
            except MailboxFull:
                await stage.clock.advance(1)
            if rng.random() < 0.2:
                replies[-1].cancel()
            if rng.random() < 0.4:
                await stage.clock.advance(rng.choice([0.0, 0.1, 5.0]))
            assert 0 <= stage.free <= 4
        await stage.clock.advance(3_600)
        seen = {outcome(reply) for reply in replies}
        assert "waiting" not in seen
        assert {"Completed", "CallFailed", "NotAdmitted", "cancelled"} <= seen
        assert stage.upstream.running == 0
        assert stage.upstream.most_running <= 4
        stage.worker.reset()
        await stage.clock.advance(0)
        assert stage.free == 4


# -- pace ------------------------------------------------------------------------------------------------


async def test_calls_wait_while_the_model_is_out_of_pace() -> None:
    async with Stage().running() as stage:
        stage.worker.keep_pace(Pace(since=stage.clock.monotonic() + 5.0, calls=2))
        await stage.clock.advance(0)
        assert stage.availability() == Available()
        assert (stage.free, stage.worker.starts_at(stage.clock.monotonic())) == (
            0,
            stage.clock.monotonic() + 5,
        )
        replies = [stage.submit() for _ in range(3)]
        before = stage.changes
        await stage.clock.advance(4.9)
        assert stage.upstream.begun == 0
        assert stage.changes == before
        await stage.clock.advance(0.1)
        assert [outcome(reply) for reply in replies] == ["Completed", "Completed", "waiting"]
        assert stage.changes > before
        await stage.clock.advance(1.0)
        assert outcome(replies[2]) == "Completed"


async def test_no_limit_in_sight_lets_all_go() -> None:
    async with Stage().running() as stage:
        stage.worker.keep_pace(Pace(since=stage.clock.monotonic() + 5.0, calls=1))
        stage.worker.keep_pace(None)
        await stage.clock.advance(0)
        stage.worker.keep_pace(None)
        assert stage.free == 8


async def test_a_deadline_ends_the_wait_for_pace() -> None:
    async with Stage().running() as stage:
        stage.worker.keep_pace(Pace(since=stage.clock.monotonic() + 5.0, calls=1))
        await stage.clock.advance(0)
        reply = stage.submit(within_s=2.0)
        await stage.clock.advance(2.0)
        assert outcome(reply) == "DeadlineExceeded"
        assert stage.upstream.begun == 0


async def test_a_probe_that_is_not_let_out_is_not_announced() -> None:
    async def refused() -> None:
        raise LookupError("another process probes")

    async with Stage(DOWN, threshold=1).running() as stage:
        await stage.outcomes(1)
        await stage.clock.advance(60)
        assert await stage.outcomes(1, before_send=refused) == ["LookupError"]
        assert stage.listener.events == ["circuit_opened"]
        assert stage.worker.half_open
        await stage.outcomes(1)
        assert stage.listener.events == ["circuit_opened", "circuit_half_open", "circuit_opened"]


# -- fewer slots than configured -------------------------------------------------------------------------


async def test_after_a_good_probe_calls_come_back_step_by_step_and_the_owner_hears_of_each() -> None:
    async with Stage(DOWN, HELLO, threshold=1, ramp_s=10.0).running() as stage:
        await stage.outcomes(1)
        await stage.clock.advance(60)
        await stage.outcomes(1)
        assert (stage.worker.slots, stage.free) == (2, 2)
        stage.upstream.takes_s = HANG
        replies = [stage.submit(within_s=HANG) for _ in range(8)]
        running, heard = [], stage.changes
        for seconds in (4.9, 0.1, 4.9, 0.1):
            await stage.clock.advance(seconds)
            running.append(stage.upstream.running)
        assert running == [2, 4, 4, 8]
        assert stage.changes >= heard + 2
        assert [outcome(reply) for reply in replies] == ["waiting"] * 8


async def test_a_call_that_waits_for_the_ramp_ends_at_its_deadline() -> None:
    async with Stage(DOWN, HELLO, threshold=1, ramp_s=100.0, limit=4).running() as stage:
        await stage.outcomes(1)
        await stage.clock.advance(60)
        await stage.outcomes(1)
        stage.upstream.takes_s = HANG
        stage.submit(within_s=HANG)
        late = stage.submit(within_s=3.0)
        await stage.clock.advance(3)
        assert outcome(late) == "DeadlineExceeded"


async def test_refusals_of_one_burst_lower_the_concurrency_once_and_success_raises_it() -> None:
    stage = Stage(LIMITED, LIMITED, LIMITED, LIMITED, HELLO, load=Load(8, least_slow_ms=1_000.0))
    async with stage.running():
        for _ in range(4):
            stage.submit()
        await stage.clock.advance(0)
        assert stage.worker.slots == 5
        await stage.clock.advance(5)
        for _ in range(30):
            for _ in range(stage.free):
                stage.submit()
            await stage.clock.advance(0.1)
        assert stage.worker.slots == 8


async def test_time_outs_lower_it_unless_the_job_was_impatient() -> None:
    stage = Stage(ProviderTimeout("late"), takes_s=0.02, threshold=99, load=Load(8, least_slow_ms=1_000.0))
    async with stage.running():
        await stage.outcomes(5, after_s=0.02, within_s=0.02)
        assert stage.worker.slots == 8
        stage.upstream.takes_s = 120.0
        await stage.outcomes(1, after_s=120.0)
        assert stage.worker.slots == 5


async def test_calls_far_slower_than_usual_lower_it() -> None:
    stage = Stage(takes_s=0.5, load=Load(8, least_slow_ms=1_000.0))
    async with stage.running():
        await stage.outcomes(40, after_s=0.5)
        stage.upstream.takes_s = 1.4
        await stage.outcomes(1, after_s=1.4)
        assert stage.worker.slots == 8, "less than three times the usual"
        stage.upstream.takes_s = 4.5
        await stage.outcomes(1, after_s=4.5)
        assert stage.worker.slots == 5


async def test_a_call_that_waits_for_a_lowered_concurrency_ends_at_its_deadline() -> None:
    stage = Stage(HELLO, LIMITED, HELLO, load=Load(2, least_slow_ms=1_000.0), limit=2, takes_s=HANG)
    async with stage.running():
        stage.submit(within_s=HANG)
        await stage.clock.advance(0)
        stage.upstream.takes_s = 1.0
        stage.submit()
        await stage.clock.advance(6)
        assert (stage.worker.slots, stage.availability()) == (1, Available())
        late = stage.submit(within_s=2.0)
        await stage.clock.advance(1.9)
        assert outcome(late) == "waiting"
        await stage.clock.advance(0.1)
        assert outcome(late) == "DeadlineExceeded"
        assert stage.upstream.begun == 2


async def test_the_time_to_the_first_token_is_on_the_health_record() -> None:
    streamed = structs.replace(HELLO, first_token_ms=200.0)
    async with Stage(HELLO, streamed).running() as stage:
        await stage.outcomes(1)
        assert stage.worker.health.ttft_p50_ms is None
        await stage.outcomes(1)
        assert stage.worker.health.ttft_p50_ms == 200.0
