"""One timer for many moments: it rings at the earliest one asked for."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from theo_workers.clock import Clock


class Alarm:
    """Calls `ring` at the earliest moment asked for; whoever is rung looks at the time and asks again.

    It may ring a little early, as the loop's timers do, or for a moment that matters no more. So nothing has
    to be taken back, and a thousand waiting calls need one timer.
    """

    def __init__(self, clock: Clock, ring: Callable[[], None]) -> None:
        self._clock, self._ring = clock, ring
        self._at = math.inf
        self._rung: asyncio.Future[None] | None = None
        self._handle: asyncio.TimerHandle | None = None

    def arm(self, at: float | None) -> None:
        """Ring at the monotonic second `at`, if no earlier moment is asked for already."""
        if at is None or at >= self._at:
            return
        self.disarm()
        self._at = at
        self._rung = asyncio.get_running_loop().create_future()
        self._rung.add_done_callback(self._resolved)
        self._handle = self._clock.call_at(at, self._rung)

    def disarm(self) -> None:
        """Forget what was asked for."""
        if self._rung is not None:
            self._rung.cancel()
        if self._handle is not None:
            self._handle.cancel()
        self._at, self._rung, self._handle = math.inf, None, None

    def _resolved(self, rung: asyncio.Future[None]) -> None:
        if rung is self._rung:
            self.disarm()
            self._ring()
