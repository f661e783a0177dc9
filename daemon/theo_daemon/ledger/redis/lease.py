"""This process's place among the living owners of the ledger: a lease in Redis, by the time of Redis.

Renewed from a thread with a connection of its own, which a stalled event loop does not stop. Who is not heard of for
a lease may be buried by any other process, and finds that out with its next beat or its next batch: then it must write
and send nothing any more. What it has sent by then, no token can call back.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Callable, Sequence
from typing import Final

from redis.exceptions import RedisError

from theo_daemon.backoff import delay_s
from theo_daemon.ledger.redis.keys import LedgerKeys
from theo_daemon.ledger.redis.scripts import BEAT
from theo_daemon.redis_link import RedisLink, error_code
from theo_workers.clock import Clock, SystemClock, timeout_at
from theo_workers.errors import LedgerError

BEATS: Final = 5  # to a lease
# Of a lease: so long without any process's beat is not their death, but the server's absence.
QUIET: Final = 0.4
JOIN_S: Final = 10.0


class Lease:
    """Begins with `start`, on the event loop; the callbacks are called there."""

    def __init__(
        self, link: RedisLink, keys: LedgerKeys, *, name: str, lease_s: float, rng: random.Random
    ) -> None:
        """`link` is for this thread alone."""
        self._link, self._key, self._name = link, keys.base, name
        self.lease_s, self._beat_s = lease_s, lease_s / BEATS
        self._rng = random.Random(rng.random())
        self._clock: Clock = SystemClock()
        self._until = 0.0  # monotonic seconds; written by the thread
        self._owner = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._own_loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="ledger-lease", daemon=True)
        self._waiting: list[asyncio.Future[None]] = []
        self._lost = False
        self.on_lost: Callable[[LedgerError], None] = _nobody_listens  # it was buried, or can beat no more
        # The token of the last one that was answered; asked on the thread.
        self.last_batch: Callable[[], int] = int
        self.on_behind: Callable[[], None] = _nobody_looks  # Redis does not know that one
        self.on_dead: Callable[[Sequence[int]], None] = _nobody_hears
        self.on_silence: Callable[[str | None], None] = _nobody_minds  # why beats fail; None: they do not

    def start(self, owner: int, *, since: float) -> None:
        """The owner is registered for a lease from `since` on (monotonic seconds)."""
        self._owner, self._loop = owner, asyncio.get_running_loop()
        self._until = since + self.lease_s
        self._thread.start()

    @property
    def valid(self) -> bool:
        """Can nobody have taken this process for dead yet?"""
        return self._clock.monotonic() < self._until

    async def confirmed(self) -> bool:
        """Wait until it is known: is it valid, or was this process buried?"""
        while not self.valid and not self._lost:
            beat = asyncio.get_running_loop().create_future()
            self._waiting.append(beat)
            await beat
        return not self._lost

    async def stop(self) -> None:
        """Beat no more."""
        if self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # its loop is closed: it ends by itself
                if self._own_loop is not None and self._stop is not None:
                    self._own_loop.call_soon_threadsafe(self._stop.set)
            await asyncio.to_thread(self._thread.join, JOIN_S)

    # -- on the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            asyncio.run(self._live())
        except BaseException as error:
            crash = LedgerError(f"the thread that renews the lease ended: {type(error).__name__}: {error}")
            crash.__cause__ = error
            self._tell(self._lose, crash)
            raise

    async def _live(self) -> None:
        self._own_loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        watch = asyncio.create_task(self._link.watch(self._clock))
        wire = self._link.wire(timeout_s=max(1.0, min(5.0, 2 * self._beat_s)))
        failures = 0
        try:
            while not self._stop.is_set():
                sent, answered = self._clock.monotonic(), self.last_batch()
                try:
                    alive, *told = await wire.run(BEAT, (self._key,), self._words())
                except RedisError as error:
                    failures += 1
                    await wire.close()
                    if failures > 1:  # the first may be a connection that went while nobody used it
                        self._tell(self.on_silence, f"the lease cannot be renewed: {error_code(error)}")
                    await self._pause(min(self._beat_s, delay_s(failures, self._rng.random())))
                    continue
                if not alive:
                    self._tell(self._lose, buried(self.lease_s))
                    return
                self._until = sent + self.lease_s
                if failures > 1:
                    self._tell(self.on_silence, None)
                failures = 0
                known, *dead = map(int, told)
                if known < answered:
                    self._tell(self.on_behind)
                self._heard(dead)
                await self._pause(self._beat_s * (0.9 + 0.2 * self._rng.random()))
        finally:
            watch.cancel()
            await wire.close()

    def _words(self) -> tuple[int | str, ...]:
        lease_ms = int(self.lease_s * 1000)
        return self._owner, self._name, lease_ms, int(QUIET * lease_ms), lease_ms

    async def _pause(self, seconds: float) -> None:
        assert self._stop is not None
        with contextlib.suppress(TimeoutError):
            async with timeout_at(self._clock, self._clock.monotonic() + seconds):
                await self._stop.wait()

    def _heard(self, dead: Sequence[int]) -> None:
        if self._waiting:
            self._tell(self._confirm)
        if dead:
            self._tell(self.on_dead, dead)

    def _tell(self, told: Callable[..., None], *args: object) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self._loop.call_soon_threadsafe(told, *args)

    # -- on the loop ---------------------------------------------------------------------------------

    def _lose(self, error: LedgerError) -> None:
        self._lost = True
        self._confirm()
        self.on_lost(error)

    def _confirm(self) -> None:
        waiting, self._waiting = self._waiting, []
        for beat in waiting:
            if not beat.done():
                beat.set_result(None)


def buried(lease_s: float) -> LedgerError:
    """Why a process that was taken for dead ends."""
    return LedgerError(
        f"this process is not among the ledger's owners any more: its lease ({lease_s:g} s) was not renewed in time, "
        "or Redis lost its data. Its calls were booked as unknown and its jobs are others' now, so it ends before it "
        "sends anything twice; start it again. Was it stopped or starved for so long? See ingress.lease_s."
    )


def _nobody_listens(_lost: LedgerError) -> None:
    """Stands in until the owner sets `on_lost`."""


def _nobody_looks() -> None:
    """Stands in until the owner sets `on_behind`."""


def _nobody_hears(_dead: Sequence[int]) -> None:
    """Stands in until the owner sets `on_dead`."""


def _nobody_minds(_reason: str | None) -> None:
    """Stands in until the owner sets `on_silence`."""
