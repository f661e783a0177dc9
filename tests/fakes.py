"""The outside world in memory: books without a thread, replies without Redis, a clock that waits for no one."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from theo_daemon.job import EntryRef, Envelope, JobOutcome
from theo_daemon.ledger.sqlite import SqliteLedger, owners, schema
from theo_daemon.ledger.sqlite.commit import Committer
from theo_daemon.ledger.sqlite.reading import SqliteTransaction
from theo_daemon.ledger.sqlite.writer import MAX_BATCH, Writer
from theo_daemon.ports import DeadLetter, Finish
from theo_workers.clock import Clock, FakeClock, sleep
from theo_workers.tokens.count import TokenCounter
from theo_workers.tokens.ranks import Encodings

_ENCODINGS = Encodings()  # loading one takes longer than most tests
_TURNS = 100_000
_numbers = itertools.count()


class VirtualClock(FakeClock):
    """Lets every task run until nothing is left to run, before time moves on; so it costs no idle turns."""

    @property
    def next_ring(self) -> float | None:
        """The monotonic second of the next timer, if any is set."""
        while self._timers and self._timers[0][2].done():
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def shift_wall(self, seconds: float) -> None:
        """Somebody sets the machine's clock; nothing that is measured notices."""
        self._wall_offset += seconds

    async def advance(self, seconds: float) -> None:
        end = self._now + seconds
        await settle()
        while (ring := self.next_ring) is not None and ring <= end:
            self._now, _, ringing = heapq.heappop(self._timers)
            ringing.set_result(None)
            await settle()
        self._now = end
        await settle()


async def settle() -> None:
    """Until no task can go on without a thread, a socket or the clock."""
    loop: Any = asyncio.get_running_loop()
    for _ in range(_TURNS):
        await asyncio.sleep(0)
        if not loop._ready:  # asyncio's own loop: what is due in this turn and the next
            return
    raise AssertionError("a task goes round in circles without ever waiting")


def after(clock: Clock, seconds: float, act: Callable[[], object]) -> None:
    """Call `act` in `seconds`; at once if that is no time at all."""
    if seconds <= 0:
        act()
        return
    rung: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    rung.add_done_callback(lambda _: act())
    clock.call_at(clock.monotonic() + seconds, rung)


class QuickCounter(TokenCounter):
    """Loads encodings once per test process, and not in a thread."""

    def __init__(self) -> None:
        super().__init__(_ENCODINGS)

    async def warm(self, models: Iterable[str]) -> None:
        """They load on first use."""


# -- the ledger ------------------------------------------------------------------------------------------


