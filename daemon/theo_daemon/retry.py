"""What comes after a failed attempt: another candidate, the same one again later, or the end."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

from msgspec import Struct

from theo_daemon.job import OnUnknown
from theo_workers.failures import CONSEQUENCES, Billed, FailureClass, NextStep

BACKOFF_BASE_S = 0.5
BACKOFF_CAP_S = 8.0


class Tried(Struct, frozen=True, gc=False):
    """One failed attempt, as far as the next step depends on it."""

    model: str
    failure: FailureClass
    retryable: bool
    retry_after_s: float | None = None
    code: str | None = None  # of the error


class TryOneOf(Struct, frozen=True):
    """Attempt one of these candidates, not before `delay_s` from now."""

    models: tuple[str, ...]
    delay_s: float = 0.0


class GiveUp(Struct, frozen=True):
    """The last failure is the job's. `unknown`: nobody knows whether it was billed, and it must not be repeated."""

    unknown: bool = False


class Limits(Struct, frozen=True, kw_only=True):
    """What a job may do after a failure. `max_wait_s` is the longest Retry-After that is waited for."""

    max_attempts: int
    max_wait_s: float
    on_unknown: OnUnknown


def after_failure(
    tried: Sequence[Tried],
    candidates: Sequence[str],
    *,
    available: Container[str],
    unpaid: Container[str] = (),
    limits: Limits,
    jitter: float,
) -> TryOneOf | GiveUp:
    """Decide after the last of `tried`; `jitter` is drawn from [0, 1).

    `available` are the candidates that take calls now, `unpaid` those whose endpoint's retry budget covers no repeat.

    A candidate not tried yet is always tried, unless the request itself was refused; it is waited for if it takes no
    calls now and no other is left. Tried ones come again while attempts are left, after full-jitter backoff (Brooker,
    AWS Architecture Blog, 2015) or the wait that the provider asked for, whichever is longer.
    """
    last = tried[-1]
    consequence = CONSEQUENCES[last.failure]
    if consequence.next_step is NextStep.TERMINAL:
        return GiveUp()
    if consequence.billed is Billed.MAYBE and limits.on_unknown == "fail":
        return GiveUp(unknown=True)
    seen = {one.model for one in tried}
    fresh = tuple(model for model in candidates if model not in seen)
    if any(model in available for model in fresh):
        return TryOneOf(fresh)
    latest = {one.model: one for one in tried}
    again = () if len(tried) >= limits.max_attempts else _repeatable(latest, candidates, unpaid, limits)
    if not again:
        return TryOneOf(fresh) if fresh else GiveUp()
    rounds = max(sum(one.model == model for one in tried) for model in again)
    backoff = jitter * min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2.0 ** (rounds - 1))
    asked = {model: latest[model].retry_after_s or 0.0 for model in again}
    if fresh:  # who asked for a longer wait than that must not make those wait who never failed
        again = tuple(model for model in again if asked[model] <= backoff)
        return TryOneOf((*fresh, *again), delay_s=backoff if again else 0.0)
    return TryOneOf(again, delay_s=max(backoff, min(asked.values())))


def _repeatable(
    latest: Mapping[str, Tried], candidates: Sequence[str], unpaid: Container[str], limits: Limits
) -> tuple[str, ...]:
    tried = (model for model in candidates if model in latest and model not in unpaid)
    return tuple(model for model in tried if _may_repeat(latest[model], limits))


def _may_repeat(tried: Tried, limits: Limits) -> bool:
    may = CONSEQUENCES[tried.failure].next_step in (NextStep.RETRY, NextStep.RESEND)
    return may and tried.retryable and (tried.retry_after_s or 0.0) <= limits.max_wait_s
