"""What the demo stands on: Redis, a model and the daemon, each a process that is stopped by its id."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from theo_workers.errors import RouterError

READY_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 15.0


class DemoFailed(RouterError):
    """Something of the demo did not come up, or did not do what it must."""


class ServeProcess:
    """`theo-router serve` as a user would start it, with its log in a file."""

    def __init__(self, config: Path, log: Path) -> None:
        self.config, self.log = config, log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns at once; see `ready`."""
        command = [sys.executable, "-m", "theo_daemon", "serve", "--config", str(self.config)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("THEO_")}
        with self.log.open("wb") as sink:
            # A process group of its own, so that Ctrl-C is for the demo, which stops things in their order.
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [*command, "--supervisor", str(os.getpid())],
                stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, env=environment, process_group=0,
            )  # fmt: skip

    @property
    def ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    async def ready(self, http: str) -> None:
        """Waits until jobs are read. Raises DemoFailed."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + READY_TIMEOUT_S
        while not await asyncio.to_thread(_is_ready, f"http://{http}/readyz"):
            if self.ended or loop.time() > deadline:
                raise DemoFailed(f"the daemon did not come up; its log ends:\n{self.log_tail()}")
            await asyncio.sleep(0.05)

    def stop(self) -> int:
        """Drain it; its exit status."""
        if self._process is None:
            return 0
        self._process.terminate()
        try:
            return self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def log_tail(self) -> str:
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-8:])


@contextmanager
def serving(config: Path, log: Path) -> Iterator[ServeProcess]:
    """The daemon for the body. Raises DemoFailed when it does not drain with status 0."""
    process = ServeProcess(config, log)
    process.start()
    status: int | None = None
    try:
        yield process
        status = process.stop()
    finally:
        if status is None:
            process.stop()
    if status:
        raise DemoFailed(f"the daemon ended with status {status}; its log ends:\n{process.log_tail()}")


def _is_ready(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=1.0) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
