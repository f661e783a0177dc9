"""May this model be asked now? Its breaker, its pause after a 429, its credential and its slots, taken together."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from msgspec import Struct

from theo_workers.breaker import Breaker, Closed, Counted, HalfOpen, Open, Permit, State, Verdict
from theo_workers.errors import NotAdmitted, ProviderTimeout, UpstreamError
from theo_workers.failures import CONSEQUENCES, BreakerEffect
from theo_workers.slots import Slots

PAUSE_S = 1.0  # after a 429 that names no time, ± 20 %
LONGEST_PAUSE_S = 120.0  # whatever a provider says, we ask again after this
ENOUGH_S = 30.0  # a model that said nothing for this long has had its chance
USUAL_FACTOR = 4.0  # and so has one that took this many times longer than usual, but no less than
LEAST_S = 1.0  # this
TIMER_SLACK_S = 0.05  # a time-out rings this much early at most
LONGER_S = 1.0  # a pause made longer by less is nothing to tell of
PACE_S = 1.0  # for so long a word about the rate is worth something; then calls are let out to hear the next

Reason = Literal["circuit_open", "paused", "disabled", "stopped"]


class Available(Struct, frozen=True):
    """A call may be made."""


class Unavailable(Struct, frozen=True):
    """No call may be made before `until`, monotonic seconds; None when only an event can tell."""

    reason: Reason
    until: float | None


class Paused(Struct, frozen=True):
    """The provider asked us to wait until `until`, monotonic seconds."""

    event: ClassVar[str] = "model_paused"

    until: float


class Disabled(Struct, frozen=True):
    """The credential is of no use, or an operator said so: no calls until `reset`."""

    event: ClassVar[str] = "model_disabled"

    cause: str  # an error code, or the operator's word


Change = State | Counted | Paused | Disabled


class Shared(Struct, frozen=True, kw_only=True):
    """What all processes hold true of a model. Times are monotonic seconds, -inf where nothing is on."""

    open_until: float | None = None  # None: closed
    openings: int = 0
    probed_until: float = -math.inf  # another process's probe decides; until then at the latest
    paused_until: float = -math.inf
    disabled: str | None = None
    anew: bool = False  # the circuit has changed: what failed before counts no more


class Pace(Struct, frozen=True):
    """Room for `calls` from `since` (monotonic seconds) on: the model's rate, as far as this process knows it."""

    since: float
    calls: int


AVAILABLE = Available()

_VERDICTS = {
    BreakerEffect.FAILURE: Verdict.FAILURE,
    BreakerEffect.NEUTRAL: Verdict.ACCEPTED,
    BreakerEffect.PAUSE: Verdict.PUSHED_BACK,
    BreakerEffect.DISABLE: Verdict.NEUTRAL,  # no calls until an operator resets it, who makes a new beginning
}


