"""Reads jobs from the lanes for as long as there is room, and survives whatever becomes of Redis."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from msgspec import Struct
from redis.exceptions import RedisError, ResponseError

from theo_daemon.backoff import delay_s
from theo_daemon.held import HeldEntries, Room
from theo_daemon.job import Delivery, EntryRef
from theo_daemon.keys import Keys
from theo_daemon.lanes import LaneShares
from theo_daemon.levelling import LevelRules, Peer, alive, may_read
from theo_daemon.ports import Events
from theo_daemon.redis_link import error_code
from theo_daemon.scout_scripts import PASS
from theo_daemon.wire import Wire, Word
from theo_workers.clock import Clock, sleep

LOOK_EVERY_S = 0.02  # at peers, while holding more than the base
GATHER_S = 0.002  # after being full: let a few more finish, instead of asking for one entry at a time
GATHER = 16  # entries, or an eighth of what may be held if that is less

T = TypeVar("T")
Deliver = Callable[[Sequence[Delivery]], None]


class IntakeRules(Struct, frozen=True, kw_only=True):
    """The `[ingress]` table, as far as reading goes."""

    group: str
    lanes: Mapping[str, int]
    max_job_bytes: int = 1_000_000
    block_s: float = 1.0
    lease_s: float = 30.0
    sweep: int = 256  # entries at most in one round trip
    level: LevelRules = LevelRules()


class StreamIntake:
    """Implements `ports.Intake` over one consumer group per lane.

    What is read is put into `held` and stays there until somebody releases it; `held.freed` wakes a reader
    that ran out of room. `wire` is for this reader alone, since it blocks on it.
    """

    def __init__(
        self,
        *,
        wire: Wire,
        keys: Keys,
        rules: IntakeRules,
        consumer: str,
        held: HeldEntries,
        room: Callable[[], Room],
        on_peers: Callable[[int], None] = lambda _: None,
        events: Events,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        """`on_peers` hears how many others read these lanes, whenever that was looked at: while much is held."""
        self._wire, self._rules, self._consumer, self._held = wire, rules, consumer, held
        self._on_peers = on_peers
        self._room, self._events, self._clock, self._rng = room, events, clock, rng
        self._streams = {lane: keys.jobs(lane) for lane in rules.lanes}
        self._lane_of = {stream.encode(): (stream, lane) for lane, stream in self._streams.items()}
        self._shares = LaneShares(rules.lanes)
        self._head = ("XREADGROUP", "GROUP", rules.group, consumer, "COUNT")
        self._connected = False
        self._lost_by = "not asked yet"
        self._stopping = False
        self._waiting: asyncio.Task[Any] | None = None
        self._peers: Sequence[Peer] = ()
        self._looked_at = float("-inf")
        self._early = keys.early
        self.behind = asyncio.Event()  # is there, or may there be, more to read than is read now?

    @property
    def connected(self) -> bool:
        """Are jobs read (or waited for) right now?"""
        return self._connected

    @property
    def lost_by(self) -> str:
        """The code of what keeps jobs from being read, or did so last."""
        return self._lost_by

    async def run(self, deliver: Deliver) -> None:
        """Deliver batches until `stop`; survives lost connections, lost streams and refusals."""
        failures = 0
        lost_at: float | None = None
        while not self._stopping:
            try:
                await ensure_groups(self._wire, self._streams.values(), self._rules.group, self._events)
                self._connected = True
                if lost_at is not None:
                    self._events.emit("redis_back", after_s=round(self._clock.monotonic() - lost_at, 3))
                    lost_at = None
                while not self._stopping:
                    await self._read_once(deliver)
                    failures = 0
            except RedisError as error:
                # Error replies too: a server that is READONLY, LOADING or out of memory may be another's
                # replica by now, and a new connection finds out.
                before, self._lost_by = self._lost_by, error_code(error)
                if lost_at is None or before != self._lost_by:
                    self._events.emit("redis_lost", reason=self._lost_by)
                if lost_at is None:
                    lost_at = self._clock.monotonic()
                failures += 1
                self._connected = False
                await self._wire.close()
                await self._pause(delay_s(failures, self._rng.random()))
        self._connected = False

    def stop(self) -> None:
        """Read no more. A waiting read is cut off; `Leases.leave` finds what it may have been given."""
        self._stopping = True
        self._held.freed.set()
        if self._waiting is not None:
            self._waiting.cancel()

    async def _read_once(self, deliver: Deliver) -> None:
        count = await self._allowance()
        if not count:
            return
        fresh, missing = await self._sweep(count)
        if self._shares.all_dry:
            self.behind.clear()
        else:
            self.behind.set()
        if not fresh and not missing and not self._stopping:
            fresh, missing = await self._wait_for_one()
        if fresh:
            deliver(fresh)
        if missing:
            await ensure_groups(self._wire, self._streams.values(), self._rules.group, self._events)

    async def _allowance(self) -> int:
        """How many entries to read now; waits while there is no room. 0 when stopped, or to look again."""
        waited_since: float | None = None
        was_full = False
        pause = GATHER_S
        while not self._stopping:
            self._held.freed.clear()
            room = self._room()
            count = self._held.fits(room, self._rules.max_job_bytes)
            if count <= 0:
                was_full = True
                self.behind.set()
                if room.soon:
                    self._look_again_in(pause)
                    pause = min(2 * pause, LOOK_EVERY_S)
                await self._held.freed.wait()
                continue
            if was_full and count < min(GATHER, (len(self._held) + count) // 8):
                was_full = False
                await self._pause(GATHER_S)
                continue
            now = self._clock.monotonic()
            more = await self._may_read(now, waited_s=0.0 if waited_since is None else now - waited_since)
            if more is None or more > 0:
                return min(count, self._rules.sweep) if more is None else min(count, more, self._rules.sweep)
            waited_since = now if waited_since is None else waited_since
            self.behind.set()
            await self._pause(LOOK_EVERY_S)
        return 0

    async def _may_read(self, now: float, *, waited_s: float) -> int | None:
        held, level = len(self._held), self._rules.level
        if held >= level.base and now - self._looked_at >= LOOK_EVERY_S:
            self._peers = await look_at_peers(
                self._wire, self._streams.values(), self._rules.group, self._consumer
            )
            self._looked_at = now
            self._on_peers(len(alive(self._peers, level)))
        return may_read(held, self._peers, level, waited_s=waited_s)

    async def _sweep(self, count: int) -> tuple[Sequence[Delivery], bool]:
        """One round trip over the lanes without waiting, each up to its share; and was a group missing?"""
        shares, asked_at = self._shares.divide(count), self._clock.monotonic()
        *replies, early = await self._wire.ask_all(
            [
                *[
                    (*self._head, share, "STREAMS", self._streams[lane], ">")
                    for lane, share in shares.items()
                ],
                ("HLEN", self._early),
            ]
        )
        for (lane, share), reply in zip(shares.items(), replies, strict=True):
            got = 0 if reply is None or isinstance(reply, ResponseError) else len(reply[0][1])
            self._shares.found(lane, asked=share, got=got)
        return await self._take(replies, early, read_at=asked_at)

    async def _wait_for_one(self) -> tuple[Sequence[Delivery], bool]:
        """One blocking read over all lanes: a job on any of them wakes it at once.

        When that was, nobody tells, and we may have stood still since: so the lease counts from before.
        """
        streams = self._streams.values()
        block_ms = int(self._rules.block_s * 1000)
        command: list[Word] = [*self._head, 1, "BLOCK", block_ms, "STREAMS", *streams, *[">"] * len(streams)]
        asked_at = self._clock.monotonic()
        replies = await self._until_stopped(self._wire.ask_all((command, ("HLEN", self._early))))
        if replies is None:
            return (), False
        return await self._take(replies[:1], replies[1], read_at=asked_at)

    async def _take(
        self, replies: Sequence[Any], early: Any, *, read_at: float
    ) -> tuple[Sequence[Delivery], bool]:
        """Hold what was read, but for what was taken early: `early` is how many entries may have been.

        Their leases began when Redis gave them to us (`read_at`), however long its answer took, and no renewal
        since then was for them.
        """
        found: list[Delivery] = []
        trouble: ResponseError | None = None
        missing = False
        for reply in replies:
            if isinstance(reply, ResponseError):
                # UNBLOCKED: the stream was deleted under a waiting reader.
                if error_code(reply) in {"NOGROUP", "UNBLOCKED"}:
                    missing = True
                else:
                    trouble = reply
                continue
            for key, entries in reply or ():
                stream, lane = self._lane_of[key]
                found += [
                    Delivery(EntryRef(stream, entry_id.decode()), lane, fields)
                    for entry_id, fields in entries
                ]
        if early and found:
            passed = await self._pass_by(found)
            found = [delivery for delivery in found if delivery.ref not in passed]
        fresh = self._held.take(found)
        if fresh:
            self._held.doubt_from(read_at + self._rules.lease_s)
        if trouble is not None and not fresh:
            raise trouble
        return fresh, missing

    async def _pass_by(self, found: Sequence[Delivery]) -> set[EntryRef]:
        """Those that some process has taken before their time are left to it: see `scout_scripts`."""
        ids: dict[str, list[str]] = {}
        for delivery in found:
            ids.setdefault(delivery.ref.stream, []).append(delivery.ref.entry_id)
        calls = [
            ((stream, self._early), (self._rules.group, self._consumer, *own)) for stream, own in ids.items()
        ]
        passed: set[EntryRef] = set()
        for stream, reply in zip(ids, await self._wire.run_all(PASS, calls), strict=True):
            if isinstance(reply, ResponseError):
                raise reply
            passed.update(EntryRef(stream, entry_id.decode()) for entry_id in reply)
        return passed

    def _look_again_in(self, seconds: float) -> None:
        rung: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        rung.add_done_callback(lambda _: self._held.freed.set())
        self._clock.call_at(self._clock.monotonic() + seconds, rung)

    async def _pause(self, seconds: float) -> None:
        if not self._stopping:
            await self._until_stopped(sleep(self._clock, seconds))

    async def _until_stopped(self, work: Coroutine[Any, Any, T]) -> T | None:
        """The result of `work`, or None when `stop` cut it off."""
        task = self._waiting = asyncio.create_task(work)
        try:
            await asyncio.wait((task,))
        finally:
            self._waiting = None
            task.cancel()
        return None if task.cancelled() else task.result()


async def ensure_groups(wire: Wire, streams: Collection[str], group: str, events: Events) -> None:
    """Create the group on each stream at id 0, so that it sees what was pushed before. Safe to race."""
    replies = await wire.ask_all([("XGROUP", "CREATE", stream, group, "0", "MKSTREAM") for stream in streams])
    for stream, reply in zip(streams, replies, strict=True):
        if not isinstance(reply, ResponseError):
            events.emit("group_created", job_stream=stream)
        elif error_code(reply) != "BUSYGROUP":
            raise reply


async def look_at_peers(wire: Wire, streams: Collection[str], group: str, own: str) -> list[Peer]:
    """The other consumers of the group, all lanes together."""
    held: dict[bytes, int] = {}
    idle_ms: dict[bytes, int] = {}
    for reply in await wire.ask_all([("XINFO", "CONSUMERS", stream, group) for stream in streams]):
        if isinstance(reply, ResponseError):
            continue  # the group is gone: the next read heals it
        for row in reply:
            facts = dict(zip(row[::2], row[1::2], strict=True))
            name = facts[b"name"]
            held[name] = held.get(name, 0) + facts[b"pending"]
            idle_ms[name] = min(idle_ms.get(name, facts[b"idle"]), facts[b"idle"])
    held.pop(own.encode(), None)
    return [Peer(held=count, idle_s=idle_ms[name] / 1000) for name, count in held.items()]
