"""The writer thread: every write of this process, in group commits, never on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import apsw

from theo_daemon.ledger.large_reads import LargeReads, Place, place_in
from theo_daemon.ledger.operations import Operation, ends_call
from theo_daemon.ledger.port import Orphaned
from theo_daemon.ledger.records import Hit, Landing, News, Replay, Verdict
from theo_daemon.ledger.sqlite import damage
from theo_daemon.ledger.sqlite.anchor import Anchor
from theo_daemon.ledger.sqlite.ballast import Ballast
from theo_daemon.ledger.sqlite.checkpoints import PASSING, Checkpoints
from theo_daemon.ledger.sqlite.commit import Committer
from theo_daemon.ledger.sqlite.files import LedgerFiles
from theo_daemon.ledger.sqlite.gate import held
from theo_daemon.ledger.sqlite.opening import open_to_write
from theo_daemon.ledger.sqlite.shortage import Shortage, Waiting
from theo_daemon.ledger.sqlite.texts import read_text
from theo_workers.errors import LedgerError

T = TypeVar("T")
_Call = tuple[Callable[[apsw.Connection], object], "asyncio.Future[object]", bool]

MAX_BATCH = 256
STOP_S = 15.0  # above the busy timeout
_RETRY_S = 0.25


class Writer:
    """Owns the writing connection. `post` is called on the event loop, everything else happens on the thread.

    A full disk or a lock that does not come is waited out: an operation is answered only when it is on disk.
    A file that is damaged, or no more the one that was opened, ends the thread: see `crashed`.
    """

    def __init__(self, path: Path, name: str, *, wall: Callable[[], float], id_ttl_s: float = 86_400) -> None:
        self._path, self._name, self._wall = path, name, wall
        self._id_ttl_ms = int(id_ttl_s * 1000)
        self._mail: queue.SimpleQueue[list[Waiting] | _Call | None] = queue.SimpleQueue()
        self._gathered: list[Waiting] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="ledger-writer", daemon=True)
        self._opened: asyncio.Future[int] | None = None
        self.crashed: asyncio.Future[None] | None = None  # raises LedgerError when the thread died
        self._files: LedgerFiles | None = None
        self._checkpoints: Checkpoints | None = None
        self._shortage = Shortage(Ballast(path))
        self._stopping = threading.Event()
        self._gave_up = False
        self._calls_posted = self._calls_recorded = 0  # ended ones; each counter belongs to one thread
        self.large = LargeReads(self._read_large, partial(self.post, answer=True))
        self.warnings: list[str] = []  # of the opening
        self.busy_with = 0  # the number of the piece of work that it is at; 0: none
        self._pieces = 0
        self.trouble: str | None = None  # why the last commit had to wait; None: it did not
        self.on_trouble: Callable[[], None] = _nobody_looks  # called in the loop when that has changed
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
        if type(operation) is Landing:
            self._calls_posted += ends_call(operation)
        return future

    async def call(self, function: Callable[[apsw.Connection], T], *, writing: bool = False) -> T:
        """Run a short function on the writer's connection, between commits; in its turn with other processes if it
        is `writing`. Raises LedgerError."""
        assert self._loop is not None
        future: asyncio.Future[object] = self._loop.create_future()
        self._mail.put((function, future, writing))
        return await future  # type: ignore[return-value]  # what the function returned

    async def _read_large(self, place: Place) -> bytes | None:
        return await self.call(partial(read_text, place=place))

    async def stop(self) -> None:
        """Commit what is queued, checkpoint, close. Idempotent, and bounded: see `unrecorded`."""
        await self.large.close()
        if self._thread.is_alive():
            self._send()
            self._stopping.set()
            self._mail.put(None)
            await asyncio.to_thread(self._thread.join, STOP_S)

    @property
    def unrecorded(self) -> int:
        """Calls that have ended and are not on record (yet)."""
        return self._calls_posted - self._calls_recorded

    @property
    def ended_by(self) -> str | None:
        """What ended the thread before its time."""
        crashed = self.crashed
        return str(crashed.exception()) if crashed is not None and crashed.done() else None

    @property
    def size(self) -> int:
        """Bytes of the database."""
        return 0 if self._files is None else self._files.size

    @property
    def wal_size(self) -> int:
        """Bytes of its WAL."""
        return 0 if self._files is None else self._files.wal_size

    def _send(self) -> None:
        if self._gathered:
            self._mail.put(self._gathered)
            self._gathered = []

    def _send_last(self) -> None:
        """All that was queued is answered. Claims that came too late for whoever asked are void by now: those, too."""
        self._send()
        self._mail.put(None)

    # -- on the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            db, gate, owner, warnings = open_to_write(self._path, self._name, self._wall)
            self.warnings += warnings
            self._take_stock(db, gate)
        except damage.DAMAGED as error:
            damage.mark(self._path)
            reason = damage.damaged(self._path, error)
            self._tell(lambda: self._announce(reason))
            return
        except (LedgerError, apsw.Error, OSError) as error:
            refusal = error if isinstance(error, LedgerError) else LedgerError(f"{self._path}: {error}")
            self._tell(lambda: self._announce(refusal))
            return
        self._tell(lambda: self._announce(owner))
        try:
            anchor = Anchor(self._path)
            with contextlib.closing(anchor), contextlib.closing(db), anchor:
                self._serve_to_the_end(db, Committer(db, owner, id_ttl_ms=self._id_ttl_ms, places=True), gate)
        except LedgerError as error:
            lost = error
            self._tell(lambda: self._crash(lost))
        except BaseException as error:
            crash = error  # nothing can be recorded any more: the process must not go on
            self._tell(lambda: self._crash(self._unforeseen(crash)))
            raise
        finally:
            os.close(gate)

    def _take_stock(self, db: apsw.Connection, gate: int) -> None:
        self._files, self._checkpoints = LedgerFiles(self._path), Checkpoints(db)
        with held(gate):
            if not self._shortage.ballast.restore():
                self.warnings.append(
                    f"too little room beside {self._path} to keep some for a full disk ({self._shortage.ballast.path})"
                )

    def _serve_to_the_end(self, db: apsw.Connection, committer: Committer, gate: int) -> None:
        """Raises LedgerError when the file must not be written any more."""
        try:
            self._serve(db, committer, gate)
        except (LedgerError, *damage.DAMAGED) as error:
            # Closing the last connection would copy the WAL into it, and delete whatever bears its name.
            db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            if isinstance(error, LedgerError):
                raise
            damage.mark(self._path)
            raise damage.damaged(self._path, error) from error
        if self._checkpoints is not None:
            self._checkpoints.finish()

    def _unforeseen(self, error: BaseException) -> LedgerError:
        crash = LedgerError(f"the writer of {self._path} ended: {type(error).__name__}: {error}")
        crash.__cause__ = error
        return crash

    def _crash(self, error: LedgerError) -> None:
        if self.crashed is not None and not self.crashed.done():
            self.crashed.set_exception(error)

    def _announce(self, opened: int | LedgerError) -> None:
        if self._opened is None or self._opened.done():
            return
        if isinstance(opened, LedgerError):
            self._opened.set_exception(opened)
        else:
            self._opened.set_result(opened)

    def _serve(self, db: apsw.Connection, committer: Committer, gate: int) -> None:
        ends = 0  # of what is posted: by `stop`, and then by `_send_last`
        while not self._gave_up and ends < 2:
            try:
                mail = self._mail.get(timeout=_RETRY_S if self._shortage.active else None)
            except queue.Empty:
                mail = []
            if self._files is not None:
                self._files.check(db)
            if self._shortage.active:
                self._end_shortage(db, committer, gate)
            if isinstance(mail, tuple):
                self._run_call(db, gate, mail)
                del mail  # so may one be among what it read
                continue
            batch, call, end = ([], None, True) if mail is None else self._gather(mail)
            self._commit_batch(db, committer, gate, batch)
            del mail, batch  # large answers may be in it, and it may be long until the next one
            if call is not None:
                self._run_call(db, gate, call)
                call = None
            if end:
                ends += 1
                self._tell(self._send_last)

    def _gather(self, first: list[Waiting]) -> tuple[list[Waiting], _Call | None, bool]:
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
        self, db: apsw.Connection, committer: Committer, gate: int, batch: list[Waiting]
    ) -> None:
        """Try until it is on disk; given up only to stop."""
        with self._at_work():
            self._commit_in_time(db, committer, gate, batch)
        if self._checkpoints is not None and self._checkpoints.due:
            with self._at_work(), held(gate):
                self._checkpoints.run()

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[None]:
        """With what may hang: the disk, or a stopped process that holds the gate."""
        self._pieces += 1
        self.busy_with = self._pieces
        try:
            yield
        finally:
            self.busy_with = 0

    def _commit_in_time(
        self, db: apsw.Connection, committer: Committer, gate: int, batch: list[Waiting]
    ) -> None:
        while batch:
            batch = self._attempt(db, committer, gate, batch)
            if batch and self._stopping.wait(_RETRY_S):
                self._gave_up = True
                return

    def _attempt(
        self, db: apsw.Connection, committer: Committer, gate: int, batch: list[Waiting]
    ) -> list[Waiting]:
        """Try once; what is left to be tried again."""
        shortage = self._shortage
        if not shortage.active and shortage.declared():
            self._begin_shortage()
        if shortage.active:
            batch = shortage.keep_back(batch)
        if not batch:
            return batch
        try:
            answers = self._try(db, committer, gate, [waiting[0] for waiting in batch])
        except PASSING as error:
            if shortage.caused(error):
                fresh = not shortage.active
                self._begin_shortage()
                # Tried at once: there is room, where the ballast was, and who leaves does not try again.
                return self._attempt(db, committer, gate, batch) if fresh else shortage.keep_back(batch)
            self._have_trouble(f"{type(error).__name__}: {error}")
            return batch
        self._committed(committer, batch, answers)
        return []

    def _try(
        self, db: apsw.Connection, committer: Committer, gate: int, operations: list[Operation]
    ) -> list[Verdict | None]:
        # A fair queue of processes: SQLite's own busy waiting lets one starve the others.
        with held(gate):
            if self._files is not None:
                self._files.check(db)  # no call is made for a claim in a file that nobody will find
            try:
                started = self._wall()
                db.execute("BEGIN IMMEDIATE")
                answers = committer.apply(operations, int(started * 1000))
                db.execute("COMMIT")
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")
        self.on_commit(self._wall() - started)
        return answers

    def _committed(self, committer: Committer, batch: list[Waiting], answers: list[Verdict | None]) -> None:
        if self.trouble is not None and not self._shortage.active:
            self._have_trouble(None)
        self._calls_recorded += sum(ends_call(one) for one, _, _ in batch if type(one) is Landing)
        if committer.news:
            news = committer.news
            self._tell(lambda: self._report(news))
        if any(future is not None for _, future, _ in batch):
            self._tell(lambda: self._resolve(batch, answers))

    def _resolve(self, batch: list[Waiting], answers: list[Verdict | None]) -> None:
        for (operation, future, orphaned), answer in zip(batch, answers, strict=True):
            if future is None:
                continue
            if future.done():
                if orphaned is not None:
                    orphaned(answer)
            elif isinstance(answer, Hit | Replay) and place_in(answer) is not None:
                self.large.bring(answer, (operation, future, orphaned))
            else:
                future.set_result(answer)

    # -- trouble -------------------------------------------------------------------------------------

    def _have_trouble(self, reason: str | None) -> None:
        changed = (self.trouble is None) != (reason is None)
        self.trouble = reason
        if changed:
            self._tell(self.on_trouble)

    def _begin_shortage(self) -> None:
        self._shortage.begin()
        self._have_trouble(self._shortage.reason)

    def _end_shortage(self, db: apsw.Connection, committer: Committer, gate: int) -> None:
        """If there is room again, carry out what was kept back."""
        with held(gate):
            if not self._shortage.ballast.room_again():
                return
        batch = self._shortage.end()
        self._have_trouble(None)
        if batch:
            self._commit_batch(db, committer, gate, batch)

    def _report(self, news: Sequence[News]) -> None:
        for one in news:
            self.on_news(one)

    def _run_call(self, db: apsw.Connection, gate: int, call: _Call) -> None:
        function, future, writing = call
        try:
            with self._at_work(), held(gate) if writing else contextlib.nullcontext():
                result = function(db)
        except damage.DAMAGED:
            raise
        except (apsw.Error, LedgerError) as error:
            failure = error if isinstance(error, LedgerError) else LedgerError(f"{self._path}: {error}")
            self._tell(lambda: None if future.done() else future.set_exception(failure))
        else:
            self._tell(lambda: None if future.done() else future.set_result(result))

    def _tell(self, callback: Callable[[], object]) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self._loop.call_soon_threadsafe(callback)


def _nobody_looks() -> None:
    """Stands in until the owner sets `on_trouble`."""


def _nobody_listens(_told: object) -> None:
    """Stands in until the owner sets `on_commit` or `on_news`."""
