"""Who writes to the ledger, and who of them is alive: a kernel lock per process, not a timer.

The lock goes when its process dies, however it dies, and stays through a stall or SIGSTOP. A forked child
would inherit it, so it is closed there.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from theo_workers.errors import LedgerError


class OwnerLock:
    """This process's entry in `owners`, held by an exclusive lock on a file of its own."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = folder / f"{name}.owner"
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._fd)
            raise LedgerError(f"{self.path} is locked: a process of this name runs already.") from error
        os.register_at_fork(after_in_child=self._close)

    def release(self) -> None:
        """Clean end: the file goes too, so that folders do not fill with dead names."""
        self.path.unlink(missing_ok=True)
        self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def owners_folder(ledger: Path) -> Path:
    return ledger.parent / f"{ledger.name}-owners"


def is_alive(folder: Path, name: str) -> bool:
    """Does a living process hold this owner's lock? One that cannot be looked at for now is taken for living."""
    try:
        fd = os.open(folder / f"{name}.owner", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return True
        raise
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def register(db: apsw.Connection, name: str, now_ms: int) -> int:
    """Add this process to `owners`; its id goes into every row it writes."""
    db.execute("BEGIN IMMEDIATE")
    db.execute("INSERT INTO owners(name, pid, started_at) VALUES(?, ?, ?)", (name, os.getpid(), now_ms))
    owner = db.last_insert_rowid()
    db.execute("COMMIT")
    return owner


class DeadOwner(NamedTuple):
    """A process that is gone, by its id in the ledger and its name."""

    id: int
    name: str


def dead_owners(db: apsw.Connection, folder: Path) -> list[DeadOwner]:
    """Owners not yet buried whose process is gone."""
    rows: list[Any] = db.execute("SELECT id, name FROM owners WHERE buried_at IS NULL").fetchall()
    return [DeadOwner(owner, name) for owner, name in rows if not is_alive(folder, name)]
