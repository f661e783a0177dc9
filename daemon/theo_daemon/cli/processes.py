"""`serve --processes N`: starts the processes, passes signals on, restarts what crashes, within a budget."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from theo_daemon.telemetry import names
from theo_workers.supervisor import RestartBudget

RESTARTS, WITHIN_S = 5, 60.0  # for each process
FIRST_DELAY_S, LONGEST_DELAY_S = 0.25, 8.0
USAGE = 2  # the exit status of a process that cannot use its configuration: its siblings cannot either


class Processes:
    """N children of one command. `run` returns the exit status when all have ended."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        count: int,
        log: Callable[[str, str, Mapping[str, Any]], None],
    ) -> None:
        """`log` takes a level, an event and its fields."""
        self._log = log
        self._command, self._environment, self._count = command, environment, count
        self._children: set[asyncio.subprocess.Process] = set()
        self._budget = RestartBudget(restarts=RESTARTS, within_s=WITHIN_S)
        self._draining = asyncio.Event()
        self._status = 0

    async def run(self) -> int:
        """0 when every child drained as told; 1 or 2 when one could not be kept running."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._pass_on)
        await asyncio.gather(*(self._keep(number) for number in range(self._count)))
        return self._status

    def _pass_on(self) -> None:
        """The first signal drains the children, the second stops them: they count for themselves."""
        self._draining.set()
        for child in self._children:
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(signal.SIGTERM)

    async def _keep(self, number: int) -> None:
        """One child after another, until told to drain or the budget is spent."""
        delay_s = FIRST_DELAY_S
        loop = asyncio.get_running_loop()
        while not self._draining.is_set():
            started = loop.time()
            status = await self._run_child()
            if self._draining.is_set():
                killed_early = status == -signal.SIGTERM  # before it had begun, and could handle that
                self._status = self._status or (0 if killed_early else min(abs(status), 1))
                return
            if status == USAGE or not self._budget.spend(str(number), loop.time()):
                self._log("error", names.PROCESS_GIVEN_UP, {"number": number, "status": status})
                self._status = USAGE if status == USAGE else 1
                self._pass_on()
                return
            if loop.time() - started > LONGEST_DELAY_S:
                delay_s = FIRST_DELAY_S
            told = {"number": number, "status": status, "after_s": delay_s}
            self._log("warning", names.PROCESS_RESTARTED, told)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._draining.wait(), delay_s)
            delay_s = min(2 * delay_s, LONGEST_DELAY_S)

    async def _run_child(self) -> int:
        # A process group of its own: Ctrl-C in a terminal reaches the supervisor, which passes it on once.
        child = await asyncio.create_subprocess_exec(
            *self._command, env=self._environment, stdin=asyncio.subprocess.DEVNULL, process_group=0
        )
        self._children.add(child)
        if self._draining.is_set():
            child.send_signal(signal.SIGTERM)
        try:
            return await child.wait()
        finally:
            self._children.discard(child)