class Standing:
    """What admits a call, and what its end changes. `now` is monotonic seconds, `jitter` is in [0, 1)."""

    def __init__(self, breaker: Breaker, slots: Slots, *, timeout_s: float = 120.0) -> None:
        """`timeout_s` is what the model is given when the job sets no earlier deadline."""
        self.breaker, self.slots = breaker, slots
        self.paused_until = -math.inf
        self.disabled: Disabled | None = None
        self.pace: Pace | None = None  # None: as many as there are slots
        self._probed_until = -math.inf  # by another process
        self._timeout_s = timeout_s

    def availability(self, now: float) -> Available | Unavailable:
        """Whether a call made now would be admitted; changes nothing."""
        if self._at_ease(now):
            return AVAILABLE
        if self.disabled is not None:
            return Unavailable("disabled", None)
        match self.breaker.peek(now):
            case Open(until=until):
                return Unavailable("circuit_open", max(until, self.paused_until))
            case HalfOpen(probing=probing) if probing or now < self._probed_until:
                return Unavailable("circuit_open", None)
        if now < self.paused_until:
            return Unavailable("paused", self.paused_until)
        return AVAILABLE

    def admits(self, now: float) -> float:
        """How many more calls would be admitted now: none, one (the probe), what the rate allows, or any number."""
        if self.pace is None and self._at_ease(now):
            return math.inf
        if isinstance(self.availability(now), Unavailable):
            return 0
        paced = math.inf if self.pace is None else self._paced(self.pace, now)
        return paced if isinstance(self.breaker.state, Closed) else min(1, paced)

    def in_pace(self, now: float) -> bool:
        """Does the model's rate have room for a call?"""
        return self.pace is None or self._paced(self.pace, now) > 0

    def admit(self, now: float) -> Permit:
        """Raises NotAdmitted. Every permit must go to exactly one of the methods below."""
        match self.availability(now):
            case Unavailable(reason=reason, until=until):
                raise NotAdmitted(reason, until)
        if self.pace is not None and self.pace.calls > 0:
            self.pace = Pace(self.pace.since, self.pace.calls - 1)
        return self.breaker.admit(now)

    def succeeded(self, permit: Permit, now: float) -> State | None:
        """The model answered."""
        entered = self.breaker.settle(permit, Verdict.SUCCESS, now, 0.0)
        if entered is not None:  # closed, by a probe
            self.slots.recover(now, now)
        return entered

    def abandoned(self, permit: Permit, now: float) -> None:
        """The call ended without a word about the model."""
        self.breaker.settle(permit, Verdict.NEUTRAL, now, 0.0)

    def broke(self, permit: Permit, now: float, jitter: float) -> Change | None:
        """The adapter failed in a way nobody foresaw: to the caller that is a failing model."""
        return self._settle(permit, Verdict.FAILURE, now, jitter)

    def failed(
        self, permit: Permit, effect: BreakerEffect, error: UpstreamError, now: float, jitter: float
    ) -> Change | None:
        """The model failed; `effect` is from `effect_of`. Returns what changed, if anything."""
        entered = self._settle(permit, _verdict(effect, error), now, jitter)
        match effect:
            case BreakerEffect.PAUSE:
                return self._pause(now + _pause_s(error.retry_after_s, jitter), now)
            case BreakerEffect.DISABLE:
                return self.disable(error.code)
        return entered

    def effect_of(
        self, error: UpstreamError, *, given_s: float, waited_s: float, usual_s: float | None
    ) -> BreakerEffect:
        """What `error` means here: the table's row, but a time-out of an impatient job is no evidence.

        `given_s` is the time from sending to the call's deadline, `usual_s` the model's average latency.
        Otherwise one client with a tiny deadline could open the circuit for everybody.
        """
        effect = CONSEQUENCES[error.failure].breaker
        used_up = waited_s >= given_s - TIMER_SLACK_S
        if isinstance(error, ProviderTimeout) and used_up and given_s < self._enough_s(usual_s):
            return BreakerEffect.NEUTRAL
        return effect

    def disable(self, cause: str) -> Disabled | None:
        """Admit nothing until `reset`. Returns None when it was disabled already."""
        if self.disabled is not None:
            return None
        self.disabled = Disabled(cause)
        return self.disabled

    def reset(self) -> None:
        """An operator's word: enabled, not paused, circuit closed, all slots."""
        self.disabled = None
        self.paused_until = self._probed_until = -math.inf
        self.breaker.force_close()
        self.slots.fill()

    def adopt(self, shared: Shared, now: float) -> None:
        """Take over what all processes hold true. Evidence of our own is kept where that is no news."""
        self._probed_until = shared.probed_until
        if shared.open_until is not None:
            self.breaker.force_open(shared.open_until, now, openings=shared.openings)
        elif not isinstance(self.breaker.state, Closed):
            self.breaker.force_close()
            self.slots.recover(now, now)
        elif shared.anew:
            self.breaker.force_close()
        if shared.paused_until > now:
            self._pause(shared.paused_until, now)
        else:  # it is over, or an operator ended it
            self.paused_until = shared.paused_until
        self.disabled = None if shared.disabled is None else Disabled(shared.disabled)

    def next_change(self, now: float) -> float | None:
        """When an opening, a pause, another's probe, a want of pace or a part of the ramp ends next, if one is on."""
        ends = [self.paused_until, self._probed_until]
        if self.pace is not None:
            ends += [self.pace.since, self.pace.since + PACE_S]
        ends = [end for end in ends if end > now]
        match self.breaker.peek(now):
            case Open(until=until):
                ends.append(until)
        if (more := self.slots.next_change(now)) < math.inf:
            ends.append(more)
        return min(ends, default=None)

    def _settle(self, permit: Permit, verdict: Verdict, now: float, jitter: float) -> State | Counted | None:
        """Of a call that failed."""
        before = self.breaker.state
        return self.breaker.settle(permit, verdict, now, jitter) or self.breaker.counted(before)

    def _pause(self, until: float, now: float) -> Paused | None:
        known, self.paused_until = self.paused_until, max(self.paused_until, until)  # only ever made longer
        if until > known:  # a short one has a short ramp
            self.slots.recover(until, now, at_most_s=until - now)
        # One change, though every call in flight brings its own 429.
        return Paused(until) if known <= now or until > known + LONGER_S else None

    def _paced(self, pace: Pace, now: float) -> float:
        if now < pace.since:
            return 0
        return pace.calls if now < pace.since + PACE_S else math.inf

    def _at_ease(self, now: float) -> bool:
        """The ordinary case, asked several times for every call: nothing stands in the way."""
        return isinstance(self.breaker.state, Closed) and self.disabled is None and now >= self.paused_until

    def _enough_s(self, usual_s: float | None) -> float:
        # Half the time-out, since a call sets out with a little less than all of it.
        enough_s = min(ENOUGH_S, self._timeout_s / 2)
        return enough_s if usual_s is None else min(enough_s, max(LEAST_S, USUAL_FACTOR * usual_s))


def _verdict(effect: BreakerEffect, error: UpstreamError) -> Verdict:
    if effect is BreakerEffect.NEUTRAL and CONSEQUENCES[error.failure].breaker is not effect:
        return Verdict.NEUTRAL  # a failure that was excused
    return _VERDICTS[effect]


def _pause_s(retry_after_s: float | None, jitter: float) -> float:
    # What a provider sends is not trusted: negative, zero and NaN are no answer, and too long is cut.
    if retry_after_s is None or not retry_after_s > 0:
        return PAUSE_S * (0.8 + 0.4 * jitter)
    return min(retry_after_s, LONGEST_PAUSE_S)
