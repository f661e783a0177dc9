"""The circuit breaker of one model: after enough failures no calls, then one probe, then calls again.

   ┌────────────── failures ──────────────┐
Closed ◄── good probe ── HalfOpen ◄── time ── Open
                             └── bad probe ──►┘
"""

from __future__ import annotations

from enum import Enum
from typing import ClassVar, Literal

from msgspec import Struct

from theo_workers.drift import Drift
from theo_workers.errors import CircuitOpen
from theo_workers.failure_rate import FailureRate, RateRule
from theo_workers.throttle import Throttle

LONGEST_FACTOR = 8  # openings double up to this multiple of the first
SPREAD = 0.2  # and vary by this share, so that many processes do not probe in step

Reason = Literal["in_a_row", "rate", "unusual", "probe"]
"""Why it opened: failures in a row, too many in the window, more than is usual for the model, a failed probe."""


class Verdict(Enum):
    """What a call says about the model."""

    SUCCESS = "success"
    FAILURE = "failure"
    NEUTRAL = "neutral"  # nothing: abandoned, or out of patience
    ACCEPTED = "accepted"  # that it takes calls: this one was refused for its own fault
    PUSHED_BACK = "pushed_back"  # that it takes fewer calls than it gets: rate limited


class Closed(Struct, frozen=True):
    """Calls are made. Left when failures trip it."""

    event: ClassVar[str] = "circuit_closed"

    failures: int = 0  # in a row


class Open(Struct, frozen=True):
    """No calls before `until`, monotonic seconds. Left by the first call after it, the probe."""

    event: ClassVar[str] = "circuit_opened"

    until: float
    openings: int = 1  # since it was last closed
    reason: Reason = "in_a_row"


class HalfOpen(Struct, frozen=True):
    """One call at a time, the probe, decides. A probe without a verdict makes room for the next."""

    event: ClassVar[str] = "circuit_half_open"

    openings: int
    probing: bool = False


State = Closed | Open | HalfOpen

_ACCEPTS = {
    Verdict.SUCCESS: True,
    Verdict.ACCEPTED: True,
    Verdict.FAILURE: False,
    # No failure of the model; but to the source of the formula, which see, a refusal by quota is what a refusal is.
    Verdict.PUSHED_BACK: False,
}
"""What the throttle makes of a verdict; one that is not here says nothing to it."""


class Counted(Struct, frozen=True):
    """One more failure of the closed circuit, `failures` in a row: not enough to open it here.

    Processes that share the model count together: `threshold` of them in a row open it for `timeout_s`.
    """

    event: ClassVar[str] = "failure_counted"

    failures: int
    threshold: int
    timeout_s: float


_CLOSED = Closed()


class Permit(Struct, frozen=True):
    """The right to one call, dated by the breaker's generation. `probe`: it is one, and what the state is now."""

    generation: int
    probe: HalfOpen | None = None