class MemoryBooks:
    """What would be the ledger's file: a database in memory that several processes may share.

    It takes the real statements, since they are what may be wrong. Only the folder of owners' locks is on disk.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="books-")
        self.path = Path(self._folder.name) / "ledger.db"  # never made; owners' locks are put beside it
        self._name = f"file:/books-{os.getpid()}-{next(_numbers)}?vfs=memdb"
        self.db = self.connect()

    def connect(self) -> apsw.Connection:
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
        db = apsw.Connection(self._name, flags=flags)
        schema._prepare(db, self.path)
        return db

    def rows(self, sql: str, *values: str | int) -> list[tuple[Any, ...]]:
        return self.db.execute(sql, values).fetchall()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[SqliteTransaction]:
        self.db.execute("BEGIN")
        try:
            yield SqliteTransaction(self.db)
        finally:
            self.db.execute("COMMIT")

    def close(self) -> None:
        self.db.close()
        self._folder.cleanup()


class MemoryWriter(Writer):
    """Commits in the loop, `lag` seconds of the given clock after it was asked; `lag` seconds later it tells."""

    def __init__(
        self, books: MemoryBooks, name: str, *, clock: Clock, lag: Callable[[], float], id_ttl_s: float
    ) -> None:
        super().__init__(books.path, name, wall=clock.wall, id_ttl_s=id_ttl_s)
        self._books, self._clock, self._lag = books, clock, lag
        self._queue: list[Any] = []
        self._tidings: list[Callable[[], object]] = []
        self._committing = self.dead = False
        self._gate = -1
        self._db: apsw.Connection | None = None

    async def start(self) -> int:
        self._loop = asyncio.get_running_loop()
        self.crashed = self._loop.create_future()
        self._gate = os.memfd_create("gate")
        self._db = self._books.connect()
        owner = owners.register(self._db, self._name, int(self._wall() * 1000))
        self._committer = Committer(self._db, owner, id_ttl_ms=self._id_ttl_ms)
        return owner

    async def call(self, function: Callable[[apsw.Connection], Any], *, writing: bool = False) -> Any:
        if self._db is None:
            await asyncio.Event().wait()  # its process is dead: nothing answers any more
        return function(self._db)  # type: ignore[arg-type]

    async def stop(self) -> None:
        self._send()
        while not self.dead and (self._queue or self._tidings):
            self._commit()
            self._deliver()
        self.kill()

    def kill(self) -> None:
        """The process is gone: what it had asked for and was not committed never happens."""
        self.dead = True
        self._queue, self._tidings = [], []
        if self._db is not None:
            self._db.close()
            os.close(self._gate)
            self._db = None

    @property
    def unrecorded(self) -> int:
        return 0 if self.dead else super().unrecorded  # the dead tell nothing

    def _send(self) -> None:
        self._queue += self._gathered
        self._gathered = []
        if self._queue and not self._committing and not self.dead:
            self._committing = True
            after(self._clock, self._lag(), self._commit)

    def _commit(self) -> None:
        if self.dead:
            return
        assert self._db is not None
        batch, self._queue = self._queue[:MAX_BATCH], self._queue[MAX_BATCH:]
        self._commit_batch(self._db, self._committer, self._gate, batch)
        after(self._clock, self._lag(), self._deliver)

    def _tell(self, callback: Callable[[], object]) -> None:
        self._tidings.append(callback)

    def _deliver(self) -> None:
        tidings, self._tidings = self._tidings, []
        for tell in tidings:
            tell()
        self._committing = False
        self._send()


class MemoryLedger(SqliteLedger):
    """The ledger without a file and without a thread, in step with its clock."""

    def __init__(
        self, books: MemoryBooks, *, clock: Clock, name: str | None = None, lag: Callable[[], float] = lambda: 0.0,
        keep_days: float = 30, id_ttl_s: float = 86_400,
    ) -> None:  # fmt: skip
        self.books, self._lag = books, lag
        super().__init__(books.path, name=name, clock=clock, keep_days=keep_days, id_ttl_s=id_ttl_s)

    def _make_writer(self, name: str, clock: Clock, id_ttl_s: float) -> MemoryWriter:
        return MemoryWriter(self.books, name, clock=clock, lag=self._lag, id_ttl_s=id_ttl_s)

    def transaction(self) -> AbstractContextManager[SqliteTransaction]:
        return self.books.transaction()

    def kill(self) -> None:
        """Its process dies: the kernel lets go of the lock, and nothing is tidied up."""
        assert isinstance(self._writer, MemoryWriter)
        self._writer.kill()
        for task in self._tasks:
            task.cancel()
        if self._lock is not None:
            self._lock._close()
            self._lock = None


# -- replies ---------------------------------------------------------------------------------------------


class Final(NamedTuple):
    """One final reply, and when it was published, in monotonic seconds."""

    outcome: JobOutcome
    queued_ms: int
    dead: DeadLetter | None
    at: float


class Delta(NamedTuple):
    """One piece of a streamed answer."""

    attempt: int
    seq: int
    text: str


class MemoryReplies:
    """Implements the ports Publisher and Holds, and writes everything down."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.finals: dict[EntryRef, list[Final]] = {}
        self.deltas: dict[EntryRef, list[Delta]] = {}
        self.envelopes: dict[EntryRef, Envelope] = {}
        self.released: list[EntryRef] = []
        self.not_streams: frozenset[str] = frozenset()
        self.lost_by_redis: set[EntryRef] = set()
        self.kept_until = math.inf
        self.answered_by_peers: set[EntryRef] = set()
        self.delivered_again: set[EntryRef] = set()  # they wait for that: nobody may end them before
        self.away = False  # Redis, when it is asked something
        self.takes_s = 0.0

    def finish(
        self, envelope: Envelope, outcome: JobOutcome, *, queued_ms: int, dead: DeadLetter | None = None
    ) -> asyncio.Future[Finish]:
        done: asyncio.Future[Finish] = asyncio.get_running_loop().create_future()

        def publish() -> None:
            if envelope.ref in self.answered_by_peers:
                done.set_result(Finish.ALREADY)
                return
            if envelope.ref in self.delivered_again:
                done.set_result(Finish.NOT_PENDING)
                return
            final = Final(outcome, queued_ms, dead, self._clock.monotonic())
            self.finals.setdefault(envelope.ref, []).append(final)
            self.envelopes[envelope.ref] = envelope
            if not done.done():
                done.set_result(Finish.PUBLISHED)

        after(self._clock, self.takes_s, publish)
        return done

    def delta(self, envelope: Envelope, *, attempt: int, seq: int, text: str) -> None:
        self.deltas.setdefault(envelope.ref, []).append(Delta(attempt, seq, text))

    async def kept(self) -> None:
        """Whoever sets `kept_until` says what becomes of it."""
        while self._clock.monotonic() >= self.kept_until:
            await sleep(self._clock, 0.1)

    async def answered(self, ref: EntryRef) -> bool | None:
        return None if self.away else ref in self.answered_by_peers

    async def vanished(self, ref: EntryRef) -> bool:
        return ref in self.lost_by_redis

    async def unusable(self, reply_tos: Sequence[str]) -> frozenset[str]:
        return frozenset(reply_tos) & self.not_streams

    def release(self, ref: EntryRef) -> None:
        self.released.append(ref)
