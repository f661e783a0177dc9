"""One flight from look-up to landing: as named steps, each deciding or doing one thing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import msgspec

from theo_daemon.config import RoutingConfig
from theo_daemon.fleet import Fleet
from theo_daemon.flight import Flight
from theo_daemon.job import Answer, Answered, Failed, JobOutcome, OnUnknown
from theo_daemon.ledger.ledger import Ledger
from theo_daemon.ledger.records import (
    Ask,
    Busy,
    CacheWrite,
    Clear,
    Conflict,
    Granted,
    Hit,
    Landing,
    OverBudget,
    Replay,
    Settled,
    Verdict,
    Want,
)
from theo_daemon.ledger.watcher import OnId, OnKey
from theo_daemon.money import format_usd, to_usd
from theo_daemon.reply import decode_outcome
from theo_daemon.retry import GiveUp, Tried, TryOneOf, after_failure
from theo_daemon.telemetry.records import AttemptRecord
from theo_workers.clock import Clock, sleep
from theo_workers.errors import (
    BudgetExceeded,
    GenerationError,
    IdConflict,
    InternalError,
    NoModelAvailable,
    OutcomeUnknown,
    UpstreamError,
    WorkerStopped,
)
from theo_workers.failures import CONSEQUENCES, Billed
from theo_workers.messages import Attempt, Completion, FinishReason, Outcome, Request, Usage
from theo_workers.model_worker import Call, CallFailed, Completed, MailboxFull, NotAdmitted

LARGE_BYTES = 16_384  # above this, tokens are counted in a thread
_encode_answer = msgspec.json.Encoder().encode
decode_answer = msgspec.json.Decoder(Answer).decode


class Result(msgspec.Struct, frozen=True):
    """How a flight ended. `shared`: for all who wait on it; else the next of them takes over."""

    outcome: JobOutcome
    shared: bool
    remember: bool = False  # the outcome also answers repeated pushes of the lead's id
    answer: Answer | None = None  # of this flight's own call, to be given to waiters as coalesced


class NotGranted(Exception):
    """The ledger did not let the call go out."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict


class Started(msgspec.Struct, frozen=True):
    """A call handed to a model's worker."""

    model: str
    want: Want
    result: asyncio.Future[Completed | CallFailed]


class Turns(Protocol):
    """Where flights wait for a slot in fair order."""

    async def turn(self, flight: Flight) -> Started:
        """Raises NoModelAvailable when the wait is over."""


