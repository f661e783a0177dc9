"""Watches the regions of the configuration: who is evicted now, why, and when that has to be told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from msgspec import Struct

from theo_daemon.regions import ADMITTED, Admitted, Circuit, Evicted, Region, look
from theo_daemon.regions import State as CircuitState
from theo_workers.breaker import Breaker, Closed, HalfOpen, Open
from theo_workers.call import Observer
from theo_workers.clock import Clock
from theo_workers.messages import Outcome
from theo_workers.model_worker import ModelWorker

LOOK_EVERY_S = 0.05
TOLD_WITHIN_S = 5.0  # a circuit's change is told once it is on record, which takes no longer than this

EVICTED, READMITTED = "region_evicted", "region_readmitted"


class RegionObserver(Observer, Protocol):
    """Hears of models and of regions."""

    def on_region(self, event: str, region: str, details: Mapping[str, Any]) -> None:
        """`event` is region_evicted or region_readmitted; told by one process."""


class Watched(Struct, frozen=True):
    """A model of a region."""

    model: str
    region: str
    breaker: Breaker
    worker: ModelWorker


class RegionWatch:
    """Of one process. What it concludes rests on circuits, which all processes share; `order` is of preference.

    It stands between the standings and `observer`, since a circuit's change, and so what it means for its region, is
    told by one process alone.
    """

    def __init__(self, order: Sequence[str], *, ratio: float, clock: Clock, observer: RegionObserver) -> None:
        self._clock, self._observer, self._ratio = clock, observer, ratio
        self._models: dict[str, Watched] = {}
        self._members: dict[str, list[Watched]] = {}
        self._regions: dict[str, Region] = {}
        self._turning: dict[
            str, tuple[float, frozenset[str]]
        ] = {}  # circuits whose change turned it, and when
        self._places = {name: place for place, name in enumerate(order)}
        self._look_at = 0.0
        self._away: frozenset[str] = frozenset()  # models of evicted regions

    def add(self, one: Watched) -> None:
        """Watch this model."""
        self._models[one.model] = one
        self._members.setdefault(one.region, []).append(one)
        self._regions.setdefault(one.region, ADMITTED)

    def place(self, region: str | None) -> int:
        """0 for the region that is preferred; those that are not listed come last."""
        return len(self._places) if region is None else self._places.get(region, len(self._places))

    def is_away(self, model: str, now: float) -> bool:
        """Is it of an evicted region, and not the one that may be probed for it now?"""
        if now >= self._look_at:
            self._look(now)
        return model in self._away and not self._may_probe(self._models[model], now)

    def _may_probe(self, one: Watched, now: float) -> bool:
        """One probe at a time is for the whole region, and the wait after a bad one is, too."""
        if not isinstance(one.breaker.peek(now), HalfOpen):
            return False
        for other in self._members[one.region]:
            match other.breaker.peek(now):
                case HalfOpen() if other is not one and other.worker.free(now) <= 0:
                    return False  # it is being probed, here or by another process
                case Open(openings=openings) if openings > 1:
                    return False
        return True

    def regions(self) -> dict[str, Region]:
        """Each region as it stands, in order of preference."""
        self._look(self._clock.monotonic())
        return dict(sorted(self._regions.items(), key=lambda item: self.place(item[0])))

    # -- as an observer ------------------------------------------------------------------------------

    def on_transition(self, model: str, event: str, details: Mapping[str, Any]) -> None:
        self._observer.on_transition(model, event, details)
        if model in self._models and event in (Open.event, Closed.event):
            self._tell(self._models[model].region, model, self._clock.monotonic())

    def on_attempt(
        self, model: str, outcome: Outcome, latency_ms: float, error: BaseException | None
    ) -> None:
        self._observer.on_attempt(model, outcome, latency_ms, error)

    def on_defect(self, model: str, error: BaseException) -> None:
        self._observer.on_defect(model, error)

    def _tell(self, region: str, model: str, now: float) -> None:
        """Tell what became of the region, if it was this model's circuit that turned it."""
        self._look(now)
        at, circuits = self._turning.get(region, (now, frozenset()))
        if model not in circuits or now - at > TOLD_WITHIN_S:
            return
        del self._turning[region]
        match self._regions[region]:
            case Evicted(circuits=broken):
                self._observer.on_region(EVICTED, region, {"circuits": sorted(broken)})
            case Admitted():
                self._observer.on_region(READMITTED, region, {"probed": model})

    # -- looking -------------------------------------------------------------------------------------

    def _look(self, now: float) -> None:
        self._look_at = now + LOOK_EVERY_S
        turned = False
        for name, models in self._members.items():
            before = self._regions[name]
            circuits = [_circuit(one, now, self._clock.wall()) for one in models]
            after = self._regions[name] = look(before, circuits, ratio=self._ratio, now=now)
            if isinstance(before, Admitted) and isinstance(after, Evicted):
                self._turning[name], turned = (now, after.circuits - before.known), True
            elif isinstance(before, Evicted) and isinstance(after, Admitted):
                self._turning[name], turned = (now, before.circuits - after.known), True
        if turned:
            evicted = {name for name, state in self._regions.items() if isinstance(state, Evicted)}
            self._away = frozenset(one.model for name in evicted for one in self._members[name])


def _circuit(one: Watched, now: float, wall: float) -> Circuit:
    state: CircuitState = "closed"
    match one.breaker.peek(now):
        case Open():
            state = "open"
        case HalfOpen():
            state = "half_open"
    health = one.worker.health
    answered = health.last_success_time
    if answered is None or health.consecutive_failures:
        return Circuit(one.model, state)
    return Circuit(one.model, state, wall - answered)
