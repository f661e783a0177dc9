"""Many `serve` processes for little: a process that has imported everything forks one for each boot.

Most of a short life is spent on imports, so twenty lives take longer than all the rest of a test. A fork is as good a
process as any other: it has its own locks, connections and threads, and dies alone.

A job can be deadly: one with `poison:decode` in its prompt kills whoever decodes it, `poison:count` whoever counts
its tokens, and one whose entry has `poison:read` in it whoever reads that from Redis. As by a crash of a parser, or by
the kernel when memory runs out.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any, Self

from tests.e2e.births import Forked
from tests.e2e.commands import alive
from tests.e2e.processes import API_KEY, ROOT, Fleet
from theo_daemon import app, reception
from theo_daemon.cli import main, serve
from theo_daemon.fleet import Fleet as Models
from theo_daemon.measuring import Measuring
from theo_daemon.wire import Wire
from theo_workers.tokens.count import TokenCounter

IMPORTED = (app, serve)


class Nursery:
    """Starts the processes of one fleet."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        known = {k: v for k, v in os.environ.items() if not k.startswith(("THEO_", "PYTEST"))}
        paths = os.pathsep.join(str(path) for path in (ROOT / "daemon", ROOT / "workers", ROOT))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.nursery"], cwd=fleet.folder, text=True, bufsize=1,
            env={**known, "PYTHONPATH": paths, "E2E_API_KEY": API_KEY},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def status(self, pid: int) -> int | None:
        """None while it runs, then 0: the kernel buries them, and tells nobody more."""
        return None if alive(pid) else 0

    def start(self, name: str) -> Forked:
        """Another life of the fleet; use `wait_ready` before relying on it."""
        fleet, log = self._fleet, self._fleet.folder / f"{name}.log"
        words = ["theo-router", "serve", "--config", str(fleet.write_config()), "--redis-url", fleet.url]
        log.touch()  # it may be read before the child has come to it
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"words": words, "log": str(log)}) + "\n")
        process = Forked(name, int(self._process.stdout.readline()), log, self)
        fleet.processes.append(process)
        return process


# -- in the nursery itself -------------------------------------------------------------------------------------------


def deadly(work: Callable[..., Any], of: bytes, words: Callable[..., object]) -> Callable[..., Any]:
    """`work`, but it kills the process where `words` of its arguments contain `of`."""

    def done(*args: Any, **more: Any) -> Any:
        if of in repr(words(*args, **more)).encode():
            os.kill(os.getpid(), signal.SIGKILL)
        return work(*args, **more)

    return done


def poison() -> None:
    """Make this process, and all it forks, die of certain words."""
    reception.decode = deadly(reception.decode, b"poison:decode", lambda one, **_: one.fields)  # type: ignore[attr-defined]
    Models.bound_nano = deadly(Models.bound_nano, b"poison:count", messages)  # type: ignore[method-assign]
    Measuring.count = deadly(Measuring.count, b"poison:count", messages)  # type: ignore[method-assign]
    ask_all = Wire.ask_all

    async def read(self: Wire, commands: Any) -> Any:
        replies = await ask_all(self, commands)
        if b"poison:read" in repr(replies).encode():
            os.kill(os.getpid(), signal.SIGKILL)
        return replies

    Wire.ask_all = read  # type: ignore[method-assign]


def messages(*args: object, **more: object) -> list[object]:
    """What the jobs among the arguments say."""
    return [getattr(one, "messages", None) for one in (*args, *more.values())]


def load() -> None:
    """The encodings that a `serve` process loads."""
    asyncio.run(TokenCounter().warm(["fast"]))


def live(words: list[str], log: str) -> None:
    """In the child: become the command."""
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, nothing), (1, out), (2, out)):
        os.dup2(source, target)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    sys.argv = words
    main()


def serve_births() -> None:
    """A child for each line of standard input; its pid on standard output."""
    load()
    poison()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries them
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            live(**json.loads(line))
        print(pid, flush=True)


if __name__ == "__main__":
    serve_births()
