"""The ledger of a simulated host: the router's own statements on one database in memory, and the troubles of a disk.

All processes of a world share one connection: transactions of a thread that is simulated never overlap, and prepared
statements stay prepared from world to world. What differs between connections, `PRAGMA data_version`, is counted here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import apsw

from tests.sim.loop import SimLoop, Strand
from theo_daemon.ledger.operations import Operation
from theo_daemon.ledger.records import Ask, Check, Verdict
from theo_daemon.ledger.sqlite import SqliteLedger, owners, schema
from theo_daemon.ledger.sqlite.commit import Committer
from theo_daemon.ledger.sqlite.shortage import Shortage, Waiting
from theo_daemon.ledger.sqlite.writer import MAX_BATCH, Writer
from theo_workers.clock import Clock, sleep
from theo_workers.errors import LedgerError

RETRY_S = 0.25
PATH = Path("/nowhere/ledger.db")
_DATABASES: list[apsw.Connection] = []  # one for all worlds of a process


class Disk:
    """What all processes of the host share: the file, and how it is just now."""

    def __init__(self, loop: SimLoop, lag: Callable[[], float]) -> None:
        if not _DATABASES:
            db = apsw.Connection(":memory:")
            schema._prepare(db, PATH)
            db.execute(
                "UPDATE meta SET value = 'books' WHERE name = 'uuid'"
            )  # the same in every process that simulates
            _DATABASES.append(db)
        self.loop, self.db, self._lag = loop, _DATABASES[0], lag
        for table in self._tables():
            self.db.execute(f"DELETE FROM {table}")
        self.gate = os.memfd_create("gate")
        self.commits = 0
        self.locked: set[str] = set()  # names of living processes
        self.slow_s = 0.0  # what each commit takes longer
        self.busy = False  # somebody holds the file's lock
        self.free = True  # is there room?
        self.ballast = True  # is its room taken?

    def _tables(self) -> list[str]:
        names = self.db.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> 'meta'")
        return [str(name) for (name,) in names.fetchall()]

    def lag(self) -> float:
        return self._lag() + self.slow_s

    def rows(self, sql: str, *values: str | int) -> list[tuple[Any, ...]]:
        return self.db.execute(sql, values).fetchall()

    def close(self) -> None:
        os.close(self.gate)


class View:
    """One process's connection."""

    def __init__(self, disk: Disk) -> None:
        self._disk, self._own = disk, 0
        self.last_insert_rowid, self.executemany = disk.db.last_insert_rowid, disk.db.executemany
        self.changes, self._run = disk.db.changes, disk.db.execute

    def __enter__(self) -> None:
        self._disk.db.__enter__()

    def __exit__(self, *error: object) -> None:
        self._disk.db.__exit__(*error)

    def execute(self, sql: str, binds: Any = None) -> Any:
        if sql == "PRAGMA data_version":
            return _Row((self._disk.commits - self._own,))
        return self._run(sql, binds)

    def committed(self) -> None:
        self._disk.commits += 1
        self._own += 1

    @property
    def in_transaction(self) -> bool:
        return self._disk.db.in_transaction

    def config(self, *_: int) -> int:
        return 0


class _Row:
    def __init__(self, row: tuple[Any, ...]) -> None:
        self._row = row

    def fetchone(self) -> tuple[Any, ...]:
        return self._row


class DiskBallast:
    """Implements `Ballast` over the disk that is simulated."""

    needs = 0

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.kept = True

    def stands(self) -> bool:
        return self._disk.ballast

    def release(self) -> None:
        self._disk.ballast = False

    def room_again(self) -> bool:
        if self._disk.free:
            self._disk.ballast = True
        return self._disk.free

    def free(self) -> int:
        return 1 << 30 if self._disk.free else 0


