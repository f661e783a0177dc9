"""How many calls at a time a model gets: its concurrency, less while it recovers and while it shows overload."""

from __future__ import annotations

import math

from msgspec import Struct

from theo_workers.load import Load

STAGES = (0.25, 0.5)  # of the concurrency, for equal parts of the ramp; then all of it


class Ramp(Struct, frozen=True):
    """A model that was out gets its calls back step by step. `since` is monotonic seconds."""

    since: float
    lasts_s: float

    def share(self, now: float) -> float:
        """What part of its concurrency it gets; the first part before the ramp has begun, too."""
        stage = (now - self.since) / self.lasts_s * len(STAGES)
        return 1.0 if stage >= len(STAGES) else STAGES[max(0, int(stage))]

    def next_change(self, now: float) -> float:
        """When it gets more."""
        ends = (self.since + self.lasts_s * (number + 1) / len(STAGES) for number in range(len(STAGES)))
        return next((end for end in ends if end > now), math.inf)


class Slots:
    """The number is kept ready, as it is asked for several times for every call; `tick` keeps it true.

    `most` is the configured concurrency of this process; `ramp_s` 0: full at once. Each process ramps its own part.
    """

    def __init__(self, most: int, *, ramp_s: float = 0.0, load: Load | None = None) -> None:
        self.most, self.load = most, load
        self.now = most
        self._ramp_s = ramp_s
        self._ramp: Ramp | None = None
        self._share = 1.0

    def recover(self, since: float, now: float, *, at_most_s: float = math.inf) -> None:
        """The model was out until `since` (monotonic seconds, perhaps still to come): let calls back in slowly."""
        lasts_s = min(self._ramp_s, at_most_s)
        if lasts_s > 0 and (self._ramp is None or since + lasts_s > self._ramp.since + self._ramp.lasts_s):
            self._ramp = Ramp(since, lasts_s)
            self.tick(now)

    def fill(self) -> None:
        """An operator's word: no ramp."""
        self._ramp, self._share = None, 1.0
        self._count()

    def tick(self, now: float) -> None:
        """Time has passed."""
        if self._ramp is None:
            return
        self._share = self._ramp.share(now)
        if self._share >= 1.0:
            self._ramp = None
        self._count()

    def next_change(self, now: float) -> float:
        """The monotonic second at which there are more; inf: not by time."""
        return math.inf if self._ramp is None else self._ramp.next_change(now)

    def answered(self, latency_ms: float, *, admitted: float, running: int, now: float) -> None:
        """A call admitted at that monotonic second was answered while `running` ran, itself included."""
        if self.load is not None and self.load.answered(
            latency_ms, admitted=admitted, running=running, now=now
        ):
            self._count()

    def overloaded(self, admitted: float, now: float) -> None:
        """A call admitted at that monotonic second was refused for there being too many, or had no answer in time."""
        if self.load is not None and self.load.overloaded(admitted, now):
            self._count()

    def _count(self) -> None:
        borne = self.most if self.load is None else int(self.load.limit)
        self.now = max(1, min(math.ceil(self.most * self._share), borne))
