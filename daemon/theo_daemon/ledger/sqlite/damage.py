"""A ledger that SQLite finds damaged: kept as it is, and not used again before it was looked through."""

from __future__ import annotations

import contextlib
from pathlib import Path

import apsw

from theo_workers.errors import LedgerError

DAMAGED = (apsw.CorruptError, apsw.NotADBError)


def damaged(path: Path, error: object) -> LedgerError:
    """What to tell, with advice."""
    return LedgerError(
        f"{path} is damaged: {error}. It was left as it is, and jobs stay in Redis. Stop all processes, keep a copy "
        "of it with its -wal, then restore it from a backup, or save what can be read with SQLite's `.recover`. "
        "To start with empty books (spend, cache and remembered ids are forgotten), move it and its -wal away."
    )


def mark(path: Path) -> None:
    """Remember the damage: whoever opens it next looks through all of it first."""
    with contextlib.suppress(OSError):
        _marker(path).touch(mode=0o600)


def is_marked(path: Path) -> bool:
    """Was damage found, and none of it repaired since?"""
    return _marker(path).exists()


def check(db: apsw.Connection, path: Path) -> None:
    """Look through a file that was found damaged, once. Raises LedgerError while it is."""
    if not is_marked(path):
        return
    try:
        (found,) = db.execute("PRAGMA quick_check(1)").fetchone() or ("nothing can be read",)
    except DAMAGED as error:
        raise damaged(path, error) from error
    if found != "ok":
        raise damaged(path, found)
    _marker(path).unlink(missing_ok=True)


def _marker(path: Path) -> Path:
    return Path(f"{path}.damaged")
