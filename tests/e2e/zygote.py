"""A process that has imported the daemon and done nothing else; every boot of `serve` is forked from it.

Imports and tables are what takes `serve` a second and more of CPU to start, and they are the same in every boot. What
is forked here goes through the command line's own entry point: it reads its configuration, opens its ledger and its
connections, and has its own threads and locks. Before a fork there is no thread, no loop and no socket.

Told on standard input, a line of JSON each: what to become. Told on standard output: who was born, who ended, when.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import importlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Self

import msgspec
from genai_prices.data_snapshot import get_snapshot
from msgspec import Struct

from tests.e2e.processes import API_KEY, ROOT
from theo_workers.tokens.count import TokenCounter

NEW_UTS, NEW_USER = 0x0400_0000, 0x1000_0000  # unshare(2)
BORN_WITHIN_S = 30.0
IMPORTED = (
    "theo_daemon.cli.serve",
    "theo_daemon.app",
    "typer._adapters",
)  # the last by typer, when it meets a word


class Order(Struct, frozen=True):
    """What a child is to become."""

    words: list[str]
    folder: str  # where it works
    log: str  # its standard output and error
    host: str = ""  # its host's name, where that can be had; else that of the machine


class Word(Struct, frozen=True):
    """A child was born (`status` is None) or ended; as `os.waitstatus_to_exitcode` tells, in Unix seconds."""

    pid: int
    status: int | None = None
    at: float = 0.0


# -- in the rehearsal ------------------------------------------------------------------------------------------------


class Zygote:
    """For one thread. Whatever still lives when it is closed is killed."""

    def __init__(self) -> None:
        known = {k: v for k, v in os.environ.items() if not k.startswith(("THEO_", "PYTEST"))}
        paths = os.pathsep.join(str(path) for path in (ROOT / "daemon", ROOT / "workers", ROOT))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.zygote"], cwd=ROOT, bufsize=0,
            env={**known, "PYTHONPATH": paths, "E2E_API_KEY": API_KEY},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self._decoder = msgspec.json.Decoder(Word)
        self._partial = b""
        self._ended: list[Word] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()

    def fork(self, order: Order) -> int:
        """The pid of the new process."""
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(order) + b"\n")
        deadline = time.monotonic() + BORN_WITHIN_S
        while time.monotonic() < deadline:
            words = self._hear(deadline - time.monotonic())
            self._ended += [word for word in words if word.status is not None]
            for word in words:
                if word.status is None:
                    return word.pid
        raise TimeoutError("the zygote does not answer")

    def ended(self, within_s: float = 0.0) -> list[Word]:
        """Who ended since the last time this was asked."""
        self._ended += self._hear(within_s)
        ended, self._ended = self._ended, []
        return ended

    def _hear(self, within_s: float) -> list[Word]:
        out = self._process.stdout
        assert out is not None
        if not select.select([out], [], [], max(0.0, within_s))[0]:
            return []
        said = os.read(out.fileno(), 65_536)
        if not said:
            raise ChildProcessError(f"the zygote ended: {self._process.wait(10)}")
        *lines, self._partial = (self._partial + said).split(b"\n")
        return [self._decoder.decode(line) for line in lines]


# -- in the zygote ---------------------------------------------------------------------------------------------------


def load() -> None:
    """What every boot imports and reads, so that none has to."""
    for module in IMPORTED:
        importlib.import_module(module)
    get_snapshot()
    asyncio.run(TokenCounter().warm(["a"]))  # its thread and its loop end with it


def obey() -> None:
    """Fork a child for each order, tell of each that ends; until the orders end."""
    assert threading.active_count() == 1
    orders, alive = msgspec.json.Decoder(Order), set[int]()
    bell, ringer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(ringer)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    gc.collect()
    gc.freeze()
    partial = b""
    while True:
        ready, _, _ = select.select([0, bell], [], [])
        if bell in ready:
            os.read(bell, 4096)
            _bury(alive)
        if 0 not in ready:
            continue
        said = os.read(0, 65_536)
        if not said:
            break
        *lines, partial = (partial + said).split(b"\n")
        for line in lines:
            alive.add(_bear(orders.decode(line)))
    for pid in alive:
        os.kill(pid, signal.SIGKILL)


def _bear(order: Order) -> int:
    pid = os.fork()
    if pid == 0:
        _live(order)
    _tell(Word(pid))
    return pid


def _bury(alive: set[int]) -> None:
    while alive:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        alive.discard(pid)
        _tell(Word(pid, os.waitstatus_to_exitcode(status), time.time()))


def _tell(word: Word) -> None:
    os.write(1, msgspec.json.encode(word) + b"\n")


def _live(order: Order) -> None:
    """In the child: become the command. Ends with SystemExit, as the command does."""
    from theo_daemon.cli import main  # noqa: PLC0415 - loaded long ago

    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(order.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for target, source in ((0, nothing), (1, log), (2, log)):
        os.dup2(source, target)
    os.closerange(3, max(nothing, log) + 1)
    os.chdir(order.folder)
    if order.host:
        _name_host(order.host)
    sys.argv = order.words
    main()


def _name_host(name: str) -> None:
    """A host name of its own: a UTS namespace, where the machine allows one."""
    flags, uid = NEW_UTS | (NEW_USER if os.geteuid() else 0), os.geteuid()
    if ctypes.CDLL(None).unshare(flags) == 0:
        if flags & NEW_USER:
            Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        socket.sethostname(name)


if __name__ == "__main__":
    load()
    obey()
