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
        self._names = [str(path), f"{path}-wal", f"{path}-shm"]
        self._known = [None if found is None else _identity(found) for found in map(_stat, self._names)]
        self.size, self.wal_size = (size_of(name) for name in self._names[:2])  # bytes

    def check(self, db: apsw.Connection) -> None:
        """Raises LedgerError once a file is another, is gone, or was cut off: what is written now would be lost."""
        sizes = []
        for name, known in zip(self._names, self._known, strict=True):
            found = _stat(name)
            if known is not None and (found is None or _identity(found) != known):
                raise _lost(name, "deleted" if found is None else "replaced by another file")
            sizes.append(0 if found is None else found.st_size)
        before = self.size
        self.size, self.wal_size, _ = sizes
        if self.size < before and _pages_bytes(db) > self.size:  # VACUUM makes it smaller, too, but says so
            raise _lost(self._names[0], "cut off")


def size_of(name: str) -> int:
    """Bytes; 0 when there is no such file."""
    try:
        return os.stat(name).st_size
    except OSError:
        return 0


def _stat(name: str) -> os.stat_result | None:
    try:
        return os.stat(name)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _pages_bytes(db: apsw.Connection) -> int:
    (pages,) = db.execute("PRAGMA page_count").fetchone() or (0,)
    (size,) = db.execute("PRAGMA page_size").fetchone() or (0,)
    return int(pages) * int(size)


def _lost(name: str, what: str) -> LedgerError:
    return LedgerError(
        f"{name} was {what} while it was in use. Nothing can be recorded any more, so this process ends; "
        "its jobs stay in Redis. Put the file back as it was, then start again."
    )
