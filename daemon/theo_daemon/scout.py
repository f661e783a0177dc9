"""Brings jobs of kinds that this process has few of from behind those that it has many of.

Jobs are read in the order of their stream, and only so far ahead. What lies behind thousands of one loud tenant, or of
a model that takes no calls, would come when it is too late for taking turns. While this process cannot read on, or has
not come to the end, it looks further: at tenants and models only, in small pages. Kinds of which few wait here are
taken before their time; whose turn it then is, the dispatcher decides as ever.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct
from redis.exceptions import RedisError, ResponseError

from theo_daemon.backlog import Backlog, Kind
from theo_daemon.backoff import delay_s
from theo_daemon.held import HeldEntries, Room
from theo_daemon.job import Delivery, EntryRef
from theo_daemon.keys import Keys
from theo_daemon.scout_scripts import PEEK, SHELVE, TAKE_EARLY
from theo_daemon.wire import Wire, Word
from theo_workers.clock import Clock, sleep

AGAIN_S = 0.003  # something was taken: it may have started by then
LOOK_EVERY_S = 0.05
# Pages after a while in which there was nothing to look for: the first starts are not over by then.
AT_ONCE = 8
REST_S = 0.1  # the last look found nothing
PAGE = 500  # entries in a look: a millisecond or two of the server's time
PAGE_BYTES = 500_000
EARLY_MS = 3_600_000
SHELVED_S = 5.0
FORGET_AFTER_S = 10.0  # a read that came by an entry just before it was finished has been dealt with by then

Deliver = Callable[[Sequence[Delivery]], None]
Waiting = Callable[[str, Kind], int | None]
"""Of a lane and a kind: how many of its jobs wait here now; None: none of them could start."""
Wants = Callable[[Kind], int]


class ScoutRules(Struct, frozen=True, kw_only=True):
    """`few` is how many jobs of a kind may wait here before no more of it are taken early; `most`, of all kinds
    together, how many that were taken early are held: so reading in order goes on, whatever lies ahead."""

    group: str
    lanes: Sequence[str]
    max_job_bytes: int
    lease_s: float = 30.0
    few: int = 32
    most: int = 512


class Scout:
    """Of one process. What it takes is held like anything else, within the same bounds."""

    def __init__(
        self, *, wire: Wire, keys: Keys, rules: ScoutRules, consumer: str, held: HeldEntries,
        room: Callable[[], Room], behind: asyncio.Event, waiting: Callable[[], Waiting],
        give_way: Callable[[int], Sequence[EntryRef]], peers: Callable[[], int], clock: Clock, rng: random.Random,
    ) -> None:  # fmt: skip
        """`behind`: is there, or may there be, more in the lanes than is read now? `peers`: others that look, too."""
        self._wire, self._rules, self._consumer, self._held = wire, rules, consumer, held
        self._room, self._behind, self._waiting, self._give_way = room, behind, waiting, give_way
        self._peers = peers
        self._clock, self._rng = clock, rng
        self._early = keys.early
        self._backlogs = {lane: Backlog() for lane in rules.lanes}
        self._streams = {lane: keys.jobs(lane) for lane in rules.lanes}
        self._taken: deque[tuple[float, EntryRef]] = deque()
        self._peek_at = self._shelve_at = 0.0  # monotonic seconds
        self._at_once = AT_ONCE
        self.wanted = 0  # jobs that are known and would be taken if there were room

    async def run(self, deliver: Deliver) -> None:
        """Look while there is something to look for, until cancelled."""
        failures = 0
        while True:
            try:
                pause = await self._look(deliver)
                failures = 0
            except RedisError:  # the intake reports it
                failures += 1
                self._want(0)
                await self._wire.close()
                pause = delay_s(failures, self._rng.random())
            await sleep(self._clock, pause)

    async def _look(self, deliver: Deliver) -> float:
        """One look at each lane; how long to rest after it, in seconds."""
        await self._forget()
        if not self._behind.is_set():
            self._want(0)
            self._at_once = AT_ONCE
            if self._taken:
                return REST_S
            await self._behind.wait()
        now = self._clock.monotonic()
        peeks = now >= self._peek_at or self._at_once
        if not peeks and not any(backlog.known() for backlog in self._backlogs.values()):
            self._want(0)
            return LOOK_EVERY_S
        waiting = self._waiting()
        wants = {lane: self._wants(waiting, lane) for lane in self._rules.lanes}
        if peeks:
            found = await self._peek(wants)
            self._at_once = self._at_once - 1 if found and self._at_once else 0
            self._peek_at = now + (LOOK_EVERY_S if found else REST_S)
        before, wanted = len(self._taken), 0
        for lane in self._rules.lanes:
            wanted += await self._take(lane, wants[lane], deliver)
        self._want(wanted)
        if wanted and now >= self._shelve_at and self._room().jobs <= 0:
            await self._make_room(wanted)
        return AGAIN_S if self._at_once or len(self._taken) > before else LOOK_EVERY_S

    def _want(self, wanted: int) -> None:
        """Who reads in order leaves room for so many: when they are fewer, it may go on, whether a job ends or not."""
        if wanted < self.wanted:
            self._held.freed.set()
        self.wanted = wanted

    def _wants(self, waiting: Waiting, lane: str) -> Wants:
        few = max(
            1, self._rules.few // (1 + self._peers())
        )  # the sooner they start, the more hands they are in
        wanted: dict[Kind, int] = {}  # it is asked several times in a look

        def wants(kind: Kind) -> int:
            found = wanted.get(kind)
            if found is None:
                number = waiting(lane, kind)
                found = wanted[kind] = 0 if number is None else max(0, few - number)
            return found

        return wants

    async def _peek(self, wants: Mapping[str, Wants]) -> bool:
        """A page further in each lane. True: something was there."""
        skipped = {lane: backlog.unwanted(wants[lane]) for lane, backlog in self._backlogs.items()}
        before = {lane: backlog.cursor for lane, backlog in self._backlogs.items()}
        calls = []
        for lane, stream in self._streams.items():
            args: list[Word] = [self._rules.group, before[lane], PAGE, PAGE_BYTES]
            calls.append(((stream,), [*args, *(word for kind in skipped[lane] for word in kind)]))
        for lane, reply in zip(self._backlogs, await self._wire.run_all(PEEK, calls), strict=True):
            if isinstance(reply, ResponseError):
                raise reply
            delivered, to, *words = (word.decode("utf-8", "replace") for word in reply)
            found = [(words[i], Kind(*words[i + 1 : i + 4])) for i in range(0, len(words), 4)]
            self._backlogs[lane].looked(found, to=to, delivered=delivered, skipped=skipped[lane])
        return any(backlog.cursor != before[lane] for lane, backlog in self._backlogs.items())

    async def _take(self, lane: str, wants: Wants, deliver: Deliver) -> int:
        """Take what is wanted and fits, of the rarest kinds first; how many more are known and wanted."""
        backlog = self._backlogs[lane]
        known = backlog.known()
        if not known:
            return 0
        early = sum(ref in self._held for _, ref in self._taken)
        room = min(self._held.fits(self._room(), self._rules.max_job_bytes), self._rules.most - early)
        ids: list[str] = []
        wanted = 0
        for kind, number in sorted(known.items(), key=lambda one: -wants(one[0])):
            wanted += min(number, wants(kind), self._rules.most - early - wanted)
            ids += backlog.take(kind, min(wants(kind), room - len(ids)))
        if not ids:
            return wanted
        stream, asked_at = self._streams[lane], self._clock.monotonic()
        reply = await self._wire.run(
            TAKE_EARLY, (stream, self._early), (self._rules.group, self._consumer, EARLY_MS, *ids)
        )
        taken = [Delivery(EntryRef(stream, entry_id.decode()), lane, fields) for entry_id, fields in reply]
        now = self._clock.monotonic()
        self._taken.extend((now, delivery.ref) for delivery in taken)
        fresh = self._held.take(taken)
        if fresh:  # their leases began when Redis gave them, however late its answer came
            self._held.doubt_from(asked_at + self._rules.lease_s)
            deliver(fresh)
        return wanted - len(ids)

    async def _make_room(self, wanted: int) -> None:
        """Shelve a few, and no more until these come back: they stay pending under this name, beyond what is held."""
        refs = self._give_way(min(wanted, self._rules.few))
        if refs:
            self._shelve_at = self._clock.monotonic() + SHELVED_S
            await self._shelve(refs)

    async def _shelve(self, refs: Sequence[EntryRef]) -> None:
        """Parked jobs go back for a while: whoever has room then takes them over."""
        ids: dict[str, list[str]] = {}
        for ref in refs:
            ids.setdefault(ref.stream, []).append(ref.entry_id)
        idle_ms = int(max(0.0, self._rules.lease_s - SHELVED_S) * 1000)
        for stream, own in ids.items():
            await self._wire.run(SHELVE, (stream,), (self._rules.group, self._consumer, idle_ms, *own))

    async def _forget(self) -> None:
        """Entries that were finished a while ago cannot be come by any more."""
        long_ago = self._clock.monotonic() - FORGET_AFTER_S
        gone: list[str] = []
        for _ in range(len(self._taken)):
            since, ref = self._taken[0]
            if since > long_ago:
                break
            self._taken.popleft()
            if ref in self._held:
                self._taken.append((self._clock.monotonic(), ref))
            else:
                gone.append(f"{ref.stream} {ref.entry_id}")
        if gone:
            await self._wire.ask("HDEL", self._early, *gone)
