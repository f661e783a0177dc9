"""How fast this machine is: budgets of CPU time are multiples of a fixed piece of work, done beside what is judged.

A time in microseconds says more about the machine and its neighbours than about the code: the same test took
half as long again on another day. A ratio within one run holds anywhere.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

_SAMPLE = {
    "id": "550e8400-e29b-41d4-a716-446655440000",
    "models": ["fast", "large"],
    "cost": 0.000123,
    "ok": True,
}


def _encode() -> None:
    for _ in range(500):
        json.dumps(_SAMPLE)


def _cpu_s(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def in_encodings(work: Callable[[], object], *, rounds: int = 10) -> float:
    """CPU time of `work` in encodings of a small object by `json.dumps` (2 to 6 µs each), the best of `rounds`.

    Both are measured in turns, so that a machine that slows down slows both.
    """
    spent, encoding = [], []
    for _ in range(rounds):
        spent.append(_cpu_s(work))
        encoding.append(_cpu_s(_encode) / 500)
    return min(spent) / min(encoding)
