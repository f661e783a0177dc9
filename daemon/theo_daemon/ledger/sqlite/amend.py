"""What an operator may change in the books, beside running daemons."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import apsw

from theo_daemon.ledger.sqlite.gate import held, open_gate
from theo_daemon.ledger.sqlite.schema import open_ledger


def forget_ids(path: Path, ids: Iterable[tuple[str, str]]) -> int:
    """Forget what is remembered for these (tenant, client id); the number of those that were known.

    A later job with such an id runs anew. Raises LedgerError.
    """
    with _amending(path) as db:
        return sum(
            _changed(db, "DELETE FROM ids WHERE tenant = ? AND client_id = ?", (tenant, client_id))
            for tenant, client_id in ids
        )


def reset_spend(path: Path, rows: Iterable[tuple[str, int]], *, now_ms: int) -> int:
    """Set what these budgets have spent to 0; the number of those that had spent anything.

    `rows` are scopes and the starts of their windows (Unix ms). What calls in flight hold stays held, and the
    attempts on record stay as they are. A window that a clock began before its time is taken back, unless calls
    hold anything in it. Raises LedgerError.
    """
    with _amending(path) as db:
        return reset_rows(db, rows, now_ms)


def reset_rows(db: apsw.Connection, rows: Iterable[tuple[str, int]], now_ms: int) -> int:
    """As `reset_spend`, in the caller's transaction."""
    changed = 0
    for row in rows:
        changed += _changed(
            db,
            "UPDATE spend SET spent_nano = 0, warned = 0, exhausted = 0, eased = 0"
            " WHERE scope = ? AND window_start = ? AND spent_nano <> 0",
            row,
        )
        if row[1] > now_ms:
            _changed(db, "DELETE FROM spend WHERE scope = ? AND window_start = ? AND held_nano = 0", row)
    return changed


def _changed(db: apsw.Connection, sql: str, values: tuple[str, str | int]) -> int:
    db.execute(sql, values)
    return db.changes()


@contextlib.contextmanager
def _amending(path: Path) -> Iterator[apsw.Connection]:
    """One writing transaction, in turn with the daemons' own commits."""
    db = open_ledger(path)
    gate = open_gate(path)
    try:
        with held(gate), db:
            yield db
    finally:
        os.close(gate)
        db.close()