class Generation:
    """Runs flights. Holds nothing of any one of them."""

    def __init__(
        self, *, fleet: Fleet, ledger: Ledger, turns: Turns, routing: RoutingConfig, on_unknown: OnUnknown,
        clock: Clock, redis_now_ms: Callable[[], int], rng: random.Random,
        on_settled: Callable[[AttemptRecord], None],
    ) -> None:  # fmt: skip
        self._fleet, self._ledger, self._turns = fleet, ledger, turns
        self._routing, self._on_unknown = routing, on_unknown
        self._clock, self._redis_now_ms, self._rng = clock, redis_now_ms, rng
        self._on_settled = on_settled

    async def run(self, flight: Flight) -> Result:
        """Bring the flight to its end. Raises GenerationError for what ends it without a call."""
        if flight.lead.size > LARGE_BYTES:
            flight.prompt_bounds = await self._fleet.prompt_bounds(flight.route, flight.lead.job)
        if self._fleet.has_slot(flight.route):
            flight.looked = True  # the claim itself looks
        while True:
            if not flight.looked:
                verdict = await self._ledger.ask(self._ask(flight, None))
                result = await self._heed(flight, verdict)
                if result is not None:
                    return result
                if isinstance(verdict, Busy):
                    continue
                flight.looked = True
            result = await self._attempts(flight)
            if result is not None:
                return result

    # -- asking the ledger ---------------------------------------------------------------------------

    def _ask(self, flight: Flight, want: Want | None) -> Ask:
        lead, job = flight.lead, flight.lead.job
        return Ask(
            ref=lead.ref,
            key=flight.key,
            cache_key=lead.key if job.cache == "use" else None,
            digest=lead.key,
            tenant=job.tenant,
            client_id=job.client_id,
            redelivered=lead.redelivered,
            waited_since_ms=flight.waited_since_ms,
            holding=flight.holding,
            want=want,
        )

    async def _heed(self, flight: Flight, verdict: Verdict | None) -> Result | None:
        """What a verdict means; None: go on (after waiting, if somebody else is at it)."""
        match verdict:
            case Hit(answer):
                waited = flight.waited_since_ms is not None
                hit = Answered(answer=decode_answer(answer), cache_hit=not waited, coalesced=waited)
                return Result(hit, shared=True)
            case Replay(outcome, own):
                return Result(_replayed(decode_outcome(outcome), own=own), shared=False)
            case Conflict():
                raise IdConflict("this id was used before with another payload; choose a new id")
            case OverBudget():
                return await self._over_budget(verdict)
            case Busy(on_id):
                await self._wait_elsewhere(flight, on_id=on_id)
            case Clear(prior) | Granted(prior):
                self._heed_prior(flight, prior)
        return None

    async def _wait_elsewhere(self, flight: Flight, *, on_id: bool) -> None:
        job = flight.lead.job
        if flight.waited_since_ms is None:
            flight.waited_since_ms = int(self._clock.wall() * 1000)
        flight.looked = False
        on_client_id = on_id and job.client_id is not None
        token = OnId(job.tenant, job.client_id or "") if on_client_id else OnKey(flight.key)
        await self._ledger.wait(token)

    def _heed_prior(self, flight: Flight, prior: Sequence[str]) -> None:
        """An earlier process died over this very entry: may the job be sent again?"""
        doubtful = sum(state == Outcome.UNKNOWN for state in prior)
        if not doubtful:
            return
        policy = flight.lead.job.on_unknown or self._on_unknown
        if policy == "fail" or doubtful >= self._routing.max_attempts:
            raise OutcomeUnknown(
                f"a process died after sending this job {doubtful} time(s); the provider may have done the work"
            )

    async def _over_budget(self, verdict: OverBudget) -> Result | None:
        """Blocked by holds: wait for them. Blocked by what is spent, or by an unknown price: refused."""
        if verdict.by_holds:
            await sleep(self._clock, 0.05 + 0.1 * self._rng.random())
            return None
        scope = verdict.scope
        ceiling = format_usd(scope.ceiling_nano or 0)
        if verdict.bound_nano is None:
            raise BudgetExceeded(
                f"the price of this call is unknown and {scope.name} has a ceiling of {ceiling} USD; "
                "set input_cost_per_mtok, output_cost_per_mtok and max_output_tokens",
                retryable=False,
            )
        wait_s = None if scope.reset_ms is None else max(0.0, scope.reset_ms / 1000 - self._clock.wall())
        raise BudgetExceeded(
            f"{scope.name} has spent {format_usd(verdict.spent_nano)} of {ceiling} USD; "
            f"this call may cost {format_usd(verdict.bound_nano)}",
            retryable=wait_s is not None,
            retry_after_s=wait_s,
        )

    # -- attempts ------------------------------------------------------------------------------------

    async def _attempts(self, flight: Flight) -> Result | None:
        """Attempt after attempt until one answers or none may follow; None: look at the ledger again."""
        started = await self._turns.turn(flight)
        while True:
            try:
                result = await started.result
            except NotGranted as refused:
                return await self._heed(flight, refused.verdict)
            except (WorkerStopped, NotAdmitted):
                if not self._doubtful(flight, started, Outcome.MAYBE, code="internal_error"):
                    return None  # nothing was sent: another turn
                raise InternalError("the model's worker failed after the call was sent") from None
            except asyncio.CancelledError:
                self._doubtful(flight, started, Outcome.CANCELLED, code=None)
                raise
            except GenerationError as error:
                self._doubtful(flight, started, Outcome.MAYBE, code=error.code)
                raise
            if isinstance(result, Completed):
                return await self._answered(flight, started, result)
            next_step = self._failed(flight, started, result)
            if isinstance(next_step, GiveUp):
                return await self._gave_up(flight, result.error, unknown=next_step.unknown)
            following = await self._next(flight, next_step)
            if following is None:
                return await self._gave_up(flight, result.error, unknown=False)
            started = following

    def start(self, flight: Flight, models: Sequence[str]) -> Started | None:
        """Hand the next attempt to a worker with a free slot, now; None when there is none."""
        model = self._fleet.choose(models)
        return None if model is None else self._submit(flight, model)

    def _submit(self, flight: Flight, model: str) -> Started | None:
        member, job = self._fleet[model], flight.lead.job
        want = Want(
            attempt_id=self._ledger.next_attempt_id(),
            model=model,
            provider=member.config.provider,
            bound_nano=self._fleet.bound_nano(model, job, flight.prompt_bounds.get(model)),
            scopes=self._fleet.scopes(model),
        )
        flight.text = []
        call = Call(
            request=Request(messages=job.messages, params=job.params, stream=job.stream),
            deadline=self._clock.monotonic() + member.config.routing.timeout_s,
            on_delta=flight.text.append if job.stream else None,
            before_send=partial(self._claim, flight, want),
        )
        try:
            return Started(model, want, member.worker.submit(call))
        except (WorkerStopped, MailboxFull):
            return None

    async def _claim(self, flight: Flight, want: Want) -> None:
        """The last step before the provider is called: the attempt goes on record, its bound is held."""
        verdict = await self._ledger.ask(self._ask(flight, want), orphaned=partial(self._void, flight, want))
        if not isinstance(verdict, Granted):
            assert verdict is not None
            raise NotGranted(verdict)
        flight.holding = True
        try:
            self._heed_prior(flight, verdict.prior)
        except OutcomeUnknown:
            self._void(flight, want, verdict)
            raise
        if flight.sent_attempt is None:
            flight.lead.queued_ms = max(0, self._redis_now_ms() - flight.lead.ref.pushed_ms)
        flight.sent_attempt = want.attempt_id

    def _void(self, flight: Flight, want: Want, verdict: Verdict | None) -> None:
        """Granted, but never sent: certainly not billed."""
        if isinstance(verdict, Granted):
            settled = Settled(
                attempt_id=want.attempt_id, model=want.model, state="void", bound_nano=want.bound_nano,
                cost_nano=0, scopes=want.scopes, latency_ms=0.0,
            )  # fmt: skip
            flight.holding = False
            self._ledger.tell(Landing(settled=settled, release_key=flight.key))

    async def _answered(self, flight: Flight, started: Started, result: Completed) -> Result:
        completion, job = result.completion, flight.lead.job
        usage = completion.usage or self._fleet.estimate(started.model, job, completion.output)
        answer = Answer(
            model=started.model,
            provider=started.want.provider,
            output=completion.output,
            finish_reason=completion.finish_reason,
            usage=usage,
            latency_ms=round(result.latency_ms, 3),
            tool_calls=completion.tool_calls,
        )
        cost = self._fleet.cost_nano(started.model, usage) or 0
        flight.cost_nano += cost
        attempt = _attempt(started, Outcome.OK, latency_ms=result.latency_ms, cost_nano=cost, status_code=200)
        self._note(flight, attempt, cost, usage=usage, finish_reason=completion.finish_reason)
        flight.settled = Settled(
            attempt_id=started.want.attempt_id,
            model=started.model,
            state=Outcome.OK,
            bound_nano=started.want.bound_nano,
            cost_nano=cost,
            scopes=started.want.scopes,
            latency_ms=result.latency_ms,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            provider_request_id=completion.provider_request_id,
            cache=self._cache_write(flight, started.model, answer, completion),
        )
        outcome = Answered(answer=answer, cost_nano=flight.cost_nano, attempts=tuple(flight.attempts))
        return Result(outcome, shared=True, remember=True, answer=answer)

    def _cache_write(
        self, flight: Flight, model: str, answer: Answer, completion: Completion
    ) -> CacheWrite | None:
        """Every shareable answer is kept a moment for those who wait elsewhere; whole ones for the TTL."""
        if flight.lead.job.cache == "off":
            return None
        routing = self._fleet[model].config.routing
        reusable = routing.cache_enabled and completion.finish_reason in ("stop", "tool_calls")
        return CacheWrite(
            key=flight.lead.key,
            answer=_encode_answer(answer),
            ttl_ms=int(routing.cache_ttl_seconds * 1000) if reusable else 0,
            max_entries=max(1, routing.cache_max_entries),
        )

    def _doubtful(self, flight: Flight, started: Started, outcome: Outcome, *, code: str | None) -> bool:
        """A call that ended without a word may be billed if it was sent: it is charged at its bound."""
        if flight.sent_attempt != started.want.attempt_id:
            return False
        cost = started.want.bound_nano or 0
        flight.cost_nano += cost
        self._note(flight, _attempt(started, outcome, latency_ms=0.0, cost_nano=cost, code=code), cost)
        flight.settled = Settled(
            attempt_id=started.want.attempt_id,
            model=started.model,
            state=outcome,
            bound_nano=started.want.bound_nano,
            cost_nano=cost,
            scopes=started.want.scopes,
            latency_ms=0.0,
            error_code=code,
        )
        return True

    def _failed(self, flight: Flight, started: Started, result: CallFailed) -> TryOneOf | GiveUp:
        """Book the failure and decide what follows."""
        error = result.error
        doubtful = CONSEQUENCES[error.failure].billed is Billed.MAYBE
        cost = (started.want.bound_nano or 0) if doubtful else 0
        state = Outcome.MAYBE if doubtful else Outcome.FAILED
        flight.cost_nano += cost
        attempt = _attempt(
            started,
            state,
            latency_ms=result.latency_ms,
            cost_nano=cost,
            status_code=error.status_code,
            code=error.code,
        )
        self._note(flight, attempt, cost)
        flight.settled = Settled(
            attempt_id=started.want.attempt_id,
            model=started.model,
            state=state,
            bound_nano=started.want.bound_nano,
            cost_nano=cost,
            scopes=started.want.scopes,
            latency_ms=result.latency_ms,
            status_code=error.status_code,
            error_code=error.code,
            provider_request_id=error.provider_request_id,
        )
        flight.tried.append(Tried(started.model, error.failure, error.retryable, error.retry_after_s))
        return after_failure(
            flight.tried,
            [one.name for one in flight.route.candidates],
            max_attempts=self._routing.max_attempts,
            on_unknown=flight.lead.job.on_unknown or self._on_unknown,
            jitter=self._rng.random(),
        )

    def _note(
        self,
        flight: Flight,
        attempt: Attempt,
        cost_nano: int,
        *,
        usage: Usage | None = None,
        finish_reason: FinishReason | None = None,
    ) -> None:
        """Add an attempt to the job's list and tell telemetry."""
        flight.attempts.append(attempt)
        now = self._clock.monotonic()
        record = AttemptRecord(
            attempt=attempt,
            number=len(flight.attempts),
            started_at=now - attempt.latency_ms / 1000,
            finished_at=now,
            cost_nano=cost_nano,
            usage=usage,
            finish_reason=finish_reason,
        )
        flight.records.append(record)
        self._on_settled(record)

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

    async def _gave_up(self, flight: Flight, error: UpstreamError, *, unknown: bool) -> Result:
        final: GenerationError = error
        if unknown:
            final = OutcomeUnknown(
                f"{error.detail}; on_unknown = fail forbids sending it again",
                provider=error.provider,
                status_code=error.status_code,
            )
        return Result(
            failed(final, cost_nano=flight.cost_nano, attempts=flight.attempts),
            shared=final.shared,
            remember=final.remembered,
        )


