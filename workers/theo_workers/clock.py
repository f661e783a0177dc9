"""Time, handed down: a real clock for the daemon and a fake one that stands still until a test advances it."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import time
from collections.abc import AsyncIterator
from typing import Protocol


class Clock(Protocol):
    """`monotonic` is for durations and deadlines, `wall` for what leaves the process."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back."""

    def wall(self) -> float:
        """Unix seconds."""

    def call_at(self, deadline: float, callback: asyncio.Future[None]) -> asyncio.TimerHandle | None:
        """Resolve `callback` at the monotonic second `deadline`; the handle, if any, can be cancelled."""


class SystemClock:
    """The machine's clocks. `monotonic` is the event loop's own, so one timer wheel serves both."""

    # The functions themselves: a call of a job reads the time twenty times.
    monotonic = staticmethod(time.monotonic)
    wall = staticmethod(time.time)

    def call_at(self, deadline: float, callback: asyncio.Future[None]) -> asyncio.TimerHandle | None:
        # Measured against our own monotonic, then handed to the loop as a delay: uvloop keeps another zero.
        return callback.get_loop().call_later(max(0.0, deadline - time.monotonic()), _resolve, callback)


class FakeClock:
    """Stands still until `advance`. In-flight threads and sockets do not know it: use it with pure parts only."""

    def __init__(self, *, monotonic: float = 1_000.0, wall: float = 1_700_000_000.0) -> None:
        self._now, self._wall_offset = monotonic, wall - monotonic
        self._timers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def monotonic(self) -> float:
        return self._now

    def wall(self) -> float:
        return self._now + self._wall_offset

    def call_at(self, deadline: float, callback: asyncio.Future[None]) -> asyncio.TimerHandle | None:
        if deadline <= self._now:
            _resolve(callback)
        else:
            heapq.heappush(self._timers, (deadline, next(self._order), callback))
        return None

    async def advance(self, seconds: float) -> None:
        """Move time on, ringing each timer at its own moment and letting every task run until it waits again."""
        end = self._now + seconds
        await _settle()
        while self._timers and self._timers[0][0] <= end:
            self._now, _, ringing = heapq.heappop(self._timers)
            _resolve(ringing)
            await _settle()
        self._now = end
        await _settle()


async def sleep_until(clock: Clock, deadline: float) -> None:
    """Wait for the monotonic second `deadline` of `clock`."""
    if deadline <= clock.monotonic():
        await asyncio.sleep(0)
        return
    rung: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    handle = clock.call_at(deadline, rung)
    try:
        await rung
    finally:
        if handle is not None:
            handle.cancel()
        rung.cancel()


async def sleep(clock: Clock, seconds: float) -> None:
    """Wait `seconds` by `clock`."""
    await sleep_until(clock, clock.monotonic() + seconds)


@contextlib.asynccontextmanager
async def timeout_at(clock: Clock, deadline: float) -> AsyncIterator[None]:
    """Like `asyncio.timeout_at`, by `clock`. Raises TimeoutError at `deadline`."""
    loop = asyncio.get_running_loop()
    rung: asyncio.Future[None] = loop.create_future()
    async with asyncio.timeout(None) as scope:

        def ring(future: asyncio.Future[None]) -> None:
            if not future.cancelled():
                scope.reschedule(loop.time())

        rung.add_done_callback(ring)
        handle = clock.call_at(deadline, rung)
        try:
            yield
        finally:
            rung.remove_done_callback(ring)
            rung.cancel()
            if handle is not None:
                handle.cancel()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _settle() -> None:
    # A woken task may wake others: yield until chains of ordinary length have run.
    for _ in range(50):
        await asyncio.sleep(0)
