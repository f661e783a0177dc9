"""CPU time and memory of processes, read from /proc: Linux only, in ticks of 10 ms on common kernels."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the state onwards (the name before it may hold spaces); None when it is gone."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return line[line.rindex(")") + 2 :].split()


def tree(root: int) -> list[int]:
    """`root` and all its living descendants."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (fields := _stat(int(name))):
            children.setdefault(int(fields[1]), []).append(int(name))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def cpu_s(pids: Iterable[int]) -> float:
    """User and system seconds of these processes and of the children they have reaped."""
    ticks = 0
    for pid in pids:
        if fields := _stat(pid):
            ticks += sum(int(value) for value in fields[11:15])  # utime stime cutime cstime
    return ticks / TICKS_PER_S


def busy_s() -> float:
    """Seconds that all cores of the machine have worked, summed: user, nice, system, irq, softirq."""
    values = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    return sum(int(values[i]) for i in (0, 1, 2, 5, 6)) / TICKS_PER_S


def peak_rss_mb(pids: Iterable[int]) -> float:
    """Sum of the processes' largest resident sizes."""
    kilobytes = 0
    for pid in pids:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        kilobytes += sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
    return kilobytes / 1024
