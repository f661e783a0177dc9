"""What a provider's failure means for the bill, for the circuit breaker and for the next step: one table."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct


class FailureClass(StrEnum):
    """Every way a call can fail, by what must follow from it."""

    NEVER_SENT = "never_sent"  # DNS, connect, TLS: the provider saw nothing
    OWN = "own"  # this process had no file left for a connection: no fault of the provider's
    RATE_LIMITED = "rate_limited"  # 429 that means "wait"
    CREDENTIAL = "credential"  # 401, 402, 403, 429 that means "no money": the key is of no use
    CALLER = "caller"  # the request itself is refused, and would be elsewhere
    MODEL_UNKNOWN = "model_unknown"  # this endpoint does not know the configured model
    SERVER = "server"  # 5xx, 529 before any body
    MAYBE = "maybe"  # reset, time-out, cut or garbage after sending


class Billed(StrEnum):
    """Did the provider do work that it charges for?"""

    NO = "no"
    MAYBE = "maybe"


class BreakerEffect(StrEnum):
    """What the failure is to the circuit breaker."""

    FAILURE = "failure"
    NEUTRAL = "neutral"
    PAUSE = "pause"  # neutral, and the model waits for the Retry-After
    DISABLE = "disable"  # neutral, and the credential is not tried again until an operator resets it


class NextStep(StrEnum):
    """May the job go on after this failure?"""

    TERMINAL = "terminal"  # the answer would be the same everywhere
    NEXT = "next"  # another candidate, never this one again for this job
    RETRY = "retry"  # another candidate first, then this one again
    RESEND = "resend"  # as RETRY, but only where `on_unknown` and max_attempts allow a second bill


class Consequence(Struct, frozen=True):
    """One row of the table."""

    billed: Billed
    breaker: BreakerEffect
    next_step: NextStep


CONSEQUENCES: dict[FailureClass, Consequence] = {
    FailureClass.NEVER_SENT: Consequence(Billed.NO, BreakerEffect.FAILURE, NextStep.RETRY),
    FailureClass.OWN: Consequence(Billed.NO, BreakerEffect.NEUTRAL, NextStep.RETRY),
    FailureClass.RATE_LIMITED: Consequence(Billed.NO, BreakerEffect.PAUSE, NextStep.RETRY),
    FailureClass.CREDENTIAL: Consequence(Billed.NO, BreakerEffect.DISABLE, NextStep.NEXT),
    FailureClass.CALLER: Consequence(Billed.NO, BreakerEffect.NEUTRAL, NextStep.TERMINAL),
    FailureClass.MODEL_UNKNOWN: Consequence(Billed.NO, BreakerEffect.NEUTRAL, NextStep.NEXT),
    FailureClass.SERVER: Consequence(Billed.NO, BreakerEffect.FAILURE, NextStep.RETRY),
    FailureClass.MAYBE: Consequence(Billed.MAYBE, BreakerEffect.FAILURE, NextStep.RESEND),
}
