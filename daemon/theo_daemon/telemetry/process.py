"""What this process itself uses, read from the operating system when metrics are read."""

from __future__ import annotations

import os
import platform
import sys
import time
from pathlib import Path

from theo_daemon.telemetry import names
from theo_daemon.telemetry.metrics import Metrics
from theo_workers.clock import Clock

_STATM = Path("/proc/self/statm")


def observe_process(metrics: Metrics, clock: Clock, version: str) -> None:
    """Add version, uptime, processor time and (on Linux) resident memory to `metrics`."""
    started = clock.monotonic()
    metrics.observe(names.BUILD_INFO, (version, platform.python_version()), lambda: 1)
    metrics.observe(names.UPTIME, (), lambda: clock.monotonic() - started)
    metrics.observe(names.CPU_TIME, (), time.process_time)
    if sys.platform == "linux":
        page_bytes = os.sysconf("SC_PAGE_SIZE")
        metrics.observe(names.MEMORY, (), lambda: int(_STATM.read_bytes().split()[1]) * page_bytes)
