"""Attempt after attempt, until one answers or none may follow; each is on the books before it is sent."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import msgspec

from theo_daemon.deltas import DeltaFeed
from theo_daemon.fleet import Fleet
from theo_daemon.flight import Flight
from theo_daemon.job import Answer, Answered, OnUnknown
from theo_daemon.ledger.ledger import Ledger
from theo_daemon.ledger.records import Ask, CacheWrite, Granted, Landing, Settled, Verdict, Want
from theo_daemon.outcomes import Result, attempt, failed
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

_encode_answer = msgspec.json.Encoder().encode


class NotGranted(Exception):
    """The ledger did not let the call go out."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict


class Started(msgspec.Struct, frozen=True):
    """A call handed to a model's worker."""

    want: Want
    result: asyncio.Future[Completed | CallFailed]


class Asking(Protocol):
    """How the flight asks the ledger, and what earlier owners of its entry forbid."""

    def ask(self, flight: Flight, want: Want | None) -> Ask:
        """The question for this flight."""

    def heed_prior(self, flight: Flight, prior: Sequence[str]) -> None:
        """Raises GenerationError when the job must not be sent again."""


class Attempts:
    """Runs the attempts of flights. Holds nothing of any one of them."""

    def __init__(
        self, *, fleet: Fleet, ledger: Ledger, deltas: DeltaFeed, asking: Asking, max_attempts: int, max_wait_s: float,
        on_unknown: OnUnknown, on_settled: Callable[[AttemptRecord], None], redis_now_ms: Callable[[], int],
        clock: Clock, rng: random.Random,
    ) -> None:  # fmt: skip
        self._fleet, self._ledger, self._deltas, self._asking = fleet, ledger, deltas, asking
        self._max_attempts, self._max_wait_s, self._on_unknown = max_attempts, max_wait_s, on_unknown
        self._on_settled, self._redis_now_ms = on_settled, redis_now_ms
        self._clock, self._rng = clock, rng

    def start(self, flight: Flight, models: Sequence[str]) -> Started | None:
        """Hand the next attempt to a worker with a free slot, now; None when there is none."""
        model = self._fleet.choose(models)
        return None if model is None else self._submit(flight, model)

    async def run(self, flight: Flight, started: Started) -> Result | None:
        """From the first call on; None: another turn is needed, to begin or to go on. Raises NotGranted."""
        while True:
            try:
                result = await started.result
            except (WorkerStopped, NotAdmitted):
                if not self._doubtful(flight, started.want, Outcome.MAYBE, code="internal_error"):
                    return None
                raise InternalError("the model's worker failed after the call was sent") from None
            except asyncio.CancelledError:
                self._doubtful(flight, started.want, Outcome.CANCELLED, code=None)
                raise
            except GenerationError as error:
                self._doubtful(flight, started.want, Outcome.MAYBE, code=error.code)
                raise
            if isinstance(result, Completed):
                return self._answered(flight, started.want, result)
            step = self._failed(flight, started.want, result)
            if isinstance(step, GiveUp):
                return self.gave_up(flight, result.error, unknown=step.unknown)
            following = await self._next(flight, step)
            if following is None:
                return None if self._worth_waiting(step) else self.gave_up(flight, result.error)
            started = following

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
            deadline=self._clock.monotonic() + member.config.routing.timeout_s,
            on_delta=on_delta,
            before_send=partial(self._claim, flight, want),
        )
        try:
            return Started(want, member.worker.submit(call))
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
            raise NotGranted(verdict)
        flight.holding = True
        if verdict.prior:
            try:
                self._asking.heed_prior(flight, verdict.prior)
            except GenerationError:
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
                Landing(settled=_settled(want, "void", cost_nano=0, latency_ms=0.0), release_key=flight.key)
            )

    async def _next(self, flight: Flight, step: TryOneOf) -> Started | None:
        """The next attempt on one of the step's models; None when none of them takes calls."""
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

    def _answered(self, flight: Flight, want: Want, result: Completed) -> Result:
        completion, job = result.completion, flight.lead.job
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
        cost = self._fleet.cost_nano(want.model, usage) or 0
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

    def _failed(self, flight: Flight, want: Want, result: CallFailed) -> TryOneOf | GiveUp:
        """Book the failure and decide what follows."""
        error = result.error
        doubtful = CONSEQUENCES[error.failure].billed is Billed.MAYBE
        cost = self._cost_of(want, error, doubtful=doubtful)
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
        flight.settled = _settled(want, state, cost_nano=cost, latency_ms=result.latency_ms, error=error)
        flight.last_error = error
        flight.tried.append(Tried(want.model, error.failure, error.retryable, error.retry_after_s))
        return after_failure(
            flight.tried,
            flight.route.names,
            max_attempts=self._max_attempts,
            on_unknown=flight.lead.job.on_unknown or self._on_unknown,
            jitter=self._rng.random(),
        )

    def _cost_of(self, want: Want, error: UpstreamError, *, doubtful: bool) -> int:
        """What the provider said it used, else the bound where it may have worked, else nothing."""
        if error.usage is not None:
            return self._fleet.cost_nano(want.model, error.usage) or 0
        return (want.bound_nano or 0) if doubtful else 0

    def _doubtful(self, flight: Flight, want: Want, outcome: Outcome, *, code: str | None) -> bool:
        """A call that ended without a word may be billed if it was sent: it is charged at its bound."""
        if flight.sent_attempt != want.attempt_id:
            return False
        cost = want.bound_nano or 0
        self._note(flight, attempt(want, outcome, latency_ms=0.0, cost_nano=cost, code=code), cost)
        flight.settled = _settled(want, outcome, cost_nano=cost, latency_ms=0.0, code=code)
        return True

    def gave_up(self, flight: Flight, error: UpstreamError, *, unknown: bool = False) -> Result:
        """The last candidate's own error is the job's."""
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
        self._on_settled(record)


def _settled(
    want: Want, state: str, *, cost_nano: int, latency_ms: float, error: UpstreamError | None = None,
    code: str | None = None,
) -> Settled:  # fmt: skip
    return Settled(
        attempt_id=want.attempt_id,
        model=want.model,
        state=state,
        bound_nano=want.bound_nano,
        cost_nano=cost_nano,
        scopes=want.scopes,
        latency_ms=latency_ms,
        status_code=None if error is None else error.status_code,
        error_code=code if error is None else error.code,
        provider_request_id=None if error is None else error.provider_request_id,
    )
