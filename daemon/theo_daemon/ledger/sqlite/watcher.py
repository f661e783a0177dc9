"""Waiting for what other processes do with the ledger, and noticing those that died."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import apsw

from theo_daemon.ledger.poller import Poller
from theo_daemon.ledger.port import OnId, OnKey, Token
from theo_daemon.ledger.records import Bury
from theo_daemon.ledger.shared import SharedStanding
from theo_daemon.ledger.sqlite import owners
from theo_daemon.ledger.sqlite.shared_store import all_standings
from theo_daemon.ledger.sqlite.writer import Writer
from theo_workers.clock import Clock, sleep
from theo_workers.errors import LedgerError

PROBE_S = 0.25  # a dead process commits nothing, so its lock is looked at too; while somebody waits
REST_PROBE_S = 1.0  # and while nobody does


class Watcher(Poller):
    """How the file is looked at.

    `PRAGMA data_version` on the writer's connection changes only with commits of other connections, so a
    look costs one of the page cache while nothing happened elsewhere. Our own commits do not change it.
    """

    def __init__(self, writer: Writer, folder: Path, clock: Clock) -> None:
        super().__init__(clock)
        self._writer, self._folder = writer, folder
        self._seen_version = -1

    async def watch_deaths(self) -> None:
        """Bury processes that died, for ever; cancel to stop."""
        while True:
            with contextlib.suppress(LedgerError):  # it could not be read: later will do
                await self._bury_the_dead()
            await sleep(self._clock, PROBE_S if self._waiting else REST_PROBE_S)

    async def _look(self, tokens: Sequence[Token], *, afresh: bool) -> None:
        seen = -1 if afresh else self._seen_version
        try:
            self._seen_version, free, standings = await self._writer.call(lambda db: _news(db, tokens, seen))
        except LedgerError:  # it could not be read
            self.look_again()
            return
        if standings:
            self.on_standings(standings)
        for token in free:
            self._wake(token)

    async def _bury_the_dead(self) -> None:
        for dead in await self._writer.call(lambda db: owners.dead_owners(db, self._folder)):
            buried = self._writer.post(Bury(dead.id), answer=True)
            assert buried is not None
            await buried
            self.look_again()  # our own commits do not change data_version
            self.tell_of(dead.name)


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
