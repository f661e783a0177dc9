"""A simulated process: the real daemon with everything in it, but for its sockets, its threads and its telemetry."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any
from unittest import mock

from tests.fakes import QuickCounter
from tests.sim.books import SimLedger, SimLock, SimWriter, is_alive
from tests.sim.loop import SimLoop, Strand, this_process
from tests.sim.network import Connection
from theo_daemon import app as app_module
from theo_daemon import core as core_module
from theo_daemon import hedge
from theo_daemon.app import Daemon
from theo_daemon.background import first_failure
from theo_daemon.config import Config
from theo_daemon.core import Core
from theo_daemon.ledger.sqlite import ledger as ledger_module
from theo_daemon.ledger.sqlite import owners
from theo_daemon.make_ledger import Bookkeeping
from theo_daemon.redis_link import REPLY_TIMEOUT_S
from theo_daemon.redis_side import RedisSide
from theo_daemon.telemetry import names
from theo_daemon.wire import Wire
from theo_workers.clock import Clock

DEFECTS = frozenset({names.UNCAUGHT_BUG, names.WORKER_RESTARTED, names.LEDGER_UNRECORDED})


class HostClock:
    """The clocks of one host: monotonic time is the world's, wall time may be set."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop
        self.wall_offset = 1_700_000_000.0 - loop.now

    def monotonic(self) -> float:
        return self._loop.now

    def wall(self) -> float:
        return self._loop.now + self.wall_offset

    def call_at(self, deadline: float, callback: asyncio.Future[None]) -> asyncio.TimerHandle | None:
        if deadline > self._loop.now:
            self._loop.ring_at(deadline, callback)
        elif not callback.done():
            callback.set_result(None)
        return None


class Boot:
    """One life of one process. `ended` is how it ended: killed, drained, or an exception."""

    def __init__(self, world: Any, place: int, number: int) -> None:
        self.world, self.place = world, place
        self.name = f"p{place}b{number}"
        self.clock: Clock = world.clock
        self.main, self.writer = Strand(self), Strand(self)
        self.connections: list[Connection] = []
        self.killed_at = self.started_at = float("inf")
        self.ended: str | None = None
        self.error: BaseException | None = None  # that it ended with
        self.daemon: SimDaemon
        self.task: asyncio.Task[None]

    def __repr__(self) -> str:
        return self.name

    @property
    def alive(self) -> bool:
        return self.ended is None

    @property
    def serving(self) -> bool:
        return self.ended is None and self.daemon.side is not None

    def start(self) -> None:
        loop: SimLoop = self.world.loop
        self.started_at = loop.now

        def begin() -> None:
            self.daemon = SimDaemon(self)
            self.task = loop.create_task(self.daemon.run())
            self.task.add_done_callback(self._over)

        self.main.context.run(begin)

    def die(self) -> None:
        """kill -9."""
        loop: SimLoop = self.world.loop
        self.killed_at, self.ended = loop.now, "killed"
        for strand in (self.main, self.writer):
            loop.kill(strand)
        for link in self.connections:
            link.close()

    def _over(self, task: asyncio.Task[None]) -> None:
        self.error = task.exception()
        self.ended = "drained" if self.error is None else "failed"
        self.world.left(self)


class SimLink:
    """As much of RedisLink as a running process uses."""

    def __init__(self, boot: Boot) -> None:
        self._boot = boot

    def wire(self, *, timeout_s: float = REPLY_TIMEOUT_S) -> Wire:
        return Wire(self._connect, timeout_s=timeout_s)

    async def watch(self, _clock: Clock) -> None:
        """One server is watched by nobody."""

    async def _connect(self) -> Any:
        link = Connection(self._boot.world.server, self._boot)
        self._boot.connections.append(link)
        return link


class Quiet:
    """Stands in for telemetry: it only hears of what must not happen."""

    metrics = None

    def __init__(self, boot: Boot) -> None:
        self._boot = boot

    def event(self, name: str, /, **details: Any) -> None:
        if name in DEFECTS:
            self._boot.world.defects.append(f"{self._boot}: {name} {details}")

    def job_finished(self, _record: Any) -> None:
        """Replies are counted where they arrive."""

    def attempt_finished(self, _record: Any) -> None:
        """Calls are counted where they arrive."""

    def commit_finished(self, _seconds: float) -> None:
        """Commits are counted where they are made."""


class SimDaemon(Daemon):
    """`run` is that of the real one without start-up checks, status port, telemetry and stall guard."""

    def __init__(self, boot: Boot) -> None:
        super().__init__(boot.world.config, "redis://simulated", clock=boot.clock)
        self._boot = boot
        self._rng = random.Random(f"{boot.world.seed}/{boot.name}")
        self.consumer = boot.name
        self.core: Core | None = None
        self.side: RedisSide | None = None

    async def run(self) -> None:
        telemetry: Any = Quiet(self._boot)
        link: Any = SimLink(self._boot)
        async with AsyncExitStack() as stack:
            side = RedisSide(
                self.config,
                link,
                consumer=self.consumer,
                clock=self._clock,
                rng=self._rng,
                log=telemetry.event,
            )
            await side.time.sync()
            core = await self._core(stack, side, telemetry)
            pin = await self._pin(stack, core, side, telemetry, link)
            beside = [*core.background, *await side.start(stack)]
            self.core, self.side = core, side
            await self._serve(core, side, telemetry, pin, first_failure(beside))

    @property
    def at_rest(self) -> bool:
        """Does it hold nothing?"""
        return self.core is not None and not self.core.dispatcher.held and not len(self.side.held)  # type: ignore[union-attr]


@contextlib.contextmanager
def simulated() -> Iterator[None]:
    """Whatever a core is built of has its simulated part, for as long as this lasts."""
    with (
        mock.patch.object(app_module, "bookkeeping", _bookkeeping),
        mock.patch.object(core_module, "TokenCounter", QuickCounter),
        mock.patch.object(core_module, "build_upstream", _upstream),
        mock.patch.object(ledger_module, "check_place", _anywhere),
        mock.patch.object(owners, "OwnerLock", SimLock),
        mock.patch.object(owners, "is_alive", is_alive),
        mock.patch.object(hedge, "SHARE", 0.5),  # or a world of sixty jobs would hardly see a rival
    ):
        yield


@contextlib.asynccontextmanager
async def _bookkeeping(config: Config, *, name: str, clock: Clock, **_: Any) -> AsyncIterator[Bookkeeping]:
    boot: Boot = this_process()
    world = boot.world

    def make_writer(name: str, clock: Clock, id_ttl_s: float) -> SimWriter:
        return SimWriter(
            world.disk,
            name,
            strand=boot.writer,
            main=boot.main,
            clock=clock,
            id_ttl_s=id_ttl_s,
            point=lambda point: world.point(point, boot),
            committed=lambda operations, answers: world.committed(boot, operations, answers),
        )

    keep_days, id_ttl_s = config.ledger.keep_days, config.ingress.id_ttl_s
    yield Bookkeeping(
        SimLedger(make_writer, name=name, clock=clock, keep_days=keep_days, id_ttl_s=id_ttl_s), clock
    )


def _upstream(spec: Any, *_: Any) -> Any:
    boot: Boot = this_process()
    return boot.world.providers.upstream(boot, spec.name)


def _anywhere(_path: Any) -> None:
    """Nothing is on a real disk."""


__all__ = ["Boot", "Config", "HostClock", "simulated"]
