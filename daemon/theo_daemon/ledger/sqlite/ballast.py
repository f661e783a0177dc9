"""A file that only takes up room: deleted on a full disk, it leaves room to record what was paid for."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

SIZE = 16 * 1024 * 1024
SPARE = 4 * 1024 * 1024  # must be free besides


class Ballast:
    """Shared by all processes of a ledger, which call `restore` one at a time: they hold the gate meanwhile."""

    def __init__(self, ledger: Path) -> None:
        self.path = Path(f"{ledger}.ballast")
        self.kept = False  # was there room for it when it was last asked for?

    @property
    def needs(self) -> int:
        """Bytes that must be free before it is made again."""
        return SIZE + SPARE

    def stands(self) -> bool:
        """Is the room taken?"""
        try:
            return os.stat(self.path).st_size >= SIZE
        except OSError:
            return False

    def release(self) -> None:
        """Make room."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)

    def restore(self) -> bool:
        """Take the room if that leaves enough; does it stand now?"""
        if not self.stands() and (self.free() < self.needs or not self._make()):
            return False
        self.kept = True
        return True

    def room_again(self) -> bool:
        """Is the shortage over: does it stand again, or is some room free where there never was any for it?"""
        return self.restore() or (not self.kept and self.free() >= SPARE)

    def free(self) -> int:
        """Bytes that are free where the ledger lies."""
        try:
            found = os.statvfs(self.path.parent)
        except OSError:
            return 0
        return found.f_bavail * found.f_frsize

    def _make(self) -> bool:
        """Under another name first: a half-made one must not count."""
        half = f"{self.path}.new"
        try:
            fd = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.posix_fallocate(fd, 0, SIZE)
            finally:
                os.close(fd)
            os.replace(half, self.path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(half)
            return False
        return True
