"""Carries out a world's faults, each at its moment, and writes down that it did."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

from redis.exceptions import RedisError

from tests.sim.books import Disk
from tests.sim.boots import Boot, HostClock
from tests.sim.loop import SimLoop
from tests.sim.network import Server
from tests.sim.plan import Fault, Plan
from tests.sim.redis_words import Error
from tests.sim.witness import Stretch, Witness
from theo_daemon.job import EntryRef

JOB_STREAMS = (b"theo:jobs", b"theo:jobs:high", b"theo:jobs:low")
RESTARTED_AFTER_S = (0.05, 1.0)
LOCK_FREED_WITHIN_S = 0.05  # by the kernel, after its process died
ROLLED_BACK_S = 0.5  # what a failover, or a disk that is written once a second, may lose


class Fleet:
    """The processes of a host: started again when they end, one to a place."""

    def __init__(
        self, world: Any, loop: SimLoop, disk: Disk, witness: Witness, rng: random.Random, count: int
    ) -> None:
        self._world, self._loop, self._disk, self._witness, self._rng = world, loop, disk, witness, rng
        self.boots: list[Boot] = []
        self.places: list[Boot | None] = [None] * count
        self.closing = False

    def open(self) -> None:
        for place in range(len(self.places)):
            self._loop.at(self._loop.now + self._rng.uniform(0, 0.2), self._start, place)

    def at(self, place: int) -> Boot | None:
        """Who lives there."""
        boot = self.places[place]
        return boot if boot is not None and boot.alive else None

    @property
    def alive(self) -> list[Boot]:
        return [boot for boot in self.places if boot is not None and boot.alive]

    def kill(self, boot: Boot) -> None:
        if not boot.alive:
            return
        boot.die()
        self._world.providers.lose(boot, self._loop.now)
        self._loop.at(
            self._loop.now + self._rng.uniform(0, LOCK_FREED_WITHIN_S), self._disk.locked.discard, boot.name
        )
        self._come_back(boot)

    def left(self, boot: Boot) -> None:
        """Its main task has ended."""
        for link in boot.connections:
            link.close()
        for strand in (boot.main, boot.writer):
            self._loop.kill(strand)
        self._disk.locked.discard(boot.name)
        self._world.providers.lose(boot, self._loop.now)
        if boot.error is not None and (
            boot.daemon.side is not None or not isinstance(boot.error, RedisError)
        ):
            self._witness.complain(f"{boot} ended by itself: {boot.error!r}")
        self._come_back(boot)

    def _come_back(self, boot: Boot) -> None:
        if not self.closing:
            self._loop.at(self._loop.now + self._rng.uniform(*RESTARTED_AFTER_S), self._start, boot.place)

    def _start(self, place: int) -> None:
        if self.closing:
            return
        boot = self.places[place] = Boot(self._world, place, len(self.boots))
        self.boots.append(boot)
        self._witness.boots[boot.name] = boot
        boot.start()


class Trouble:
    """Knows every kind of fault. `active` counts those that last."""

    def __init__(
        self, plan: Plan, loop: SimLoop, server: Server, disk: Disk, clock: HostClock, fleet: Fleet, witness: Witness
    ) -> None:  # fmt: skip
        self._loop, self._server, self._disk, self._clock = loop, server, disk, clock
        self._fleet, self._witness = fleet, witness
        self._traps: dict[tuple[str, int], list[Fault]] = {}
        self.active = 0
        self._snapshot: Any = None
        self._begun = loop.now
        acts = {
            "kill": self._kill, "kill at an await": self._light_fuse, "freeze": self._freeze, "stall": self._stall,
            "drain": self._drain, "cut all": self._cut_all, "redis stands": self._redis_stands,
            "redis down": self._redis_down, "redis wiped": self._redis_wiped,
            "redis rolled back": self._redis_rolled_back, "redis full": self._redis_full,
            "redis read-only": self._redis_read_only, "scripts flushed": self._scripts_flushed,
            "ledger slow": self._ledger_slow, "ledger busy": self._ledger_busy, "disk full": self._disk_full,
            "clock set": self._clock_set, "entries acknowledged": self._acknowledge,
            "consumer deleted": self._delete_consumer,
        }  # fmt: skip
        for fault in plan.faults:
            if fault.kind == "provider" or fault.kind.startswith("outage"):
                continue
            if fault.point:
                self._traps.setdefault((fault.point, fault.nth), []).append(fault)
                continue
            self.active += 1
            loop.at(loop.now + fault.at, self._begin, acts[fault.kind], fault)
            if fault.kind == "redis rolled back":
                loop.at(loop.now + fault.at - ROLLED_BACK_S, self._remember)

    def _begin(self, act: Callable[[Fault], None], fault: Fault) -> None:
        self.active -= 1
        act(fault)

    def _count(self, fault: Fault) -> None:
        self._witness.faults[fault.kind] += 1

    def _lasting(self, fault: Fault, boot: Boot | None, end: Callable[[], object]) -> None:
        self._count(fault)
        self.active += 1
        now = self._loop.now
        self._witness.stretches.append(Stretch(fault.kind, boot, now, now + fault.lasts_s))

        def over() -> None:
            self.active -= 1
            end()

        self._loop.at(now + fault.lasts_s, over)

    # -- at points -------------------------------------------------------------------------------------

    def point(self, name: str, boot: Boot) -> Any:
        """A process passes a point. `cut`, seconds of delay, True if it is no more, or None."""
        points = self._witness.points
        points[name] += 1
        traps = self._traps.get((name, points[name]))
        return None if traps is None else self._spring(traps, name, boot)

    def _spring(self, traps: list[Fault], name: str, boot: Boot) -> Any:
        found: Any = None
        for fault in traps:
            match fault.kind:
                case "kill":
                    if boot.alive:
                        self._witness.faults[f"kill: {name}"] += 1
                        self._fleet.kill(boot)
                        found = True if found is None else found
                case "freeze":
                    self._freeze_boot(fault, boot)
                case "cut":
                    self._count(fault)
                    found = "cut"
                case "slow reply":
                    self._count(fault)
                    found = fault.lasts_s
                case "slow commit":
                    self._lasting(fault, boot, lambda: None)
                    found = fault.lasts_s
        return None if found is True and name.endswith((" sent", " done")) else found

    # -- processes -------------------------------------------------------------------------------------

    def _kill(self, fault: Fault) -> None:
        boot = self._fleet.at(fault.place)
        if boot is not None:
            self._count(fault)
            self._fleet.kill(boot)

    def _light_fuse(self, fault: Fault) -> None:
        boot = self._fleet.at(fault.place)
        if boot is not None:
            boot.main.fuse, boot.main.on_fuse = fault.nth, lambda: self._burnt(fault, boot)

    def _burnt(self, fault: Fault, boot: Boot) -> None:
        if boot.alive:
            self._count(fault)
            self._fleet.kill(boot)

    def _freeze(self, fault: Fault) -> None:
        boot = self._fleet.at(fault.place)
        if boot is not None:
            self._freeze_boot(fault, boot)

    def _freeze_boot(self, fault: Fault, boot: Boot) -> None:
        for strand in (boot.main, boot.writer):
            self._loop.freeze(strand)
        self._lasting(fault, boot, lambda: (self._loop.thaw(boot.main), self._loop.thaw(boot.writer)))

    def _stall(self, fault: Fault) -> None:
        """The event loop alone: something in it does not return."""
        boot = self._fleet.at(fault.place)
        if boot is not None:
            self._loop.freeze(boot.main)
            self._lasting(fault, boot, lambda: self._loop.thaw(boot.main))

    def _drain(self, fault: Fault) -> None:
        boot = self._fleet.at(fault.place)
        if boot is not None and boot.serving:
            self._count(fault)
            self._loop.on(boot.main, boot.daemon.drain)

    # -- Redis -----------------------------------------------------------------------------------------

    def _cut_all(self, fault: Fault) -> None:
        if self._server.cut(lambda _: True):
            self._count(fault)

    def _redis_stands(self, fault: Fault) -> None:
        self._server.stands_until = self._loop.now + fault.lasts_s
        self._lasting(fault, None, lambda: None)

    def _redis_down(self, fault: Fault) -> None:
        if self._server.up:
            self._server.stop()
            self._lasting(fault, None, self._server.start)

    def _redis_wiped(self, fault: Fault) -> None:
        self._lose(fault, None)

    def _remember(self) -> None:
        data = self._server.data
        self._snapshot = copy.deepcopy((data.keys, data.expires))

    def _redis_rolled_back(self, fault: Fault) -> None:
        self._lose(fault, self._snapshot)

    def _lose(self, fault: Fault, kept: Any) -> None:
        if not self._server.up:
            return
        self._server.stop()
        self._witness.losses.append(self._loop.now)
        if kept is not None:
            self._witness.rollbacks.append(self._loop.now)
        data = self._server.data
        data.keys, data.expires = kept if kept is not None else ({}, {})
        self._lasting(fault, None, self._server.start)

    def _redis_full(self, fault: Fault) -> None:
        data = self._server.data
        data.full = True
        self._lasting(fault, None, lambda: setattr(data, "full", False))

    def _redis_read_only(self, fault: Fault) -> None:
        data = self._server.data
        data.replica = True
        self._lasting(fault, None, lambda: setattr(data, "replica", False))

    def _scripts_flushed(self, fault: Fault) -> None:
        self._count(fault)
        self._server.data.restart()

    # -- strangers ---------------------------------------------------------------------------------------

    def _pending(self) -> list[tuple[EntryRef, str]]:
        """Whatever is pending, and whose it is."""
        return [
            (EntryRef(stream.decode(), row[0].decode()), row[1].decode())
            for stream in JOB_STREAMS
            for row in self._ask(b"XPENDING", stream, b"theo", b"-", b"+", b"1000")
        ]

    def _ask(self, *words: bytes) -> Any:
        reply = self._server.data.do(words)
        return [] if isinstance(reply, Error) else reply

    def _acknowledge(self, fault: Fault) -> None:
        """Somebody acknowledges a third of the entries that he has no answer for."""
        chosen = self._pending()[fault.place :: 3] if self._server.up else []
        for ref, owner in chosen:
            if self._ask(b"XACK", ref.stream.encode(), b"theo", ref.entry_id.encode()):
                self._count(fault)
                self._witness.drop(ref, owner)

    def _delete_consumer(self, fault: Fault) -> None:
        """Somebody tidies up."""
        pending = self._pending() if self._server.up else []
        name = pending[0][1] if pending else ""
        dropped = [
            self._ask(b"XGROUP", b"DELCONSUMER", stream, b"theo", name.encode()) for stream in JOB_STREAMS
        ]
        if name and any(dropped):
            self._count(fault)
            for ref, owner in pending:
                if owner == name:
                    self._witness.drop(ref, owner)

    # -- disk and clock --------------------------------------------------------------------------------

    def _ledger_slow(self, fault: Fault) -> None:
        self._disk.slow_s = fault.lasts_s / 3
        self._lasting(fault, None, lambda: setattr(self._disk, "slow_s", 0.0))

    def _ledger_busy(self, fault: Fault) -> None:
        self._disk.busy = True
        self._lasting(fault, None, lambda: setattr(self._disk, "busy", False))

    def _disk_full(self, fault: Fault) -> None:
        self._disk.free = False
        self._lasting(fault, None, lambda: setattr(self._disk, "free", True))

    def _clock_set(self, fault: Fault) -> None:
        self._count(fault)
        self._clock.wall_offset += float(fault.what)