def failed(error: GenerationError, *, cost_nano: int = 0, attempts: Sequence[Attempt] = ()) -> Failed:
    """The error as a job's outcome."""
    return Failed(
        code=error.code,
        message=str(error),
        retryable=error.retryable,
        provider=error.provider,
        status_code=error.status_code,
        retry_after_ms=None if error.retry_after_s is None else int(error.retry_after_s * 1000),
        cost_nano=cost_nano,
        attempts=tuple(attempts),
    )


def _attempt(
    started: Started,
    outcome: Outcome,
    *,
    latency_ms: float,
    cost_nano: int,
    status_code: int | None = None,
    code: str | None = None,
) -> Attempt:
    return Attempt(
        model=started.model,
        provider=started.want.provider,
        outcome=outcome,
        status_code=status_code,
        latency_ms=round(latency_ms, 3),
        cost=to_usd(cost_nano),
        error_code=code,
    )


def _replayed(outcome: JobOutcome, *, own: bool) -> JobOutcome:
    """The entry's own outcome comes back as it was; a repeated id pays nothing."""
    return outcome if own else msgspec.structs.replace(outcome, cost_nano=0)


__all__ = [
    "Generation",
    "InternalError",
    "NoModelAvailable",
    "Result",
    "Started",
    "Turns",
    "decode_answer",
    "failed",
]
