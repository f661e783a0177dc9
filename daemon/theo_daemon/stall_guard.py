"""Ends a process whose event loop is wedged: it would hold its jobs and its place in the ledger for ever.

Peers take over from the dead at once, but nobody can tell a wedged process from a busy one from outside.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Self

BEAT_S = 1.0
EXIT_STATUS = 70  # EX_SOFTWARE of sysexits.h


class StallGuard:
    """A thread that expects a sign of life from the loop. Time in which the whole process stood still counts not.

    After `limit_s` without one, `end` is called: by default every thread's stack goes to standard error and the
    process ends, with no clean-up that could hang too.
    """

    def __init__(
        self, limit_s: float, *, end: Callable[[], None] | None = None, beat_s: float = BEAT_S
    ) -> None:
        self._limit_s, self._beat_s = limit_s, beat_s
        self._end = end or _end_process
        self._beats = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stall-guard", daemon=True)
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        """Start, on the loop's thread."""
        self._beat(asyncio.get_running_loop())
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._timer is not None:
            self._timer.cancel()

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        self._beats += 1
        self._timer = loop.call_later(self._beat_s, self._beat, loop)

    def _watch(self) -> None:
        seen, silent_s, looked_at = self._beats, 0.0, time.monotonic()
        while not self._done.wait(self._beat_s):
            now = time.monotonic()
            # No more than was slept for: a stopped process (SIGSTOP, a suspended machine) stops this thread, too.
            silent_s += min(now - looked_at, 2 * self._beat_s)
            looked_at = now
            if self._beats != seen:
                seen, silent_s = self._beats, 0.0
            elif silent_s > self._limit_s:
                self._end()
                return


def _end_process() -> None:
    sys.stderr.write("theo-router: the event loop is wedged; ending so that others can take the jobs over\n")
    faulthandler.dump_traceback(all_threads=True)
    os._exit(EXIT_STATUS)
