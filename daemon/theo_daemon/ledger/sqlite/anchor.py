"""Keeps the WAL when another copy of SQLite in this very process, such as Python's own, closes the same file.

SQLite's locks are POSIX locks, which belong to a process and not to a connection: the other copy does not see
ours, takes itself for the last that has the file open, and ends by deleting the WAL that we write to. Locks of an
open file description do stand in its way. SQLite's own connections are not disturbed: these are read locks,
on bytes that every open connection has read locks on, too.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

# Where SQLite says "somebody has this open": PENDING_BYTE + 2 and 510 bytes in the file, the DMS in its index.
_SHARED = (0x4000_0000 + 2, 510)
_DEAD_MAN_SWITCH = (128, 1)


class Anchor:
    """Hold it while the connection is open, from its first commit on: the lock goes before it, the files after it.

    To close a file drops all POSIX locks that this process has on it. So ledgers of one process share one anchor
    for a file, and it is closed when none of them has a connection left.
    """

    def __init__(self, path: Path) -> None:
        with _guard:
            found = os.stat(path)
            self._key = (found.st_dev, found.st_ino)
            self._held = _anchors.get(self._key) or _anchors.setdefault(self._key, _Held(path))
            self._held.open += 1
            self._held.wanted += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """The connection is about to be closed, and may be the last indeed."""
        with _guard:
            self._held.wanted -= 1
            if self._held.wanted == 0:
                self._held.lock(fcntl.F_UNLCK)

    def close(self) -> None:
        """The connection is closed."""
        with _guard:
            self._held.open -= 1
            if self._held.open == 0:
                del _anchors[self._key]
                self._held.close()


class _Held:
    def __init__(self, path: Path) -> None:
        self.open = self.wanted = 0  # ledgers that have a connection; those that do not end yet
        self._files: list[tuple[int, tuple[int, int]]] = []
        for name, place in ((str(path), _SHARED), (f"{path}-shm", _DEAD_MAN_SWITCH)):
            with contextlib.suppress(OSError):
                self._files.append((os.open(name, os.O_RDWR | os.O_CLOEXEC), place))
        self.lock(fcntl.F_RDLCK)

    def lock(self, kind: int) -> None:
        """Best effort: a system or file system without such locks does without."""
        command = getattr(fcntl, "F_OFD_SETLK", None)  # of Linux
        if command is None:
            return
        for fd, (start, length) in self._files:
            with contextlib.suppress(OSError):
                fcntl.fcntl(fd, command, struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0))

    def close(self) -> None:
        for fd, _ in self._files:
            os.close(fd)


_guard = threading.Lock()
_anchors: dict[tuple[int, int], _Held] = {}  # by device and inode of the ledger's file
