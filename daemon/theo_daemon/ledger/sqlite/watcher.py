"""Waiting for what other processes do with the ledger, and noticing those that died."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import apsw

from theo_daemon.ledger.port import OnId, OnKey, Token
from theo_daemon.ledger.records import Bury
from theo_daemon.ledger.shared import SharedStanding
from theo_daemon.ledger.sqlite import owners
from theo_daemon.ledger.sqlite.shared_store import all_standings
from theo_daemon.ledger.sqlite.writer import Writer
from theo_workers.clock import Clock, sleep
from theo_workers.errors import LedgerError

POLL_S = 0.05  # while somebody waits
REST_POLL_S = 0.15  # and while nobody does: what other processes learn of a model is known here in time
PROBE_S = 0.25  # a dead process commits nothing, so its lock is looked at too; while somebody waits
REST_PROBE_S = 1.0  # and while nobody does


class Watcher:
    """One poller per process, unhurried while nobody waits.

    `PRAGMA data_version` on the writer's connection changes only with commits of other connections, so a
    poll costs one page-cache look while nothing happened elsewhere.
    """

    def __init__(self, writer: Writer, folder: Path, clock: Clock) -> None:
        self._writer, self._folder, self._clock = writer, folder, clock
        self.on_death: Callable[[str], None] = (
            _nobody_listens  # hears the name of a process once it is buried
        )
        # Hears the standings of all models after other processes wrote to the ledger.
        self.on_standings: Callable[[Sequence[SharedStanding]], None] = _nobody_listens
        self._waiting: dict[Token, list[asyncio.Future[None]]] = {}
        self._rest: asyncio.Future[None] | None = None
        self._seen_version = -1
        self._look_again = True  # whatever the version says: somebody new waits, or we wrote ourselves

    def wait(self, token: Token) -> asyncio.Future[None]:
        """Resolves when it is worth asking the ledger again. Cancel it freely."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(token, []).append(future)
        self._look_again = True  # what happened before this moment counts as news
        if self._rest is not None and not self._rest.done():
            self._rest.set_result(None)
        return future

    @property
    def busy(self) -> bool:
        """Does anybody wait?"""
        return bool(self._waiting)

    def look_again(self, _landed: object = None) -> None:
        """This process wrote what somebody may wait for: our own commits do not change data_version."""
        self._look_again = True

    async def run(self) -> None:
        """Poll for ever; cancel to stop."""
        while True:
            try:
                await self._poll()
            except LedgerError:
                self._look_again = True  # it could not be read
            if self._waiting:
                await sleep(self._clock, POLL_S)
                continue
            self._rest = asyncio.get_running_loop().create_future()
            self._clock.call_at(self._clock.monotonic() + REST_POLL_S, self._rest)
            await self._rest

    async def watch_deaths(self) -> None:
        """Bury processes that died, for ever; cancel to stop."""
        while True:
            with contextlib.suppress(LedgerError):  # it could not be read: later will do
                await self._bury_the_dead()
            await sleep(self._clock, PROBE_S if self._waiting else REST_PROBE_S)

    async def _poll(self) -> None:
        for token, futures in list(self._waiting.items()):
            if all(future.done() for future in futures):
                del self._waiting[token]
        tokens = list(self._waiting)
        seen = -1 if self._look_again else self._seen_version
        self._look_again = False  # set again by whoever begins to wait from here on
        self._seen_version, free, standings = await self._writer.call(lambda db: _news(db, tokens, seen))
        if standings:
            self.on_standings(standings)
        for token in free:
            for future in self._waiting.pop(token, []):
                if not future.done():
                    future.set_result(None)

    async def _bury_the_dead(self) -> None:
        for dead in await self._writer.call(lambda db: owners.dead_owners(db, self._folder)):
            buried = self._writer.post(Bury(dead.id), answer=True)
            assert buried is not None
            await buried
            self._look_again = True  # our own commits do not change data_version
            self.on_death(dead.name)


def _news(
    db: apsw.Connection, tokens: Sequence[Token], seen: int
) -> tuple[int, list[Token], list[SharedStanding]]:
    """The tokens that nobody holds any more, and all standings; nothing if nothing changed since `seen`."""
    (version,) = db.execute("PRAGMA data_version").fetchone() or (0,)
    if version == seen:
        return version, [], []
    return version, [token for token in tokens if not _held(db, token)], all_standings(db)


def _held(db: apsw.Connection, token: Token) -> bool:
    match token:
        case OnKey(key):
            row = db.execute("SELECT 1 FROM inflight WHERE key = ?", (key,)).fetchone()
        case OnId(tenant, client_id):
            row = db.execute(
                "SELECT 1 FROM ids WHERE tenant = ? AND client_id = ? AND outcome IS NULL",
                (tenant, client_id),
            ).fetchone()
    return row is not None


def _nobody_listens(_news: object) -> None:
    """Stands in until the owner sets `on_death` and `on_standings`."""
