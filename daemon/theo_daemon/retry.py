"""What comes after a failed attempt: another candidate, the same one again later, or the end."""

from __future__ import annotations

from collections.abc import Sequence

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


def after_failure(
    tried: Sequence[Tried],
    candidates: Sequence[str],
    *,
    max_attempts: int,
    on_unknown: OnUnknown,
    jitter: float,
) -> TryOneOf | GiveUp:
    """Decide after the last of `tried`; `jitter` is drawn from [0, 1).

    A candidate not tried yet is always tried, unless the request itself was refused. Tried ones come again
    while attempts are left, after full-jitter backoff (Brooker, AWS Architecture Blog, 2015) or the wait that
    the provider asked for, whichever is longer.
    """
    last = tried[-1]
    consequence = CONSEQUENCES[last.failure]
    if consequence.next_step is NextStep.TERMINAL:
        return GiveUp()
    if consequence.billed is Billed.MAYBE and on_unknown == "fail":
        return GiveUp(unknown=True)
    seen = {one.model for one in tried}
    fresh = tuple(model for model in candidates if model not in seen)
    if fresh:
        return TryOneOf(fresh)
    if len(tried) >= max_attempts:
        return GiveUp()
    latest = {one.model: one for one in tried}
    again = tuple(model for model in candidates if model in latest and _may_repeat(latest[model]))
    if not again:
        return GiveUp()
    rounds = max(sum(one.model == model for one in tried) for model in again)
    backoff = jitter * min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2.0 ** (rounds - 1))
    asked = min((latest[model].retry_after_s or 0.0) for model in again)
    return TryOneOf(again, delay_s=max(backoff, asked))


def _may_repeat(tried: Tried) -> bool:
    return tried.retryable and CONSEQUENCES[tried.failure].next_step in (NextStep.RETRY, NextStep.RESEND)
