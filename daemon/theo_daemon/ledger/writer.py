"""The writer thread: every write of this process, in group commits, never on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import apsw

from theo_daemon.ledger import owners
from theo_daemon.ledger.commit import Committer, Operation
from theo_daemon.ledger.records import News, Verdict
from theo_daemon.ledger.schema import open_ledger
from theo_workers.errors import LedgerError

T = TypeVar("T")
Orphaned = Callable[[Verdict | None], None]
_Waiting = tuple[Operation, "asyncio.Future[Verdict | None] | None", Orphaned | None]
_Call = tuple[Callable[[apsw.Connection], object], "asyncio.Future[object]"]

CHECKPOINT_PAGES = 2_000  # of 4 KiB: about 8 MB of WAL between checkpoints
MAX_BATCH = 256
_RETRY_S = 0.25


class Writer:
    """Owns the writing connection. `post` is called on the event loop, everything else happens on the thread.

    A full disk or a lock that does not come is waited out: an operation is answered only when it is on disk.
    """

    def __init__(self, path: Path, name: str, *, wall: Callable[[], float]) -> None:
        self._path, self._name, self._wall = path, name, wall
        self._mail: queue.SimpleQueue[list[_Waiting] | _Call | None] = queue.SimpleQueue()
        self._gathered: list[_Waiting] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="ledger-writer", daemon=True)
        self._opened: asyncio.Future[int] | None = None
        self.crashed: asyncio.Future[None] | None = None  # raises LedgerError when the thread died
        self._wal_pages = 0
        self._stopping = threading.Event()
        self.trouble: str | None = None  # why the last commit had to wait; None: it did not
        self.on_commit: Callable[[float], None] = _nobody_listens  # called on the thread, with seconds
        self.on_news: Callable[[News], None] = _nobody_listens  # called in the loop, once it is durable

    async def start(self) -> int:
        """Open the file and register this process; the owner id. Raises LedgerError."""
        self._loop = asyncio.get_running_loop()
        self._opened, self.crashed = self._loop.create_future(), self._loop.create_future()
        self._thread.start()
        return await self._opened

    def post(
        self, operation: Operation, *, answer: bool, orphaned: Orphaned | None = None
    ) -> asyncio.Future[Verdict | None] | None:
        """Queue an operation for the next commit; the future resolves once it is durable.

        The operation is carried out even if its future is cancelled: `orphaned` gets the answer then.
        """
        assert self._loop is not None
        future = self._loop.create_future() if answer else None
        if not self._gathered:
            self._loop.call_soon(self._send)
        self._gathered.append((operation, future, orphaned))
        return future

    async def call(self, function: Callable[[apsw.Connection], T]) -> T:
        """Run a short function on the writer's connection, between commits."""
        assert self._loop is not None
        future: asyncio.Future[object] = self._loop.create_future()
        self._mail.put((function, future))
        return await future  # type: ignore[return-value]  # what the function returned

    async def stop(self) -> None:
        """Commit what is queued, checkpoint, close. Idempotent."""
        if self._thread.is_alive():
            self._send()
            self._stopping.set()
            self._mail.put(None)
            await asyncio.to_thread(self._thread.join)

    def _send(self) -> None:
        if self._gathered:
            self._mail.put(self._gathered)
            self._gathered = []

    # -- on the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            db = open_ledger(self._path)
            gate = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            owner = owners.register(db, self._name, int(self._wall() * 1000))
        except (LedgerError, apsw.Error, OSError) as error:
            reason = error if isinstance(error, LedgerError) else LedgerError(f"{self._path}: {error}")
            self._tell(lambda: self._announce(reason))
            return
        db.set_wal_hook(self._count_wal)
        self._tell(lambda: self._announce(owner))
        try:
            with contextlib.closing(db):
                self._serve(db, Committer(db, owner), gate)
                with contextlib.suppress(apsw.BusyError):
                    db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        except BaseException as error:
            crash = error  # nothing can be recorded any more: the process must not go on
            self._tell(lambda: self._crash(crash))
            raise
        finally:
            os.close(gate)

    def _crash(self, error: BaseException) -> None:
        if self.crashed is not None and not self.crashed.done():
            crash = LedgerError(f"the writer of {self._path} ended: {type(error).__name__}: {error}")
            crash.__cause__ = error
            self.crashed.set_exception(crash)

    def _announce(self, opened: int | LedgerError) -> None:
        if self._opened is None or self._opened.done():
            return
        if isinstance(opened, LedgerError):
            self._opened.set_exception(opened)
        else:
            self._opened.set_result(opened)

    def _serve(self, db: apsw.Connection, committer: Committer, gate: int) -> None:
        while True:
            mail = self._mail.get()
            if mail is None:
                return
            if isinstance(mail, tuple):
                self._run_call(db, mail)
                continue
            batch, call, end = self._gather(mail)
            self._commit_batch(db, committer, gate, batch)
            if call is not None:
                self._run_call(db, call)
            if end:
                return

    def _gather(self, first: list[_Waiting]) -> tuple[list[_Waiting], _Call | None, bool]:
        """Take whatever else lies in the queue by now, up to a batch's size."""
        batch = first
        while len(batch) < MAX_BATCH:
            try:
                mail = self._mail.get_nowait()
            except queue.Empty:
                return batch, None, False
            if mail is None:
                return batch, None, True
            if isinstance(mail, tuple):
                return batch, mail, False
            batch = batch + mail
        return batch, None, False

    def _commit_batch(
        self, db: apsw.Connection, committer: Committer, gate: int, batch: list[_Waiting]
    ) -> None:
        operations = [waiting[0] for waiting in batch]
        while True:
            # A fair queue of processes: SQLite's own busy waiting lets one starve the others.
            fcntl.flock(gate, fcntl.LOCK_EX)
            try:
                started = self._wall()
                db.execute("BEGIN IMMEDIATE")
                answers = committer.apply(operations, int(started * 1000))
                db.execute("COMMIT")
                self.on_commit(self._wall() - started)
                self.trouble = None
                break
            except (apsw.BusyError, apsw.FullError, apsw.IOError, apsw.ReadOnlyError) as error:
                self.trouble = f"{type(error).__name__}: {error}"
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                fcntl.flock(gate, fcntl.LOCK_UN)
            if self._stopping.wait(_RETRY_S) and self._mail.empty():
                return
        if committer.news:
            news = committer.news
            self._tell(lambda: self._report(news))
        if any(future is not None for _, future, _ in batch):
            self._tell(lambda: _resolve(batch, answers))
        if self._wal_pages >= CHECKPOINT_PAGES:
            self._checkpoint(db)

    def _report(self, news: Sequence[News]) -> None:
        for one in news:
            self.on_news(one)

    def _checkpoint(self, db: apsw.Connection) -> None:
        with contextlib.suppress(apsw.BusyError):  # a reader is in the way: the next commit tries again
            db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
            self._wal_pages = 0

    def _count_wal(self, _db: apsw.Connection, _name: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    def _run_call(self, db: apsw.Connection, call: _Call) -> None:
        function, future = call
        try:
            result = function(db)
        except (apsw.Error, LedgerError) as error:
            failure = error
            self._tell(lambda: None if future.done() else future.set_exception(failure))
        else:
            self._tell(lambda: None if future.done() else future.set_result(result))

    def _tell(self, callback: Callable[[], object]) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self._loop.call_soon_threadsafe(callback)


def _resolve(batch: list[_Waiting], answers: list[Verdict | None]) -> None:
    for (_, future, orphaned), answer in zip(batch, answers, strict=True):
        if future is None:
            continue
        if not future.done():
            future.set_result(answer)
        elif orphaned is not None:
            orphaned(answer)


def _nobody_listens(_told: object) -> None:
    """Stands in until the owner sets `on_commit` or `on_news`."""
