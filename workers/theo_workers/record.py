"""How a call ended, told to everyone who learns from it: the breaker, the health record, the observer."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from theo_workers.breaker import Counted, Open, Permit
from theo_workers.call import CallFailed, Completed, Observer, Result
from theo_workers.clock import Clock
from theo_workers.errors import GenerationError, InternalError, ProviderTimeout
from theo_workers.failures import CONSEQUENCES, Billed, BreakerEffect
from theo_workers.health import ModelHealth
from theo_workers.messages import Outcome
from theo_workers.standing import Change, Disabled, Paused, Standing

LOOK_EVERY = 32  # answered calls, before what is slow is looked at anew


class Record:
    """One model's. `now` is monotonic seconds; `changed` is called after the standing has changed."""

    def __init__(
        self,
        model: str,
        standing: Standing,
        health: ModelHealth,
        *,
        clock: Clock,
        rng: random.Random,
        observer: Observer,
        changed: Callable[[], None],
    ) -> None:
        self._model, self._standing, self._health = model, standing, health
        self._clock, self._rng, self._observer = clock, rng, observer
        self._changed = changed

    def completed(self, permit: Permit, result: Completed, now: float) -> None:
        """The model answered."""
        usage = result.completion.usage
        tokens = 0 if usage is None else usage.completion_tokens
        first_ms = result.completion.first_token_ms
        self._health.record_success(self._clock.wall(), result.latency_ms, tokens, first_ms)
        self.announce(self._standing.succeeded(permit, now), now)
        self._observer.on_attempt(self._model, Outcome.OK, result.latency_ms, None)

    def failed(self, permit: Permit, result: CallFailed, *, given_s: float, now: float) -> BreakerEffect:
        """The provider failed; `given_s` is the time from sending to the call's deadline. What it means here."""
        error, usual_ms = result.error, self._health.latency_ewma_ms
        effect = self._standing.effect_of(
            error,
            given_s=given_s,
            waited_s=result.latency_ms / 1000,
            usual_s=None if usual_ms is None else usual_ms / 1000,
        )
        if effect in (BreakerEffect.FAILURE, BreakerEffect.DISABLE):
            self._health.record_failure(self._clock.wall())
        self.announce(self._standing.failed(permit, effect, error, now, self._rng.random()), now, error)
        billed = CONSEQUENCES[error.failure].billed
        outcome = Outcome.MAYBE if billed is Billed.MAYBE else Outcome.FAILED
        self._observer.on_attempt(self._model, outcome, result.latency_ms, error)
        return effect

    def broke(self, permit: Permit, defect: InternalError, *, began: float, now: float) -> None:
        """The upstream's adapter failed in a way nobody foresaw."""
        self._health.record_failure(self._clock.wall())
        self.announce(self._standing.broke(permit, now, self._rng.random()), now, defect)
        self._observer.on_defect(self._model, defect)
        self._observer.on_attempt(self._model, Outcome.MAYBE, (now - began) * 1000, defect)

    def cancelled(self, permit: Permit, *, began: float, now: float) -> None:
        """The caller gave up a call that was sent."""
        self._standing.abandoned(permit, now)
        self._observer.on_attempt(self._model, Outcome.CANCELLED, (now - began) * 1000, None)

    def load(
        self, result: Result, effect: BreakerEffect | None, *, admitted: float, running: int, now: float
    ) -> None:
        """How the model bore a call that was admitted at that monotonic second; `effect` is from `failed`."""
        slots, load = self._standing.slots, self._standing.slots.load
        match result:
            case Completed(latency_ms=latency_ms):
                slots.answered(latency_ms, admitted=admitted, running=running, now=now)
                if load is not None and self._health.total_successes % LOOK_EVERY == 0:
                    load.learn(self._health.latency_ms(0.99))
            case CallFailed(error=error):
                late = isinstance(error, ProviderTimeout) and effect is BreakerEffect.FAILURE
                if late or effect is BreakerEffect.PAUSE:
                    slots.overloaded(admitted, now)

    def announce(self, change: Change | None, now: float, error: GenerationError | None = None) -> None:
        """Tell of a change, if there is one: what a method of Standing returned, or a permit's `probe`.

        `error` is what brought it about.
        """
        if change is None:
            return
        details: dict[str, Any] = {}
        match change:
            case Open(until=until, openings=openings, reason=reason):
                failures = self._health.consecutive_failures
                details = {"reason": reason, "failures": failures, "openings": openings} | _until(until, now)
            case Counted(failures=failures, threshold=threshold, timeout_s=timeout_s):
                details = {"failures": failures, "threshold": threshold, "timeout_s": timeout_s}
            case Paused(until=until):
                details = _until(until, now)
            case Disabled(cause=cause):
                details = {"cause": cause}
        if error is not None:
            details |= {"error_code": error.code, "status_code": error.status_code}
        if not isinstance(change, Counted):
            self._changed()
        self._observer.on_transition(self._model, change.event, details)


def _until(until: float, now: float) -> dict[str, int]:
    return {"retry_after_ms": max(0, round((until - now) * 1000))}
