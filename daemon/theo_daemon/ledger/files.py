"""The files of an open ledger as they lie on the disk: are they still the ones that were opened, how large are they?

Looked at by their names alone. To open and close the database beside SQLite would drop its locks (POSIX).
"""

from __future__ import annotations

import os
from pathlib import Path

import apsw

from theo_workers.errors import LedgerError


class LedgerFiles:
    """The database, its WAL and its index, as they were when this was made: after the first commit."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._names = [str(path), f"{path}-wal", f"{path}-shm"]
        self._known = [_identity(name) for name in self._names]
        self.size = 0  # bytes
        self.wal_size = 0
        self._measure()

    def check(self, db: apsw.Connection) -> None:
        """Raises LedgerError once a file is another, is gone, or was cut off: what is written now would be lost."""
        for name, known in zip(self._names, self._known, strict=True):
            if known is not None and (found := _identity(name)) != known:
                raise _gone(name, "deleted" if found is None else "replaced by another file")
        before = self.size
        self._measure()
        if self.size < before and _pages_bytes(db) > self.size:  # VACUUM makes it smaller, too, but says so
            raise _gone(self._names[0], "cut off")

    def _measure(self) -> None:
        self.size, self.wal_size = size_of(self._names[0]), size_of(self._names[1])


def size_of(name: str) -> int:
    """Bytes; 0 when there is no such file."""
    try:
        return os.stat(name).st_size
    except OSError:
        return 0


def _identity(name: str) -> tuple[int, int] | None:
    try:
        found = os.stat(name)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _pages_bytes(db: apsw.Connection) -> int:
    (pages,) = db.execute("PRAGMA page_count").fetchone() or (0,)
    (size,) = db.execute("PRAGMA page_size").fetchone() or (0,)
    return int(pages) * int(size)


def _gone(name: str, what: str) -> LedgerError:
    return LedgerError(
        f"{name} was {what} while it was in use. Nothing can be recorded any more, so this process ends; "
        "its jobs stay in Redis. Put the file back as it was, then start again."
    )
