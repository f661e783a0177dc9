"""A file system of a few megabytes: a tmpfs that only a mount namespace of its own sees."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Self

CHUNK = 1 << 20


class NoNamespace(Exception):
    """This machine does not let us mount, and says why."""


class SmallDisk:
    """Mounted on `folder` for the processes that are started with `wrapper` before their command."""

    def __init__(self, folder: Path, mebibytes: int) -> None:
        """Raises NoNamespace."""
        folder.mkdir()
        self.wrapper: tuple[str, ...] = ()
        mount = f"mount -t tmpfs -o size={mebibytes}m none '{folder}' && echo mounted && exec sleep 600"
        if shutil.which("unshare") is None or shutil.which("nsenter") is None:
            raise NoNamespace("there is no unshare or no nsenter")
        whose = () if os.geteuid() == 0 else ("-r",)
        self._holder = subprocess.Popen(
            ["unshare", "-m", *whose, "sh", "-c", mount],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        assert self._holder.stderr is not None
        if self._holder.stdout.readline() != "mounted\n":
            raise NoNamespace(self._holder.communicate()[1].strip())
        user = ("-U", "--preserve-credentials") if whose else ()
        self.wrapper = ("nsenter", "-t", str(self._holder.pid), "-m", *user, f"--wd={folder}")
        self.seen = Path(f"/proc/{self._holder.pid}/root{folder}")  # from outside
        self._filler = self.seen / "filler"

    def fill(self) -> None:
        """Until not a byte is left."""
        with self._filler.open("ab", buffering=0) as file:
            for size in (CHUNK, 4096, 1):
                try:
                    while True:
                        file.write(b"x" * size)
                except OSError:
                    continue

    def empty(self) -> None:
        """Give back what `fill` took."""
        self._filler.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._holder.kill()
        self._holder.communicate()
