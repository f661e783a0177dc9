"""What a model's calls usually take: the median of the recent ones, sorted anew only when there are more."""

from __future__ import annotations

from theo_workers.health import ModelHealth

EVERY = 8  # answered calls between two looks


class UsualLatency:
    """One model's."""

    __slots__ = ("_answered", "_health", "_ms")

    def __init__(self, health: ModelHealth) -> None:
        self._health = health
        self._answered = -EVERY
        self._ms = 0.0

    @property
    def ms(self) -> float:
        """0 before the first call."""
        answered = self._health.total_successes
        if not 0 <= answered - self._answered < EVERY:
            self._answered, self._ms = answered, self._health.snapshot().latency_p50_ms or 0.0
        return self._ms
