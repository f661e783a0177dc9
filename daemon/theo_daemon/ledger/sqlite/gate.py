"""The gate: a lock on a file beside the ledger's, held for every transaction that writes.

Who finds SQLite's own lock taken sleeps and tries again, in no order; at the gate the kernel wakes who waits.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


def path_of(ledger: Path) -> str:
    return f"{ledger}.lock"


def open_gate(ledger: Path) -> int:
    """Its file descriptor; to be closed. Raises OSError."""
    return os.open(path_of(ledger), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


@contextlib.contextmanager
def held(gate: int) -> Iterator[None]:
    """Waits for its turn, for as long as a stopped process has it."""
    fcntl.flock(gate, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(gate, fcntl.LOCK_UN)
