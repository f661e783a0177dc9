"""When the first piece of a streamed answer came."""

from __future__ import annotations

from theo_workers.clock import Clock
from theo_workers.messages import DeltaSink


class FirstPiece:
    """Hands every piece on; `at` is the monotonic second of the first, None before it."""

    __slots__ = ("_clock", "_sink", "at")

    def __init__(self, sink: DeltaSink, clock: Clock) -> None:
        self._sink, self._clock = sink, clock
        self.at: float | None = None

    def __call__(self, text: str) -> None:
        if self.at is None:
            self.at = self._clock.monotonic()
        self._sink(text)
