"""How calls end, for the flight they were made for: its answer, its list of attempts, its bill."""

from __future__ import annotations

import asyncio
from typing import Protocol

import msgspec
from msgspec import structs

from theo_daemon.fleet import Fleet
from theo_daemon.flight import IN_DOUBT, Flight
from theo_daemon.job import Answer, Answered
from theo_daemon.learner import Seen
from theo_daemon.ledger.records import CacheWrite, Settled, Want
from theo_daemon.money import to_usd
from theo_daemon.outcomes import Result, attempt, settled
from theo_daemon.reply import encode_answer
from theo_daemon.retry import Tried
from theo_daemon.telemetry.records import AttemptRecord
from theo_workers.clock import Clock
from theo_workers.errors import UpstreamError
from theo_workers.failures import CONSEQUENCES, Billed, FailureClass, NextStep
from theo_workers.messages import Attempt, BilledUsage, Completion, Outcome, Usage
from theo_workers.model_worker import Call, CallFailed, Completed
from theo_workers.prices import Price, charge_nano


class Started(msgspec.Struct, frozen=True):
    """A call handed to a model's worker."""

    want: Want
    price: Price | None  # at its start; None: unknown
    call: Call
    result: asyncio.Future[Completed | CallFailed]
    repeat_cost: int = 0  # taken of its endpoint's retry budget
    streamed: bool = False

    @property
    def end(self) -> Completed | CallFailed | None:
        """How it ended, as far as its provider told: also where nobody heard, being cancelled in that very moment."""
        result = self.result
        if not result.done() or result.cancelled():
            return self.call.end
        return None if result.exception() is not None else result.result()


class AttemptObserver(Protocol):
    """Hears what becomes of attempts."""

    def on_settled(self, record: AttemptRecord) -> None:
        """An attempt is over; its cost goes on the books with the flight's next commit."""

    def on_retries_spent(self, model: str) -> None:
        """The retry budget of the model's endpoint is used up: jobs are not repeated there."""

    def on_bound_violated(self, model: str, cost_nano: int, bound_nano: int) -> None:
        """A provider billed more than its own limits allow; the model is stopped. Nano-dollars."""

    def on_model_unknown(self, model: str, detail: str) -> None:
        """The provider does not know the configured model; told again only after it has answered in between."""


