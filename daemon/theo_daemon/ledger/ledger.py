"""The ledger's face: claims, landings and waits for the dispatcher; spend and latency for people."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from theo_daemon.job import EntryRef
from theo_daemon.ledger import owners, pruning
from theo_daemon.ledger.condition import Condition, Tidings
from theo_daemon.ledger.reading import LedgerTransaction, reading
from theo_daemon.ledger.records import Ask, Check, Forget, Landing, News, Verdict
from theo_daemon.ledger.schema import check_place
from theo_daemon.ledger.shared import Change, HealthReport, SharedStanding
from theo_daemon.ledger.shared_store import all_health, all_standings
from theo_daemon.ledger.shortage import Orphaned
from theo_daemon.ledger.watcher import OnKey, Token, Watcher
from theo_daemon.ledger.writer import Writer
from theo_workers.clock import Clock, SystemClock, sleep, timeout_at
from theo_workers.errors import LedgerError, RouterError
from theo_workers.health import HealthSnapshot

PRUNE_EVERY_S = 30.0
FORGET_AFTER_S = 0.5
FORGET_BATCH = 64


def process_name() -> str:
    """A name for this boot of this process: host, pid, and what no other boot has."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


class InflightTimeout(RouterError, TimeoutError):
    """`wait_for_inflight` waited for nothing."""


