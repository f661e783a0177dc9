"""Taking over what dead processes held, without waiting for their leases to end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from redis.exceptions import RedisError

from theo_daemon.backoff import delay_s
from theo_workers.clock import Clock, sleep

FULL_S = 0.2  # between looks while there is no room for all that the dead held

TakeOver = Callable[
    [str], Awaitable[int]
]  # from this consumer what there is room for; how many entries are left


class Heir:
    """Redis may be away just then, and there may be no room: what is not taken at once is asked for again."""

    def __init__(self, *, lease_s: float, clock: Clock, rng: random.Random) -> None:
        self._lease_s, self._clock, self._rng = lease_s, clock, rng
        self._told: asyncio.Queue[str] = asyncio.Queue()
        # Until when it is worth asking: then their leases have ended, and everybody looks for such entries.
        self._until: dict[str, float] = {}

    def inherit(self, consumer: str) -> None:
        """This consumer's process is dead."""
        self._until[consumer] = self._clock.monotonic() + self._lease_s
        self._told.put_nowait(consumer)

    async def run(self, take_over: TakeOver) -> None:
        """Take over from one after another, until cancelled."""
        failures = 0
        while True:
            consumer = await self._told.get()
            try:
                left = await take_over(consumer)
                failures = 0
            except RedisError:  # the intake reports it
                failures += 1
                left = 1
            if left and self._clock.monotonic() < self._until[consumer]:
                self._told.put_nowait(consumer)
                await sleep(self._clock, delay_s(failures, self._rng.random()) if failures else FULL_S)
            else:
                del self._until[consumer]
