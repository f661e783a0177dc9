"""The time as Redis has it, which is the time that entry ids and deadlines are in."""

from __future__ import annotations

import contextlib

from redis.exceptions import RedisError

from theo_daemon.wire import Wire
from theo_workers.clock import Clock, sleep

REFRESH_S = 5.0


class RedisClock:
    """Follows the clock of the server, so that hosts with wrong clocks agree on deadlines.

    Until the first answer, and while Redis is away, it goes on from the last known offset; before any it
    is the local wall clock.
    """

    def __init__(self, wire: Wire, clock: Clock) -> None:
        self._wire, self._clock = wire, clock
        self._offset_s = clock.wall() - clock.monotonic()
        self.error_s: float | None = None  # how far off it can be; None before the first answer

    def now_ms(self) -> int:
        """Unix milliseconds by the clock of Redis."""
        return int((self._clock.monotonic() + self._offset_s) * 1000)

    def wall(self) -> float:
        """Unix seconds by the clock of Redis."""
        return self._clock.monotonic() + self._offset_s

    async def sync(self) -> None:
        """Ask once. Raises redis.exceptions.RedisError."""
        asked = self._clock.monotonic()
        seconds, micros = await self._wire.ask("TIME")
        answered = self._clock.monotonic()
        error_s = (answered - asked) / 2
        if self.error_s is not None and error_s > max(4 * self.error_s, 0.01):
            # A slow round trip tells little; let the doubt grow, so that a network that got slow is believed.
            self.error_s *= 2
            return
        self.error_s = error_s
        self._offset_s = int(seconds) + int(micros) / 1e6 - (asked + answered) / 2

    async def _leave_a_replica(self) -> None:
        """A server that was deposed goes on telling its time, which is not the time of new entries."""
        role = await self._wire.ask("ROLE")
        if role[0] == b"slave":
            await self._wire.close()

    async def run(self) -> None:
        """Ask again every few seconds, until cancelled."""
        while True:
            with contextlib.suppress(RedisError):  # others report that; the last offset serves meanwhile
                await self.sync()
                await self._leave_a_replica()
            await sleep(self._clock, REFRESH_S)


class CommonClock:
    """This machine's clock for durations, and the time of Redis in place of its wall clock.

    For what is compared with the books of a ledger there: processes of all hosts agree on it.
    """

    def __init__(self, local: Clock, time: RedisClock) -> None:
        self.monotonic, self.call_at, self.wall = local.monotonic, local.call_at, time.wall
