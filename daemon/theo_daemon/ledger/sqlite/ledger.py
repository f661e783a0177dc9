"""The ledger in a file: opened, kept tidy and closed here; what it shows is `face.py`'s."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from theo_daemon.ledger.face import LedgerFace, process_name
from theo_daemon.ledger.shared import SharedStanding
from theo_daemon.ledger.sqlite import owners
from theo_daemon.ledger.sqlite.pruning import OUTCOME_S, Keep, Pruner
from theo_daemon.ledger.sqlite.reading import SqliteTransaction, reading
from theo_daemon.ledger.sqlite.schema import check_place, uuid_of
from theo_daemon.ledger.sqlite.shared_store import all_health, all_standings
from theo_daemon.ledger.sqlite.watcher import Watcher
from theo_daemon.ledger.sqlite.writer import Writer
from theo_workers.clock import Clock, SystemClock, sleep
from theo_workers.errors import LedgerError
from theo_workers.health import HealthSnapshot
from theo_workers.upstreams.room import Room

PRUNE_EVERY_S = 30.0


class SqliteLedger(LedgerFace):
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
        name, clock = name or process_name(), clock or SystemClock()
        keep = Keep(
            attempts_s=keep_days * 86_400,
            ids_s=max(id_ttl_s, OUTCOME_S),  # it is an outcome, too, which its own entry may ask for
        )
        self._pruner = Pruner(keep)
        self._folder = owners.owners_folder(path)
        self._writer = self._make_writer(name, clock, id_ttl_s)
        self._watcher = Watcher(self._writer, self._folder, clock)
        super().__init__(name, clock, recorder=self._writer, watcher=self._watcher)
        self._tasks: list[asyncio.Task[None]] = []
        self._lock: owners.OwnerLock | None = None

    def share_room(self, room: Room) -> None:
        self._writer.large.room = room

    def _make_writer(self, name: str, clock: Clock, id_ttl_s: float) -> Writer:
        return Writer(self.path, name, wall=clock.wall, id_ttl_s=id_ttl_s)

    async def __aenter__(self) -> Self:
        """Open the file. Raises LedgerError, which says what was found and what to do."""
        check_place(self.path)  # before anything is made beside it
        try:
            self._lock = owners.OwnerLock(self._folder, self.name)
        except OSError as error:
            raise LedgerError(f"{self._folder} cannot be written: {error.strerror}") from error
        try:
            self._owner = await self._writer.start()
            self.uuid = await self._writer.call(uuid_of)
        except BaseException:
            self._lock.release()
            raise
        self._tasks = self._look_after(
            (self._watcher.run(), self._watcher.watch_deaths(), self._prune(), self._condition.run())
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Commit what is queued and close. Raises LedgerError for ended calls that could not be recorded in time."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._flush_forgotten()
        await self._writer.stop()
        if self._lock is not None:
            self._lock.release()
        self._check_recorded(error)

    @property
    def place(self) -> str:
        return str(self.path)

    async def standings(self) -> tuple[list[SharedStanding], dict[str, HealthSnapshot]]:
        return await self._writer.call(lambda db: (all_standings(db), all_health(db)))

    def transaction(self) -> AbstractContextManager[SqliteTransaction]:
        """See `port.Books`."""
        return reading(self.path)

    async def _in_flight(self, key: str) -> bool:
        return await self._writer.call(lambda db: SqliteTransaction(db).inflight_status(key)) is not None

    async def _last_error(self, key: str) -> str | None:
        return await self._writer.call(lambda db: SqliteTransaction(db).last_error(key))

    async def _fresh_answer(self, key: str) -> bytes | None:
        now_ms = int(self._clock.wall() * 1000)
        return await self._writer.call(lambda db: SqliteTransaction(db).answer(key, now_ms))

    async def _prune(self) -> None:
        while True:
            prune = partial(self._pruner.prune, now_ms=int(self._clock.wall() * 1000))
            with contextlib.suppress(LedgerError):  # the disk is full or the file locked: later will do
                while await self._writer.call(prune, writing=True):
                    await sleep(self._clock, 0.05)
            await sleep(self._clock, PRUNE_EVERY_S)