class Bookings:
    """What a call cost goes on its flight, and into the ledger with the flight's next commit."""

    def __init__(self, *, fleet: Fleet, observer: AttemptObserver, clock: Clock) -> None:
        self._fleet, self._observer, self._clock = fleet, observer, clock
        self._unknown: set[str] = set()  # models that their providers do not know, and told

    def answered(self, flight: Flight, started: Started, result: Completed) -> Result:
        """The model answered: the flight's result."""
        want, completion, job = started.want, result.completion, flight.lead.job
        self._fleet[want.model].retries.succeeded(started.repeat_cost)
        usage = completion.usage or self._fleet.estimate(want.model, job, completion.output)
        cost = charge_nano(started.price, usage)
        if isinstance(usage, BilledUsage):
            usage = usage.plain()
        answer = _answer(want, result, usage)
        self._check_bill(want, cost, usage)
        if self._unknown:
            self._unknown.discard(want.model)
        if self._fleet.learner is not None:
            self._learn(flight, want, result, usage=usage)
        done = attempt(want, Outcome.OK, latency_ms=result.latency_ms, cost_nano=cost, status_code=200)
        self._note(flight, done, cost, usage=usage, completion=completion)
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
        flight.held = completion.held
        outcome = Answered(answer=answer, cost_nano=flight.cost_nano, attempts=tuple(flight.attempts))
        return Result(outcome, shared=True, remember=True, answer=answer)

    def failed(self, flight: Flight, started: Started, result: CallFailed) -> None:
        """The provider failed; the last of `flight.tried` is what must follow from it."""
        want, error = started.want, result.error
        doubtful = CONSEQUENCES[error.failure].billed is Billed.MAYBE
        cost = self._cost_of(started, error, doubtful=doubtful)
        if self._fleet.learner is not None and CONSEQUENCES[error.failure].next_step is not NextStep.TERMINAL:
            self._learn(flight, want, result, cost_nano=cost)
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
        if error.failure is FailureClass.MODEL_UNKNOWN and want.model not in self._unknown:
            self._unknown.add(want.model)
            self._observer.on_model_unknown(want.model, error.detail)
        flight.tried.append(
            Tried(want.model, error.failure, error.retryable, error.retry_after_s, error.code)
        )

    def cut_off(self, flight: Flight, started: Started) -> None:
        """Nobody waits for the call any more. One that has ended in that very moment costs what it cost.

        Its answer is paid for: the next who asks gets it.
        """
        match started.end:
            case Completed() as answered:
                self.spare(flight, started, answered, kept=True)
            case CallFailed() as failure:
                self.failed(flight, started, failure)
            case None:
                self.doubtful(flight, started.want, Outcome.CANCELLED, code=None)

    def doubtful(self, flight: Flight, want: Want, outcome: Outcome, *, code: str | None) -> bool:
        """A call that ended without a word may be billed if it was sent: it is charged at its bound.

        False: it was not sent.
        """
        if flight.sent_attempt != want.attempt_id:
            return False
        self.charge(flight, want, outcome, code=code)
        return True

    def charge(self, flight: Flight, want: Want, outcome: Outcome, *, code: str | None) -> None:
        """A call that was sent and ended without a word: at its bound."""
        cost = want.bound_nano or 0
        self._note(flight, attempt(want, outcome, latency_ms=0.0, cost_nano=cost, code=code), cost)
        flight.settled = settled(want, outcome, cost_nano=cost, latency_ms=0.0, code=code)

    def spare(self, flight: Flight, started: Started, result: Completed, *, kept: bool = False) -> None:
        """An answer that this job does not get: paid for, and `kept` for others or not used at all."""
        want, completion = started.want, result.completion
        usage = completion.usage or self._fleet.estimate(want.model, flight.lead.job, completion.output)
        cost = charge_nano(started.price, usage)
        if isinstance(usage, BilledUsage):
            usage = usage.plain()
        self._check_bill(want, cost, usage)
        done = attempt(want, Outcome.CANCELLED, latency_ms=result.latency_ms, cost_nano=cost)
        self._note(flight, done, cost, usage=usage, completion=completion)
        end = settled(want, Outcome.CANCELLED, cost_nano=cost, latency_ms=result.latency_ms)
        if kept:
            end = structs.replace(end, cache=self._cache_write(flight, _answer(want, result, usage)))
            flight.held = completion.held
        flight.settled = end

    def _learn(
        self,
        flight: Flight,
        want: Want,
        result: Completed | CallFailed,
        *,
        usage: Usage | None = None,
        cost_nano: int = 0,
    ) -> None:
        """For the choice among models. Who was asked with one job says something of the next."""
        learner, lead = self._fleet.learner, flight.lead
        assert learner is not None
        seen = Seen(
            size=lead.size,
            seconds=result.latency_ms / 1000,
            answered=usage is not None,
            prompt_tokens=0 if usage is None else usage.prompt_tokens,
            completion_tokens=0 if usage is None else usage.completion_tokens,
            cost_usd=to_usd(cost_nano),
        )
        learner.learn(want.model, lead.job.workflow, seen, self._clock.monotonic())

    def not_repeated(self, model: str) -> None:
        """A job ends with its failure, as its endpoint's retry budget is used up."""
        if self._fleet[model].retries.spent_anew():
            self._observer.on_retries_spent(model)

    def _cache_write(self, flight: Flight, answer: Answer) -> CacheWrite | None:
        """Every shareable answer is kept a moment for those who wait elsewhere; whole ones for the TTL."""
        if flight.lead.job.cache == "off":
            return None
        routing = self._fleet[answer.model].config.routing
        reusable = routing.cache_enabled and answer.finish_reason in ("stop", "tool_calls")
        return CacheWrite(
            key=flight.lead.key,
            answer=encode_answer(answer),
            ttl_ms=int(routing.cache_ttl_seconds * 1000) if reusable else 0,
            max_entries=routing.cache_max_entries,
        )

    def _cost_of(self, started: Started, error: UpstreamError, *, doubtful: bool) -> int:
        """What the provider said it used, else the bound where it may have worked, else nothing."""
        if error.usage is not None:
            cost = charge_nano(started.price, error.usage)
            self._check_bill(started.want, cost, error.usage)
            return cost
        return (started.want.bound_nano or 0) if doubtful else 0

    def _check_bill(self, want: Want, cost_nano: int, usage: Usage) -> None:
        """More than the bound: ceilings do not hold with this model, so an operator must look at it first."""
        if want.bound_nano is not None and cost_nano > want.bound_nano and not usage.estimated:
            self._fleet[want.model].worker.disable("bound_violation")
            self._observer.on_bound_violated(want.model, cost_nano, want.bound_nano)

    def _note(
        self, flight: Flight, done: Attempt, cost_nano: int, *, usage: Usage | None = None,
        completion: Completion | None = None,
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
            finish_reason=None if completion is None else completion.finish_reason,
            first_token_ms=None if completion is None else completion.first_token_ms,
            resent=flight.doubtful,
        )
        if done.outcome in IN_DOUBT:
            flight.doubtful = True
        flight.records.append(record)
        self._observer.on_settled(record)


def _answer(want: Want, result: Completed, usage: Usage) -> Answer:
    completion = result.completion
    return Answer(
        model=want.model,
        provider=want.provider,
        output=completion.output,
        finish_reason=completion.finish_reason,
        usage=usage,
        latency_ms=round(result.latency_ms, 3),
        tool_calls=completion.tool_calls,
    )