class Breaker:
    """Circuit breaker (Nygard, Release It!). `now` is monotonic seconds; `jitter` is drawn from [0, 1).

    It opens after `threshold` failures in a row (`adaptive`: after as many as are unusual for this model) or, if
    given, by `rate`. The first opening lasts exactly `timeout_s`; each one that follows a failed probe lasts twice
    the one before, up to `LONGEST_FACTOR` times the first and ± `SPREAD`. One good probe closes it. A `throttle`
    hears of the closed circuit's calls; whoever chooses a model asks it.
    """

    def __init__(
        self,
        *,
        threshold: int = 3,
        timeout_s: float = 60.0,
        rate: RateRule | None = None,
        adaptive: bool = False,
        throttle: Throttle | None = None,
    ) -> None:
        if threshold < 1 or timeout_s <= 0:
            raise ValueError(f"threshold {threshold} must be at least 1 and timeout_s {timeout_s} above 0")
        self.threshold, self.timeout_s = threshold, timeout_s
        self.state: State = _CLOSED
        self.drift = Drift(threshold) if adaptive else None
        self.throttle = throttle
        self._rate = None if rate is None else FailureRate(rate)
        self._permit = Permit(0)  # of the current generation, which counts changes so that evidence is dated

    def peek(self, now: float) -> State:
        """The state as a call made now would find it; changes nothing."""
        match self.state:
            case Open(until=until, openings=openings) if until <= now:
                return HalfOpen(openings)
            case state:
                return state

    def admit(self, now: float) -> Permit:
        """Raises CircuitOpen when no call may be made. Every permit must be settled, abandoned calls too."""
        match self.state:
            case Closed():
                return self._permit
            case Open(until=until) if now < until:
                raise CircuitOpen(retry_after_s=until - now)
            case HalfOpen(probing=True):
                raise CircuitOpen(retry_after_s=None)
            case Open(openings=openings):
                probing = HalfOpen(openings, probing=True)
                self._enter(probing)
                return Permit(self._permit.generation, probing)
            case HalfOpen(openings=openings):
                self.state = probing = HalfOpen(openings, probing=True)
                return Permit(self._permit.generation, probing)

    def settle(self, permit: Permit, verdict: Verdict, now: float, jitter: float) -> State | None:
        """Take what a call showed; returns the state it led to, if it changed.

        A permit from before the last change is stale: its verdict counts for nothing.
        """
        if permit.generation != self._permit.generation:
            return None
        match self.state:
            case Closed(failures=failures):
                return self._weigh(failures, verdict, now)
            case HalfOpen(openings=openings):
                return self._decide(openings, verdict, now, jitter)
        return None

    def counted(self, before: State) -> Counted | None:
        """The failure that the circuit bears since it was in the state `before`, if it met one.

        How many are unusual for the model (`adaptive`) is for each process to find out.
        """
        if self.state is before or not isinstance(self.state, Closed) or self.drift is not None:
            return None
        return Counted(self.state.failures, self.threshold, self.timeout_s)

    def force_open(self, until: float, now: float, *, openings: int = 1) -> None:
        """Take over an opening known from elsewhere. Never shortens one; one that is over stops no probe."""
        match self.state:
            case Open(until=own) if until <= own:
                return
            case HalfOpen() if until <= now:
                return
        self._enter(Open(until, openings))

    def force_close(self) -> None:
        """Take over a closing known from elsewhere, or an operator's. Forgets all failures."""
        self._enter(_CLOSED)

    def _weigh(self, failures: int, verdict: Verdict, now: float) -> State | None:
        """A call of the closed circuit, after `failures` in a row, has ended."""
        if self.throttle is not None and (accepted := _ACCEPTS.get(verdict)) is not None:
            self.throttle.ended(accepted=accepted, now=now)
        if verdict is Verdict.SUCCESS:
            if self._rate is not None:
                self._rate.record(failed=False, now=now)
            if self.drift is not None:
                self.drift.succeeded()
            if failures:
                self.state = _CLOSED
        elif verdict is Verdict.FAILURE:
            if (reason := self._tripped(failures + 1, now)) is not None:
                return self._enter(Open(now + self.timeout_s, reason=reason))
            self.state = Closed(failures + 1)
        return None

    def _decide(self, openings: int, verdict: Verdict, now: float, jitter: float) -> State | None:
        """The probe has ended."""
        match verdict:
            case Verdict.SUCCESS:
                return self._enter(_CLOSED)
            case Verdict.FAILURE:
                return self._enter(Open(now + self._longer_s(openings, jitter), openings + 1, "probe"))
        self._enter(HalfOpen(openings))  # or we would stay half-open for ever
        return None

    def _tripped(self, failures: int, now: float) -> Reason | None:
        """Count one more failure, the last of `failures` in a row: why the circuit must open, if it must."""
        if self._rate is not None:
            self._rate.record(failed=True, now=now)
        if self.drift is not None:
            if self.drift.failed():
                return "unusual"
        elif failures >= self.threshold:
            return "in_a_row"
        return "rate" if self._rate is not None and self._rate.exceeded() else None

    def _longer_s(self, openings: int, jitter: float) -> float:
        # Bounded before the power: a model that is down for days counts more openings than a float holds.
        factor = min(LONGEST_FACTOR, 2.0 ** min(openings, 16))
        return self.timeout_s * factor * (1 - SPREAD + 2 * SPREAD * jitter)

    def _enter(self, state: State) -> State:
        self.state, self._permit = state, Permit(self._permit.generation + 1)
        if self._rate is not None:
            self._rate.clear()
        if self.drift is not None:
            self.drift.clear()
        if self.throttle is not None:
            self.throttle.clear()
        return state
