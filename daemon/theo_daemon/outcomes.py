"""How a job's end is put into words: errors as outcomes, attempts as replies list them."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import TypeVar

from msgspec import Struct, structs

from theo_daemon.job import Answer, Failed, JobOutcome
from theo_daemon.ledger.records import PriorAttempt, Settled, Want
from theo_daemon.ledger.unknown_calls import NOT_ERRORS
from theo_daemon.money import to_usd
from theo_workers.errors import GenerationError, UpstreamError
from theo_workers.messages import Attempt, Outcome

Told = TypeVar("Told", bound=JobOutcome)


class Result(Struct, frozen=True):
    """How a flight ended. `shared`: for all who wait on it; else the next of them takes over."""

    outcome: JobOutcome
    shared: bool
    remember: bool = False  # the outcome also answers repeated pushes of the lead's id
    answer: Answer | None = None  # of this flight's own call, to be given to waiters as coalesced
    dead: bool = False  # the job also goes to the dead letters


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


def attempt(
    want: Want,
    outcome: Outcome,
    *,
    latency_ms: float,
    cost_nano: int,
    status_code: int | None = None,
    code: str | None = None,
) -> Attempt:
    """One attempt as replies list it."""
    return Attempt(
        model=want.model,
        provider=want.provider,
        outcome=outcome,
        status_code=status_code,
        latency_ms=round(latency_ms, 3),
        cost=to_usd(cost_nano),
        error_code=code,
    )


def settled(
    want: Want, state: str, *, cost_nano: int, latency_ms: float, error: UpstreamError | None = None,
    code: str | None = None,
) -> Settled:  # fmt: skip
    """The end of one attempt, for the books."""
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


def earlier(prior: PriorAttempt) -> Attempt:
    """An attempt of an earlier owner as replies list it."""
    return Attempt(
        model=prior.model,
        provider=prior.provider,
        outcome=prior.state,
        status_code=prior.status_code,
        latency_ms=prior.latency_ms,
        cost=to_usd(prior.cost_nano),
        error_code=None if prior.error_code in NOT_ERRORS else prior.error_code,
    )


def with_prior(outcome: Told, prior: Sequence[PriorAttempt], *, but: Container[int] = ()) -> Told:
    """An error that ends a job of which this is on record: it tells of those calls and pays for them, `but` these."""
    calls = [one for one in sorted(prior, key=lambda one: one.attempt_id) if one.is_call]
    calls = [one for one in calls if one.attempt_id not in but]
    cost_nano = sum(one.cost_nano for one in calls)
    return structs.replace(outcome, cost_nano=cost_nano, attempts=tuple(map(earlier, calls)))


def replayed(outcome: JobOutcome, *, own: bool) -> JobOutcome:
    """The entry's own outcome comes back as it was; a repeated id pays nothing."""
    return outcome if own else structs.replace(outcome, cost_nano=0)
