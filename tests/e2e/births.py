"""`serve` processes that a process which has imported the daemon forks: a tenth of what it takes to start one.

They are as real as any other, and go through the command line's own entry point. Where it matters how a process comes
to be (supervisors, limits, other users and hosts), it is started from nothing.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Protocol, Self

from tests.e2e.processes import Serve, until
from tests.e2e.zygote import Order, Zygote


class Births:
    """One zygote, and what became of its children."""

    def __init__(self) -> None:
        self._zygote = Zygote()
        self._statuses: dict[int, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._zygote.__exit__(*error)

    def start(self, name: str, words: list[str], folder: Path) -> Serve:
        """Another process; use `wait_ready` before relying on it."""
        log = folder / f"{name}.log"
        log.write_bytes(b"")
        order = Order(words=["theo-router", *words], folder=str(folder), log=str(log))
        return Forked(name, self._zygote.fork(order), log, self)

    def status(self, pid: int) -> int | None:
        """As of `Popen.returncode`; None while it runs."""
        for word in self._zygote.ended():
            assert word.status is not None
            self._statuses[word.pid] = word.status
        return self._statuses.get(pid)


class Parent(Protocol):
    """Who knows what became of its children."""

    def status(self, pid: int) -> int | None:
        """None while it runs."""


class Forked(Serve):
    """A process that is not ours to wait for, and its log."""

    def __init__(self, name: str, pid: int, log: Path, parent: Parent) -> None:
        self.name, self._pid, self._log, self._parent = name, pid, log, parent

    @property
    def pid(self) -> int:
        return self._pid

    @property
    def running(self) -> bool:
        return self._parent.status(self._pid) is None

    def terminate(self) -> None:
        if self.running:
            os.kill(self._pid, signal.SIGTERM)

    def kill(self) -> None:
        if self.running:
            os.kill(self._pid, signal.SIGKILL)
        self.wait_exit(10)

    def wait_exit(self, within_s: float) -> int:
        until(lambda: not self.running, within_s, f"the end of {self.name}")
        status = self._parent.status(self._pid)
        assert status is not None
        return status
