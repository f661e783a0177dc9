"""Keeps what this process holds, takes over what nobody keeps, and gives back what it will not start."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from msgspec import Struct
from redis.exceptions import RedisError, ResponseError

from theo_daemon.backoff import delay_s
from theo_daemon.held import HeldEntries, Room
from theo_daemon.job import Delivery, EntryRef
from theo_daemon.keys import Keys
from theo_daemon.lease_scripts import FORGET, HAND_BACK, RECLAIM, RENEW, TAKE
from theo_daemon.ports import Events
from theo_daemon.redis_link import error_code
from theo_daemon.suspicion import Suspect
from theo_daemon.unowned import Unowned
from theo_daemon.wire import Wire, Word
from theo_workers.clock import Clock, sleep

T = TypeVar("T")
Deliver = Callable[[Sequence[Delivery]], None]

PAGE = 500  # ids in one call: a millisecond of the server's time


class LeaseRules(Struct, frozen=True, kw_only=True):
    """The `[ingress]` table, as far as owning entries goes."""

    group: str
    lanes: Sequence[str]
    lease_s: float = 30.0
    max_job_bytes: int = 1_000_000
    suspect_from: int = 3  # deliveries
    reclaim_s: float = 1.0  # between looks for entries that nobody keeps
    # Own entries that never arrived are fetched when they are this old. It must exceed the reader's time-out,
    # or one of them may still be on its way, and run twice.
    adopt_after_s: float = 10.0
    forget_s: float = 3_600.0  # silence after which an empty consumer's name is deleted


class Leases:
    """Ownership of pending entries. `run` must be running, or peers take over what this process holds."""

    def __init__(
        self,
        *,
        wire: Wire,
        keys: Keys,
        rules: LeaseRules,
        consumer: str,
        held: HeldEntries,
        room: Callable[[], Room],
        on_lost: Callable[[Sequence[EntryRef]], None] | None = None,
        on_suspects: Callable[[Sequence[Suspect]], None],
        events: Events,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        """`on_lost` hears of entries that are held and are another's now, at each renewal; `on_suspects` gets those
        that are held from now on and must not be read like others."""
        self._wire, self._rules, self._consumer, self._held = wire, rules, consumer, held
        self._room, self._on_lost, self._events = room, on_lost, events
        self._on_suspects = on_suspects
        self._clock, self._rng = clock, rng
        self._lane_of: Mapping[str, str] = {keys.jobs(lane): lane for lane in rules.lanes}
        self._done, self._early = keys.done, keys.early
        self._unowned = Unowned(
            wire=wire, held=held, group=rules.group, consumer=consumer, lease_s=rules.lease_s
        )
        held.keep(clock.monotonic() + rules.lease_s)
        self._gone: set[EntryRef] = set()
        self._lost: set[EntryRef] = set()
        self._renew_at = clock.monotonic() + rules.lease_s / 4
        self._forget_at = clock.monotonic()
        self._leaving = False

    async def run(self, deliver: Deliver) -> None:
        """Renew, adopt, reclaim and clean up, until cancelled; what is found goes to `deliver`."""
        failures = 0
        while True:
            try:
                await self._tick(deliver)
                failures = 0
                pause = self._rules.reclaim_s * (0.75 + 0.5 * self._rng.random())
            except RedisError:  # the intake reports it
                failures += 1
                await self._wire.close()
                pause = delay_s(failures, self._rng.random())
            await sleep(self._clock, pause)

    async def _tick(self, deliver: Deliver) -> None:
        now = self._clock.monotonic()
        if now >= self._renew_at:
            await self.renew()
            self._renew_at = now + self._rules.lease_s / 4
            if not self._leaving:
                await self.adopt(deliver)
                await self.take_in(deliver)
        if self._leaving:
            return
        await self.reclaim(deliver)
        if now >= self._forget_at:
            await self._forget(self._rules.forget_s)
            self._forget_at = now + self._rules.forget_s / 4

    def take_no_more(self) -> None:
        """The process leaves: what it holds is still renewed, but it takes over nothing, least of all its own."""
        self._leaving = True

    async def renew(self) -> None:
        """Restart the lease of every held entry.

        Raises redis.exceptions.RedisError, as `reclaim`, `adopt` and `take_over` do.
        """
        asked_at = self._clock.monotonic()
        self._held.renewing()
        lost, gone = await self._renew(list(self._held))
        # We stood still, or Redis was away or slow: a peer may even have finished some of them.
        if not self._kept:
            lost += await self._finished(gone)
        # An entry that is gone has most likely just been finished by us, and the answer is under way; one
        # that is still held and gone at the next look was finished by a peer, or deleted.
        missed = [ref for ref in gone if ref in self._gone and ref in self._held]
        self._gone = {ref for ref in gone if ref in self._held}
        lost = [ref for ref in lost if ref in self._held]
        news = [ref for ref in (*lost, *missed) if ref not in self._lost]
        self._lost = {ref for ref in self._lost if ref in self._held}.union(news)
        for why, refs in (("claimed", lost), ("gone", missed)):
            for stream, ids in _by_stream(ref for ref in refs if ref in news):
                self._events.emit("lease_lost", job_stream=stream, count=len(ids), why=why)
        if self._on_lost is not None and (lost or missed):
            self._on_lost([*lost, *missed])
        self._held.keep(asked_at + self._rules.lease_s)

    async def reclaim(self, deliver: Deliver) -> int:
        """Take over entries that nobody has kept for a lease; the number taken."""
        cursors = dict.fromkeys(self._lane_of, b"0-0")
        taken = 0
        while cursors and (count := self._fits()) > 0:
            share = min(PAGE, max(1, count // len(cursors)))
            head = (self._rules.group, self._consumer, self._rules.suspect_from, self._lease_ms)
            asked, asked_at = list(cursors), self._clock.monotonic()
            replies = await self._wire.run_all(
                RECLAIM, [((stream, self._early), (*head, at, share)) for stream, at in cursors.items()]
            )
            for stream, reply in zip(asked, replies, strict=True):
                if isinstance(reply, ResponseError):
                    if error_code(reply) != "NOGROUP":
                        raise reply
                    del cursors[stream]  # the intake creates it
                    continue
                cursor, *found = reply
                taken += self._take(deliver, stream, found, "entries_reclaimed", asked_at)
                if cursor == b"0-0":
                    del cursors[stream]
                else:
                    cursors[stream] = cursor
        return taken

    async def adopt(self, deliver: Deliver) -> int:
        """Fetch entries that Redis delivered to this process and that never arrived; the number fetched."""
        idle_ms = int(self._rules.adopt_after_s * 1000)
        _, taken = await self._take_from(self._consumer, deliver, idle_ms=idle_ms, event="entries_adopted")
        return taken

    async def take_in(self, deliver: Deliver) -> None:
        """Take entries that somebody else has acknowledged, or dropped with their consumer, a lease after they were."""

        def take(stream: str, found: Any, asked_at: float) -> int:
            return self._take(deliver, stream, found, "entries_orphaned", asked_at)

        await self._unowned.look(self._lane_of, self._clock.monotonic(), self._fits, take)

    async def take_over(self, consumer: str, deliver: Deliver) -> int:
        """Take what a consumer known to be dead held, without waiting for its leases to end.

        As far as there is room. Returns how many entries are left with it.
        """
        found, taken = await self._take_from(consumer, deliver, idle_ms=0, event="entries_reclaimed")
        return found - taken

    async def hand_back(self, refs: Iterable[EntryRef]) -> bool:
        """Stop holding these; a peer's next look takes them over at once.

        False when Redis is away: they are then taken over when their lease ends. Never raises for that,
        since a drain goes on all the same.
        """
        back = list(refs)
        for ref in back:  # first, or a renewal that is under way takes them back
            self._held.release(ref)
        try:
            for stream, ids in _by_stream(back):
                for page in _pages(ids):
                    # Looked at again for each page: the table changes while the pages before it are under way.
                    given = [entry_id for entry_id in page if EntryRef(stream, entry_id) not in self._held]
                    args: list[Word] = [self._rules.group, self._consumer, 2 * self._lease_ms, *given]
                    await self._wire.run(HAND_BACK, (stream, self._early), args)
        except RedisError:
            return False
        return True

    async def leave(self) -> bool:
        """At a clean stop: hand back what is pending but not held, and delete the consumer if it is empty.

        False when Redis is away; peers then do both in time.
        """
        try:
            for stream in self._lane_of:
                unknown = [ref async for ref in self._pending(stream, self._consumer, idle_ms=0)]
                await self.hand_back([ref for ref in unknown if ref not in self._held])
            await self._forget(0.0)
        except RedisError:
            return False
        return True

    @property
    def _lease_ms(self) -> int:
        return int(self._rules.lease_s * 1000)

    def _fits(self) -> int:
        return self._held.fits(self._room(), self._rules.max_job_bytes)

    async def _renew(self, refs: Sequence[EntryRef]) -> tuple[list[EntryRef], list[EntryRef]]:
        """Those that are not ours, and those that are gone.

        What is nobody's is taken back while it is certainly ours. Later a peer may have had it meanwhile, and be at it.
        """
        lost: list[EntryRef] = []
        gone: list[EntryRef] = []
        for stream, ids in _by_stream(refs):
            for page in _pages(ids):
                # Looked at again for each page: the table changes while the pages before it are under way.
                still = [ref for one in page if (ref := EntryRef(stream, one)) in self._held]
                if not still:
                    continue
                ours = [ref.entry_id for ref in still if ref not in self._lost] if self._kept else []
                others = [ref.entry_id for ref in still if not ours or ref in self._lost]
                args: list[Word] = [self._rules.group, self._consumer, len(ours), *ours, *others]
                answer = await self._wire.run(RENEW, (stream, self._early), args)
                not_ours, not_there, back = (
                    [EntryRef(stream, one.decode()) for one in found] for found in answer
                )
                lost += not_ours if self._kept else [*not_ours, *back]
                gone += not_there
                if back:
                    self._events.emit("entries_orphaned", job_stream=stream, count=len(back))
        return lost, gone

    @property
    def _kept(self) -> bool:
        """Is what we hold certainly ours, for lack of time in which it could have been given to anybody?"""
        return self._clock.monotonic() < self._held.kept_until

    async def _finished(self, gone: Sequence[EntryRef]) -> list[EntryRef]:
        """Of these, those that somebody has answered; the others Redis has lost."""
        found: list[EntryRef] = []
        for page in _pages(list(gone)):
            marks = await self._wire.ask_all([("GET", self._done(ref)) for ref in page])
            found += [ref for ref, mark in zip(page, marks, strict=True) if _raised(mark) is not None]
        return found

    async def _take_from(self, owner: str, deliver: Deliver, *, idle_ms: int, event: str) -> tuple[int, int]:
        """How many were found with the owner, and how many of them are taken."""
        seen = taken = 0
        for stream in self._lane_of:
            pending = [ref async for ref in self._pending(stream, owner, idle_ms=idle_ms)]
            ids = [ref.entry_id for ref in pending if ref not in self._held]
            seen += len(ids)
            for page in _pages(ids[: max(0, self._fits())]):
                args = (self._rules.group, self._consumer, self._rules.suspect_from, owner, idle_ms, *page)
                asked_at = self._clock.monotonic()
                found = await self._wire.run(TAKE, (stream, self._early), args)
                taken += self._take(deliver, stream, found, event, asked_at)
        return seen, taken

    async def _pending(self, stream: str, owner: str, *, idle_ms: int) -> Any:
        start = "-"
        while True:
            try:
                rows = await self._wire.ask(
                    "XPENDING", stream, self._rules.group, "IDLE", idle_ms, start, "+", PAGE, owner
                )
            except ResponseError as error:
                if error_code(error) == "NOGROUP":
                    return  # nothing is pending in a group that does not exist
                raise
            for row in rows:
                yield EntryRef(stream, row[0].decode())
            if len(rows) < PAGE:
                return
            start = f"({rows[-1][0].decode()}"

    async def _forget(self, idle_s: float) -> None:
        calls = [
            ((stream,), (self._rules.group, int(idle_s * 1000), self._consumer)) for stream in self._lane_of
        ]
        names = {name for reply in await self._wire.run_all(FORGET, calls) for name in _raised(reply)}
        names.discard(self._consumer.encode())
        for name in sorted(names):
            self._events.emit("consumer_removed", consumer=name.decode("utf-8", "replace"))

    def _take(self, deliver: Deliver, stream: str, found: Sequence[Any], event: str, asked_at: float) -> int:
        """Hold what a script has given us and pass it on; how many that were.

        Their leases began when Redis gave them, which was not before `asked_at`, however late its answer came.
        """
        entries, suspects, vanished = found
        lane = self._lane_of[stream]
        # Redis before 7 gives a nil in the place of an entry that was deleted.
        fresh = self._held.take(
            Delivery(EntryRef(stream, entry[0].decode()), lane, entry[1], redelivered=True)
            for entry in entries
            if entry and entry[1]
        )
        doubtful = [Suspect(EntryRef(stream, one.decode()), lane, count) for one, count in suspects]
        new = {one.ref for one in self._held.take(Delivery(one.ref, lane, []) for one in doubtful)}
        doubtful = [one for one in doubtful if one.ref in new]
        count = len(fresh) + len(doubtful)
        if count:
            self._held.doubt_from(asked_at + self._rules.lease_s)
            self._events.emit(event, job_stream=stream, count=count)
        if fresh:
            deliver(fresh)
        if doubtful:
            self._on_suspects(doubtful)
        if vanished:
            self._events.emit("entries_vanished", job_stream=stream, count=vanished)
        return count


def _raised(reply: Any) -> Any:
    if isinstance(reply, ResponseError):
        raise reply
    return reply


def _by_stream(refs: Iterable[EntryRef]) -> Iterable[tuple[str, list[str]]]:
    ids: dict[str, list[str]] = {}
    for stream, entry_id in refs:
        ids.setdefault(stream, []).append(entry_id)
    return ids.items()


def _pages(items: list[T]) -> Iterator[list[T]]:
    return (items[start : start + PAGE] for start in range(0, len(items), PAGE))
