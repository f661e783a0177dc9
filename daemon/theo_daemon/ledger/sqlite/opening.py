"""Opening the file to write it, as one of several processes that do."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import apsw

from theo_daemon.ledger.sqlite import damage, owners
from theo_daemon.ledger.sqlite.gate import held, open_gate, path_of
from theo_daemon.ledger.sqlite.schema import open_ledger
from theo_daemon.ledger.sqlite.sqlite_library import check_library


class Opened(NamedTuple):
    """The file, the gate that its writers queue at, this process's id in it, and what was odd."""

    db: apsw.Connection
    gate: int
    owner: int
    warnings: list[str]


def open_to_write(path: Path, name: str, wall: Callable[[], float]) -> Opened:
    """Register this process under `name`. Raises LedgerError, apsw.Error and OSError."""
    check_library(apsw.sqlite_lib_version())
    warnings = []
    if not path.exists() and os.path.exists(path_of(path)):
        warnings.append(
            f"{path} was missing though there had been one: its books (spend, cache, ids) start empty"
        )
    gate = open_gate(path)
    # Turning a file to WAL, as the first of several starting processes does, does not wait for locks by itself.
    with held(gate):
        db = open_ledger(path)
        damage.check(db, path)
        return Opened(db, gate, owners.register(db, name, int(wall() * 1000)), warnings)