class SimWriter(Writer):
    """The writer without a thread of its own: a strand. `point` is asked before and after every commit."""

    def __init__(
        self, disk: Disk, name: str, *, strand: Strand, main: Strand, clock: Clock, id_ttl_s: float,
        point: Callable[[str], Any], committed: Callable[[Sequence[Operation], Sequence[Verdict | None]], None],
    ) -> None:  # fmt: skip
        super().__init__(PATH, name, wall=clock.wall, id_ttl_s=id_ttl_s)
        self._disk, self._strand, self._main, self._point = disk, strand, main, point
        self._report_commit, self._clock = committed, clock
        self._shortage = Shortage(DiskBallast(disk))  # type: ignore[arg-type]
        self._queue: list[Waiting] = []
        self._view = View(disk)
        self._db: Any = self._view
        self._awake = False

    async def start(self) -> int:
        self._loop = self._disk.loop
        self.crashed = self._loop.create_future()
        owner = owners.register(self._db, self._name, int(self._wall() * 1000))
        self._view.committed()
        self._committer = Committer(self._db, owner, id_ttl_ms=self._id_ttl_ms)
        return owner

    async def call(self, function: Callable[[Any], Any], *, writing: bool = False) -> Any:
        """What is there can be read at any time."""
        if writing and (self._disk.busy or not self._disk.free):
            raise LedgerError("the file is locked, or the disk full")
        done = function(self._db)
        if writing:
            self._view.committed()
        return done

    async def stop(self) -> None:
        self._send()
        while self._disk.busy:  # whoever holds the lock is waited for, longer than anything holds it here
            await sleep(self._clock, RETRY_S)
        while True:
            batch, self._queue = self._queue[:MAX_BATCH], self._queue[MAX_BATCH:]
            if self._attempt(self._db, self._committer, self._disk.gate, batch):
                return
            told = self._disk.loop.create_future()
            self._tell(partial(told.set_result, None))
            await told  # claims that came too late for whoever asked are void by now, which is recorded, too
            self._send()
            if not self._queue:
                return

    def _send(self) -> None:
        self._queue += self._gathered
        self._gathered = []
        self._wake(self._disk.lag())

    def _wake(self, after_s: float) -> None:
        if (self._queue or self._shortage.active) and not self._awake:
            self._awake = True
            self._disk.loop.call_later(after_s, self._work, context=self._strand.context.copy())

    def _work(self) -> None:
        """On the writer's thread."""
        self._awake = False
        if self._shortage.active:
            self._end_shortage(self._db, self._committer, self._disk.gate)
        batch, self._queue = self._queue[:MAX_BATCH], self._queue[MAX_BATCH:]
        waits = self._point("commit begins")
        if type(waits) is float:
            self._queue[:0] = batch
            self._wake(waits)
            return
        if waits:
            return
        left = self._attempt(self._db, self._committer, self._disk.gate, batch)
        self._queue[:0] = left
        if self._point("commit done"):
            return
        self._wake(RETRY_S if left or self._shortage.active else self._disk.lag())

    def _end_shortage(self, db: Any, committer: Committer, gate: int) -> None:
        if self._shortage.ballast.room_again():
            self._queue[:0] = self._shortage.end()
            self._have_trouble(None)

    def _try(
        self, db: Any, committer: Committer, gate: int, operations: list[Operation]
    ) -> list[Verdict | None]:
        disk = self._disk
        if disk.busy:
            raise apsw.BusyError("database is locked")
        if not disk.free and (disk.ballast or any(isinstance(one, Ask | Check) for one in operations)):
            raise apsw.FullError("database or disk is full")
        answers = super()._try(db, committer, gate, operations)
        self._view.committed()
        self._report_commit(operations, answers)
        return answers

    def _tell(self, callback: Callable[[], object]) -> None:
        self._disk.loop.on(self._main, callback)


class SimLock:
    """An owner's lock: the kernel lets go of it when its process dies."""

    disk: Disk  # of the world that runs just now

    def __init__(self, _folder: Path, name: str) -> None:
        self.name = name
        self.disk.locked.add(name)

    def release(self) -> None:
        self.disk.locked.discard(self.name)


def is_alive(_folder: Path, name: str) -> bool:
    """Stands in for `owners.is_alive`."""
    return name in SimLock.disk.locked


class SimLedger(SqliteLedger):
    """The ledger over the disk that is simulated."""

    def __init__(self, make_writer: Callable[[str, Clock, float], SimWriter], **options: Any) -> None:
        self._make_sim_writer = make_writer
        super().__init__(PATH, **options)

    def _make_writer(self, name: str, clock: Clock, id_ttl_s: float) -> SimWriter:
        return self._make_sim_writer(name, clock, id_ttl_s)
