"""Attempt after attempt, until one answers or none may follow; each is on the books before it is sent."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import msgspec

from theo_daemon.ceilings import Barred, fits, hold_wait_s, last_word, over_ceiling, unaffordable
from theo_daemon.deltas import DeltaFeed
from theo_daemon.fleet import Fleet
from theo_daemon.flight import Flight
from theo_daemon.job import Answer, Answered, OnUnknown
from theo_daemon.ledger.ledger import Ledger
from theo_daemon.ledger.records import (
    Ask,
    CacheWrite,
    Clear,
    Granted,
    Landing,
    OverBudget,
    PriorAttempt,
    Settled,
    Throttled,
    Unfit,
    Verdict,
    Want,
)
from theo_daemon.outcomes import Result, attempt, failed, settled
from theo_daemon.retry import GiveUp, Tried, TryOneOf, after_failure
from theo_daemon.telemetry.records import AttemptRecord
from theo_workers.clock import Clock, sleep
from theo_workers.errors import (
    GenerationError,
    InternalError,
    MailboxFull,
    NotAdmitted,
    OutcomeUnknown,
    UpstreamError,
    WorkerStopped,
)
from theo_workers.failures import CONSEQUENCES, Billed
from theo_workers.messages import Attempt, FinishReason, Outcome, Request, Usage
from theo_workers.model_worker import Call, CallFailed, Completed
from theo_workers.prices import Price, cost_nano

_encode_answer = msgspec.json.Encoder().encode


class NotGranted(Exception):
    """The call of `model` must not go out."""

    def __init__(self, model: str, verdict: Verdict) -> None:
        self.model, self.verdict = model, verdict


class Started(msgspec.Struct, frozen=True):
    """A call handed to a model's worker."""

    want: Want
    price: Price | None  # at its start; None: unknown
    result: asyncio.Future[Completed | CallFailed]


class Asking(Protocol):
    """How the flight asks the ledger, and what earlier owners of its entry forbid."""

    def ask(self, flight: Flight, want: Want | None) -> Ask:
        """The question for this flight."""

    def heed_prior(self, flight: Flight, prior: Sequence[PriorAttempt]) -> None:
        """List them with the flight's own. Raises GenerationError when the job must not be sent again."""


class AttemptObserver(Protocol):
    """Hears what becomes of attempts."""

    def on_settled(self, record: AttemptRecord) -> None:
        """An attempt is over; its cost goes on the books with the flight's next commit."""

    def on_bound_violated(self, model: str, cost_nano: int, bound_nano: int) -> None:
        """A provider billed more than its own limits allow; the model is stopped. Nano-dollars."""


