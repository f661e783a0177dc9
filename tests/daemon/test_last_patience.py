"""How long a process that was told to leave waits for its calls."""

from __future__ import annotations

import asyncio
import heapq

from theo_daemon.app import TAKEN_IN_WITHIN_S, Daemon
from theo_daemon.config import Config, IngressConfig
from theo_workers.clock import FakeClock

DRAIN_S = 10.0


class Stalling(FakeClock):
    """A process that stands still finds all its timers rung at once, much later."""

    async def stand_still(self, seconds: float) -> None:
        self._now += seconds
        while self._timers and self._timers[0][0] <= self._now:
            heapq.heappop(self._timers)[2].set_result(None)
        await self.advance(0)


def leaving(clock: Stalling, idle: asyncio.Event) -> asyncio.Task[bool]:
    daemon = Daemon(Config(ingress=IngressConfig(drain_s=DRAIN_S)), "redis://127.0.0.1:1", clock=clock)

    async def until_idle() -> None:
        await idle.wait()

    return asyncio.ensure_future(daemon._finish(until_idle()))


async def test_calls_that_take_longer_than_the_drain_may_are_cut_off() -> None:
    clock = Stalling()
    left = leaving(clock, asyncio.Event())
    await clock.advance(DRAIN_S - 0.1)
    assert not left.done()
    await clock.advance(0.1)
    assert await left is False


async def test_who_stood_still_until_the_drain_was_over_takes_in_what_came_meanwhile() -> None:
    clock, idle = Stalling(), asyncio.Event()
    left = leaving(clock, idle)
    await clock.advance(1)
    await clock.stand_still(DRAIN_S)
    await clock.advance(TAKEN_IN_WITHIN_S / 2)
    assert not left.done()
    idle.set()
    assert await left is True


async def test_what_did_not_come_meanwhile_is_cut_off_soon() -> None:
    clock = Stalling()
    left = leaving(clock, asyncio.Event())
    await clock.advance(1)
    await clock.stand_still(DRAIN_S)
    await clock.advance(TAKEN_IN_WITHIN_S)
    assert await left is False
