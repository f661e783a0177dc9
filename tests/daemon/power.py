"""A disk that loses, when its power is cut, whatever it was not told to keep: all of it, some, or half a sector run."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import apsw

SECTOR = 512  # bytes that a disk writes as one
VFS = "power"


class Disk(apsw.VFS):
    """Passes everything on to the real file system, and remembers what is certain. `events` counts writes and syncs.

    At event `cut_at` the power goes: whoever goes on after that does so in vain. `restore` leaves the files as they
    may be found afterwards: a write that no sync had followed may be there, or not, or in part, each by itself
    (https://www.sqlite.org/atomiccommit.html, section 2).
    """

    def __init__(self, cut_at: int, rng: random.Random) -> None:
        super().__init__(VFS, "")
        self.cut_at, self.events, self._random = cut_at, 0, rng
        self.kept: dict[Path, bytearray] = {}
        self.unsynced: dict[Path, list[tuple[int, bytes | None]]] = {}  # place and bytes; None: cut off there

    @property
    def is_off(self) -> bool:
        return self.events >= self.cut_at

    def xOpen(self, name: Any, flags: list[int]) -> File:
        return File(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        super().xDelete(filename, syncdir)
        if not self.is_off:
            self.kept.pop(Path(filename), None)

    def wrote(self, path: Path, place: int, data: bytes | None) -> None:
        if not self.is_off:
            self.unsynced.setdefault(path, []).append((place, data))
        self.events += 1

    def synced(self, path: Path) -> None:
        for place, data in () if self.is_off else self.unsynced.pop(path, ()):
            apply(self.kept[path], place, data)
        self.events += 1

    def restore(self) -> None:
        """The power is back."""
        for path, kept in self.kept.items():
            for place, data in self.unsynced.get(path, ()):
                apply(kept, place, self._what_is_left(data))
            path.write_bytes(kept)

    def _what_is_left(self, data: bytes | None) -> bytes | None:
        match self._random.randrange(3):
            case 0:
                return b""
            case 1 if data is not None:
                return data[: SECTOR * self._random.randrange(1 + len(data) // SECTOR)]
            case _:
                return data


def apply(content: bytearray, place: int, data: bytes | None) -> None:
    """Write there; None: cut off there; nothing: leave it."""
    if data is None:
        del content[place:]
    elif data:
        content.extend(bytes(max(0, place - len(content))))
        content[place : place + len(data)] = data


class File(apsw.VFSFile):
    """One open file."""

    def __init__(self, disk: Disk, name: Any, flags: list[int]) -> None:
        super().__init__("", name, flags)
        self._disk = disk
        self._path = Path(name.filename() if isinstance(name, apsw.URIFilename) else name or "temporary")
        if self._path not in disk.kept:
            disk.kept[self._path] = bytearray(self._path.read_bytes() if self._path.exists() else b"")

    def xWrite(self, data: bytes, offset: int) -> None:
        super().xWrite(data, offset)
        self._disk.wrote(self._path, offset, bytes(data))

    def xTruncate(self, newsize: int) -> None:
        super().xTruncate(newsize)
        self._disk.wrote(self._path, newsize, None)

    def xSync(self, flags: int) -> None:
        super().xSync(flags)
        self._disk.synced(self._path)