class Attempts:
    """Runs the attempts of flights. Holds nothing of any one of them."""

    def __init__(
        self, *, fleet: Fleet, ledger: Ledger, deltas: DeltaFeed, asking: Asking, max_attempts: int, max_wait_s: float,
        on_unknown: OnUnknown, observer: AttemptObserver, redis_now_ms: Callable[[], int], clock: Clock,
        rng: random.Random,
    ) -> None:  # fmt: skip
        self._fleet, self._ledger, self._deltas, self._asking = fleet, ledger, deltas, asking
        self._max_attempts, self._max_wait_s, self._on_unknown = max_attempts, max_wait_s, on_unknown
        self._observer, self._redis_now_ms = observer, redis_now_ms
        self._clock, self._rng = clock, rng

    def start(self, flight: Flight, models: Sequence[str]) -> Started | None:
        """Hand the next attempt to a worker with a free slot, now; None when there is none."""
        model = self._fleet.choose(models)
        return None if model is None else self._submit(flight, model)

    async def run(self, flight: Flight, started: Started) -> Result | None:
        """From the first call on; None: another turn is needed, to begin or to go on. Raises NotGranted."""
        while True:
            step = await self._end_of(flight, started)
            match step:
                case None | Result():
                    return step
                case GiveUp(unknown):
                    return self.gave_up(flight, unknown=unknown)
            following = await self._next(flight, step)
            if following is None:
                return None if self._worth_waiting(step) else self.gave_up(flight)
            started = following

    async def _end_of(self, flight: Flight, started: Started) -> Result | TryOneOf | GiveUp | None:
        """Wait for the call and book it. None: it was not made."""
        want = started.want
        try:
            result = await started.result
        except NotGranted as refused:
            if flight.tried and isinstance(refused.verdict, OverBudget):
                return self._refused(flight, refused.model, refused.verdict)
            if flight.tried and isinstance(refused.verdict, Throttled | Unfit):
                return self._decide(flight)
            raise
        except (WorkerStopped, NotAdmitted):
            if not self._doubtful(flight, want, Outcome.MAYBE, code="internal_error"):
                return None
            raise InternalError("the model's worker failed after the call was sent") from None
        except asyncio.CancelledError:
            self._doubtful(flight, want, Outcome.CANCELLED, code=None)
            raise
        except GenerationError as error:
            self._doubtful(flight, want, Outcome.MAYBE, code=error.code)
            raise
        if isinstance(result, Completed):
            return self._answered(flight, started, result)
        return self._failed(flight, started, result)

    # -- money ---------------------------------------------------------------------------------------

    def bar_unaffordable(self, flight: Flight) -> None:
        """Take the candidates away whose call does not fit what is left of the job's own ceiling."""
        job = flight.lead.job
        if job.max_cost_nano is None:
            return
        bounds = {
            model: self._fleet.bound_nano(model, job, flight.prompt_bounds.get(model))
            for model in flight.candidates
        }
        refusals = unaffordable(bounds, limit_nano=job.max_cost_nano, spent_nano=flight.cost_nano)
        for model, error in refusals.items():
            flight.bar(model, Barred(error, own=True))

    def bar(self, flight: Flight, model: str, verdict: OverBudget) -> None:
        """Take a candidate away whose budget is spent."""
        flight.bar(model, Barred(over_ceiling(verdict, int(self._clock.wall() * 1000)), own=False))

    def unaffordable(self, flight: Flight) -> Result:
        """No candidate is left: the last one's own error, if one was called at all, else what money forbids."""
        if flight.last_error is not None:
            return self.gave_up(flight)
        last = last_word(flight.barred.values())
        # Who waits may have another ceiling of its own, or none.
        shared = last.error.shared and not any(barred.own for barred in flight.barred.values())
        outcome = failed(last.error, cost_nano=flight.cost_nano, attempts=flight.attempts)
        return Result(outcome, shared=shared)

    def _refused(self, flight: Flight, model: str, verdict: OverBudget) -> TryOneOf | GiveUp:
        """A later attempt does not fit under a ceiling: decide anew what follows the one before."""
        if not verdict.by_holds:
            self.bar(flight, model, verdict)
        step = self._decide(flight)
        if isinstance(step, TryOneOf) and verdict.by_holds:
            return TryOneOf(step.models, delay_s=max(step.delay_s, hold_wait_s(self._rng.random())))
        return step

    def _check_own_ceiling(self, flight: Flight, want: Want) -> None:
        """Once more, as the job that leads may be another, or a lost call known, since it was looked at."""
        limit_nano = flight.lead.job.max_cost_nano
        if limit_nano is not None and not fits(want.bound_nano, limit_nano - flight.cost_nano):
            raise NotGranted(want.model, Clear())

    def _check_bill(self, want: Want, cost_nano: int, usage: Usage) -> None:
        """More than the bound: ceilings do not hold with this model, so an operator must look at it first."""
        if want.bound_nano is not None and cost_nano > want.bound_nano and not usage.estimated:
            self._fleet[want.model].worker.disable("bound_violation")
            self._observer.on_bound_violated(want.model, cost_nano, want.bound_nano)

    # -- sending -------------------------------------------------------------------------------------

    def _submit(self, flight: Flight, model: str) -> Started | None:
        member, job = self._fleet[model], flight.lead.job
        want = Want(
            attempt_id=self._ledger.next_attempt_id(),
            model=model,
            provider=member.config.provider,
            bound_nano=self._fleet.bound_nano(model, job, flight.prompt_bounds.get(model)),
            scopes=self._fleet.scopes(model),
            rate=self._fleet.rate(model, job, flight.lead.size),
        )
        on_delta = self._deltas.begin(flight)
        call = Call(
            request=Request(messages=job.messages, params=job.params, stream=on_delta is not None),
            deadline=member.worker.starts_at(self._clock.monotonic()) + member.config.routing.timeout_s,
            on_delta=on_delta,
            before_send=partial(self._claim, flight, want),
        )
        try:
            return Started(want, member.price, member.worker.submit(call))
        except (WorkerStopped, MailboxFull):
            return None

    async def _claim(self, flight: Flight, want: Want) -> None:
        """The last step before the provider is called: the attempt goes on record, its bound is held."""
        want = self._fleet.admitted(want)
        question = self._asking.ask(flight, want)
        verdict = await self._ledger.ask(question, orphaned=partial(self._void, flight, want))
        assert verdict is not None
        self._fleet.heed(want, verdict)
        if not isinstance(verdict, Granted):
            raise NotGranted(want.model, verdict)
        flight.holding = True
        flight.listed.add(want.attempt_id)
        try:
            if verdict.prior:
                self._asking.heed_prior(flight, verdict.prior)
            self._check_own_ceiling(flight, want)
        except (GenerationError, NotGranted):
            self._void(flight, want, verdict)
            raise
        if flight.sent_attempt is None:
            flight.lead.queued_ms = max(0, self._redis_now_ms() - flight.lead.ref.pushed_ms)
        flight.sent_attempt = want.attempt_id

    def _void(self, flight: Flight, want: Want, verdict: Verdict | None) -> None:
        """Granted, but never sent: certainly not billed."""
        if isinstance(verdict, Granted):
            flight.holding = False
            self._ledger.tell(
                Landing(settled=settled(want, "void", cost_nano=0, latency_ms=0.0), release_key=flight.key)
            )

    async def _next(self, flight: Flight, step: TryOneOf) -> Started | None:
        """The next attempt on one of the step's models; None when none of them takes calls."""
        if flight.settled is not None:
            self._ledger.tell(Landing(settled=flight.settled))
            flight.settled = None
        if step.delay_s > 0:
            await sleep(self._clock, step.delay_s)
        started = self.start(flight, step.models)
        if started is not None:
            return started
        # Nobody has a free slot: queue at one that takes calls at all.
        for model in self._fleet.available(step.models):
            if (queued := self._submit(flight, model)) is not None:
                return queued
        return None

    def _worth_waiting(self, step: TryOneOf) -> bool:
        """None of them takes calls now: will one do so before the longest wait is over?"""
        reopens = self._fleet.reopens_at(step.models)
        if reopens is None:  # a probe decides at any moment, or only an operator can help
            return self._fleet.may_recover(step.models)
        return reopens - self._clock.monotonic() <= self._max_wait_s

    # -- ends ----------------------------------------------------------------------------------------

    def _answered(self, flight: Flight, started: Started, result: Completed) -> Result:
        want, completion, job = started.want, result.completion, flight.lead.job
        usage = completion.usage or self._fleet.estimate(want.model, job, completion.output)
        answer = Answer(
            model=want.model,
            provider=want.provider,
            output=completion.output,
            finish_reason=completion.finish_reason,
            usage=usage,
            latency_ms=round(result.latency_ms, 3),
            tool_calls=completion.tool_calls,
        )
        cost = 0 if started.price is None else cost_nano(started.price, usage)
        self._check_bill(want, cost, usage)
        done = attempt(want, Outcome.OK, latency_ms=result.latency_ms, cost_nano=cost, status_code=200)
        self._note(flight, done, cost, usage=usage, finish_reason=completion.finish_reason)
        flight.settled = Settled(
            attempt_id=want.attempt_id,
            model=want.model,
            state=Outcome.OK,
            bound_nano=want.bound_nano,
            cost_nano=cost,
            scopes=want.scopes,
            latency_ms=result.latency_ms,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            provider_request_id=completion.provider_request_id,
            cache=self._cache_write(flight, answer),
        )
        outcome = Answered(answer=answer, cost_nano=flight.cost_nano, attempts=tuple(flight.attempts))
        return Result(outcome, shared=True, remember=True, answer=answer)

    def _cache_write(self, flight: Flight, answer: Answer) -> CacheWrite | None:
        """Every shareable answer is kept a moment for those who wait elsewhere; whole ones for the TTL."""
        if flight.lead.job.cache == "off":
            return None
        routing = self._fleet[answer.model].config.routing
        reusable = routing.cache_enabled and answer.finish_reason in ("stop", "tool_calls")
        return CacheWrite(
            key=flight.lead.key,
            answer=_encode_answer(answer),
            ttl_ms=int(routing.cache_ttl_seconds * 1000) if reusable else 0,
            max_entries=routing.cache_max_entries,
        )

    def _failed(self, flight: Flight, started: Started, result: CallFailed) -> TryOneOf | GiveUp:
        """Book the failure and decide what follows."""
        want, error = started.want, result.error
        doubtful = CONSEQUENCES[error.failure].billed is Billed.MAYBE
        cost = self._cost_of(started, error, doubtful=doubtful)
        state = Outcome.MAYBE if doubtful else Outcome.FAILED
        done = attempt(
            want,
            state,
            latency_ms=result.latency_ms,
            cost_nano=cost,
            status_code=error.status_code,
            code=error.code,
        )
        self._note(flight, done, cost, usage=error.usage)
        flight.settled = settled(want, state, cost_nano=cost, latency_ms=result.latency_ms, error=error)
        flight.last_error = error
        flight.tried.append(Tried(want.model, error.failure, error.retryable, error.retry_after_s))
        return self._decide(flight)

    def _decide(self, flight: Flight) -> TryOneOf | GiveUp:
        """What follows the last failed attempt, with what money is left."""
        self.bar_unaffordable(flight)
        return after_failure(
            flight.tried,
            flight.candidates,
            max_attempts=self._max_attempts - flight.lead.deaths,
            on_unknown=flight.lead.job.on_unknown or self._on_unknown,
            jitter=self._rng.random(),
        )

    def _cost_of(self, started: Started, error: UpstreamError, *, doubtful: bool) -> int:
        """What the provider said it used, else the bound where it may have worked, else nothing."""
        if error.usage is not None:
            cost = 0 if started.price is None else cost_nano(started.price, error.usage)
            self._check_bill(started.want, cost, error.usage)
            return cost
        return (started.want.bound_nano or 0) if doubtful else 0

    def _doubtful(self, flight: Flight, want: Want, outcome: Outcome, *, code: str | None) -> bool:
        """A call that ended without a word may be billed if it was sent: it is charged at its bound."""
        if flight.sent_attempt != want.attempt_id:
            return False
        cost = want.bound_nano or 0
        self._note(flight, attempt(want, outcome, latency_ms=0.0, cost_nano=cost, code=code), cost)
        flight.settled = settled(want, outcome, cost_nano=cost, latency_ms=0.0, code=code)
        return True

    def gave_up(self, flight: Flight, *, unknown: bool = False) -> Result:
        """The last candidate's own error is the job's."""
        error = flight.last_error
        assert error is not None
        final: GenerationError = error
        if unknown:
            final = OutcomeUnknown(
                f"{error.detail}; on_unknown = fail forbids sending it again",
                provider=error.provider,
                status_code=error.status_code,
            )
        outcome = failed(final, cost_nano=flight.cost_nano, attempts=flight.attempts)
        return Result(outcome, shared=final.shared, remember=final.remembered)

    def _note(
        self, flight: Flight, done: Attempt, cost_nano: int, *, usage: Usage | None = None,
        finish_reason: FinishReason | None = None,
    ) -> None:  # fmt: skip
        """Add an attempt to the job's list and tell telemetry."""
        flight.cost_nano += cost_nano
        flight.attempts.append(done)
        now = self._clock.monotonic()
        record = AttemptRecord(
            attempt=done,
            number=len(flight.attempts),
            started_at=now - done.latency_ms / 1000,
            finished_at=now,
            cost_nano=cost_nano,
            usage=usage,
            finish_reason=finish_reason,
        )
        flight.records.append(record)
        self._observer.on_settled(record)
