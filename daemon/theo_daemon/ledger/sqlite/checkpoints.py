"""Keeps the WAL short, and never waits for a reader: what one still needs is left for a later try."""

from __future__ import annotations

import contextlib

import apsw

from theo_daemon.ledger.sqlite.schema import BUSY_TIMEOUT_MS

PAGES = 2_000  # of 4 KiB: about 8 MB of WAL between checkpoints
AGAIN_PAGES = 500  # after one that a reader stopped
WAL_LIMIT = 16 * 1024 * 1024  # bytes that the file keeps when it begins anew

# What may pass: a lock, want of room, a disk that comes back.
PASSING = (
    apsw.BusyError, apsw.FullError, apsw.IOError, apsw.ReadOnlyError, apsw.CantOpenError, apsw.ProtocolError,
)  # fmt: skip


class Checkpoints:
    """Of one connection."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db
        self._pages, self._due = 0, PAGES
        db.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT}")
        db.set_wal_hook(self._count)

    @property
    def due(self) -> bool:
        """Has the WAL grown enough?"""
        return self._pages >= self._due

    def run(self) -> None:
        """Copy what no reader needs any more; when that is all of it, the WAL begins anew."""
        if self._checkpoint(apsw.SQLITE_CHECKPOINT_RESTART):
            self._pages, self._due = 0, PAGES
        else:
            self._due = self._pages + AGAIN_PAGES

    def finish(self) -> None:
        """At the end: leave no WAL, if nobody else needs it."""
        self._checkpoint(apsw.SQLITE_CHECKPOINT_TRUNCATE)

    def _checkpoint(self, mode: int) -> bool:
        self._db.set_busy_timeout(0)
        try:
            with contextlib.suppress(*PASSING):
                self._db.wal_checkpoint(mode=mode)
                return True
        finally:
            self._db.set_busy_timeout(BUSY_TIMEOUT_MS)
        return False

    def _count(self, _db: apsw.Connection, _name: str, pages: int) -> int:
        self._pages = pages
        return apsw.SQLITE_OK
