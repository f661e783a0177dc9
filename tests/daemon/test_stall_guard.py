"""A wedged event loop ends its process; a busy one does not."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading

from theo_daemon.stall_guard import EXIT_STATUS, StallGuard

WEDGED = """
import asyncio, threading
from theo_daemon.stall_guard import StallGuard

async def main():
    with StallGuard(0.2, beat_s=0.02):
        threading.Event().wait()

asyncio.run(main())
"""


def test_a_wedged_process_ends_and_says_where_it_hung() -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(
        [sys.executable, "-c", WEDGED],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == EXIT_STATUS
    assert "the event loop is wedged" in ended.stderr
    assert "in main" in ended.stderr


async def test_a_living_loop_is_left_alone() -> None:
    ended = threading.Event()
    with StallGuard(0.1, beat_s=0.01, end=ended.set):
        for _ in range(40):
            await asyncio.sleep(0.01)
    assert not ended.is_set()


async def test_a_guard_that_was_left_watches_no_more() -> None:
    ended = threading.Event()
    with StallGuard(0.05, beat_s=0.01, end=ended.set) as guard:
        pass
    guard._thread.join(5)
    assert not guard._thread.is_alive()
    assert not ended.is_set()