class Ledger:
    """One SQLite file in WAL mode, shared by all processes of a host.

    `path` is the file; `name` is this process's, unique to its boot; `keep_days` bounds the history of
    attempts, `id_ttl_s` the memory of client ids.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str | None = None,
        clock: Clock | None = None,
        keep_days: float = 30,
        id_ttl_s: float = 86_400,
    ) -> None:
        self.path = path
        self._clock = clock or SystemClock()
        self._keep = pruning.Keep(attempts_s=keep_days * 86_400, ids_s=id_ttl_s)
        self.name = name or process_name()
        self._folder = owners.owners_folder(path)
        self._writer = Writer(path, self.name, wall=self._clock.wall)
        self._watcher = Watcher(self._writer, self._folder, self._clock)
        self._condition = Condition(self._writer, self._clock)
        self._tasks: list[asyncio.Task[None]] = []
        self._lock: owners.OwnerLock | None = None
        self._forgotten: list[EntryRef] = []
        self._owner = 0
        self._attempts = itertools.count()

    async def __aenter__(self) -> Self:
        """Open the file. Raises LedgerError, which says what was found and what to do."""
        check_place(self.path)  # before anything is made beside it
        try:
            self._lock = owners.OwnerLock(self._folder, self.name)
        except OSError as error:
            raise LedgerError(f"{self._folder} cannot be written: {error.strerror}") from error
        try:
            self._owner = await self._writer.start()
        except BaseException:
            self._lock.release()
            raise
        loop = asyncio.get_running_loop()
        endless = (self._watcher.run(), self._watcher.watch_deaths(), self._prune(), self._condition.run())
        self._tasks = [loop.create_task(work) for work in endless]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Commit what is queued and close. Raises LedgerError for ended calls that could not be recorded in time."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._flush_forgotten()
        await self._writer.stop()
        left = self._condition.at_end()
        if self._lock is not None:
            self._lock.release()
        if left is not None and error is None:
            raise LedgerError(
                f"{left.calls} ended calls could not be recorded ({left.reason}). They will be charged at their bound, "
                "and their jobs, which stay in Redis, may be sent again."
            )

    # -- for the dispatcher --------------------------------------------------------------------------

    def ask(self, ask: Ask | Check, orphaned: Orphaned | None = None) -> asyncio.Future[Verdict | None]:
        """The verdict, once whatever it grants is durable.

        Cancelling the future does not take the ask back: its verdict goes to `orphaned` then.
        """
        future = self._writer.post(ask, answer=True, orphaned=orphaned)
        assert future is not None
        return future

    def land(self, landing: Landing) -> asyncio.Future[Verdict | None]:
        """Resolves once the landing is durable."""
        future = self._writer.post(landing, answer=True)
        assert future is not None
        if self._watcher.busy:
            future.add_done_callback(self._watcher.look_again)
        return future

    def tell(self, landing: Landing) -> None:
        """As `land`, for what nobody waits for; operations keep their order."""
        if self._watcher.busy:
            self.land(landing)
        else:
            self._writer.post(landing, answer=False)

    def forget(self, ref: EntryRef) -> None:
        """The entry's reply is published; its stored outcome may go with a later commit."""
        if not self._forgotten:
            rung: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            rung.add_done_callback(lambda _: self._flush_forgotten())
            self._clock.call_at(self._clock.monotonic() + FORGET_AFTER_S, rung)
        self._forgotten.append(ref)
        if len(self._forgotten) >= FORGET_BATCH:
            self._flush_forgotten()

    def change(self, change: Change) -> asyncio.Future[Verdict | None]:
        """Tell all processes of a model's standing. Resolves with Changed once it is durable."""
        future = self._writer.post(change, answer=True)
        assert future is not None
        return future

    def report_health(self, reports: Sequence[HealthReport]) -> None:
        """Add to the record that outlives this process."""
        for report in reports:
            self._writer.post(report, answer=False)

    async def standings(self) -> tuple[list[SharedStanding], dict[str, HealthSnapshot]]:
        """What is known of the models: their standings, and their health by name."""
        return await self._writer.call(lambda db: (all_standings(db), all_health(db)))

    def wait(self, token: Token) -> asyncio.Future[None]:
        """Resolves when another process let go of `token`: ask again then."""
        return self._watcher.wait(token)

    def next_attempt_id(self) -> int:
        """Unique in this ledger: the owner, which no other boot shares, and a counter below it."""
        return self._owner << 40 | next(self._attempts)

    @property
    def owner(self) -> int:
        """This process's id in the ledger."""
        return self._owner

    @property
    def crashed(self) -> asyncio.Future[None]:
        """Never resolves; raises LedgerError when nothing can be recorded any more."""
        assert self._writer.crashed is not None
        return self._writer.crashed

    def on_death(self, told: Callable[[str], None]) -> None:
        """Tell `told` the name of every process that died, once its calls are booked as unknown."""
        self._watcher.on_death = told

    def on_standings(self, told: Callable[[Sequence[SharedStanding]], None]) -> None:
        """Tell `told` the models' standings within 0.2 s of another process's commit."""
        self._watcher.on_standings = told

    def on_commit(self, told: Callable[[float], None]) -> None:
        """Tell `told` the seconds of every commit; it is called on the writer's thread."""
        self._writer.on_commit = told

    def on_news(self, told: Callable[[News], None]) -> None:
        """Tell `told` of ceilings and lost calls that this process booked; in the loop, once they are durable."""
        self._writer.on_news = told

    def on_tidings(self, told: Callable[[Tidings], None]) -> None:
        """Tell `told` when commits have to wait, when they go on, and when the WAL is too long; in the loop."""
        self._condition.on_tidings = told

    @property
    def trouble(self) -> str | None:
        """Why commits, and so all calls, have to wait (disk full, locked), or None."""
        return self._condition.trouble

    @property
    def warnings(self) -> Sequence[str]:
        """What was odd when it was opened."""
        return self._writer.warnings

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._writer.size

    @property
    def wal_size(self) -> int:
        """Bytes of its write-ahead log."""
        return self._writer.wal_size

    # -- for people ----------------------------------------------------------------------------------

    def transaction(self) -> AbstractContextManager[LedgerTransaction]:
        """A consistent reading transaction, on a connection of its own; usable from any thread.

        ```
        with ledger.transaction() as txn:
            txn.get_all_spend(), txn.get_all_latency()
        ```
        """
        return reading(self.path)

    async def wait_for_inflight(self, key: str, timeout_s: float) -> bytes | None:
        """Wait until the generation in flight under `key` has ended, in whichever process it runs.

        Parameters: `key` is the cache key of the job (32 hex digits, see `theo_daemon.key.cache_key`);
        `timeout_s` is how long to wait, in seconds, measured by the ledger's monotonic clock.

        Returns the answer as JSON bytes (`theo_daemon.job.Answer`) when the generation left a fresh one in the
        cache; None when it failed, was not to be cached, or nothing was in flight under `key` at all.

        Raises InflightTimeout (a RouterError and a TimeoutError) when the generation still runs after
        `timeout_s`. Its message names the key's first digits, the status and the last failure on record:
        `Timed out waiting for inflight generation (key: abc123..., status: waiting, elapsed: 30.2s): ...`.
        LedgerError when the file cannot be read.

        Behaviour: nothing is claimed and nothing is called; several callers may wait for one key. If the
        process that runs the generation dies, that is noticed within about 0.3 s and counts as its end.
        Cancelling the wait has no effect on the generation.
        """
        started = self._clock.monotonic()
        try:
            async with timeout_at(self._clock, started + timeout_s):
                while (
                    await self._writer.call(lambda db: LedgerTransaction(db).inflight_status(key)) is not None
                ):
                    # Landings of this very process do not show in data_version, so the wait is cut short.
                    waiting = self.wait(OnKey(key))
                    nap = asyncio.ensure_future(sleep(self._clock, 0.1))
                    done, _ = await asyncio.wait((waiting, nap), return_when=asyncio.FIRST_COMPLETED)
                    for late in {waiting, nap} - done:
                        late.cancel()
        except TimeoutError:
            elapsed = self._clock.monotonic() - started
            last = await self._writer.call(lambda db: LedgerTransaction(db).last_error(key))
            raise InflightTimeout(
                f"Timed out waiting for inflight generation (key: {key[:6]}..., status: waiting, "
                f"elapsed: {elapsed:.1f}s): {last or 'no error was recorded'}"
            ) from None
        now_ms = int(self._clock.wall() * 1000)
        return await self._writer.call(lambda db: LedgerTransaction(db).answer(key, now_ms))

    # -- housekeeping --------------------------------------------------------------------------------

    def _flush_forgotten(self) -> None:
        if self._forgotten:
            self._writer.post(Forget(tuple(self._forgotten)), answer=False)
            self._forgotten = []

    async def _prune(self) -> None:
        while True:
            now_ms = int(self._clock.wall() * 1000)
            prune = partial(pruning.prune, now_ms=now_ms, keep=self._keep)
            with contextlib.suppress(LedgerError):  # the disk is full or the file locked: later will do
                while await self._writer.call(prune) >= pruning.ROWS:
                    await sleep(self._clock, 0.05)
            await sleep(self._clock, PRUNE_EVERY_S)
