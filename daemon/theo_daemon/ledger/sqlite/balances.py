"""The ledger's SQL for money: what is spent and held by scope and window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import apsw

from theo_daemon.ledger.records import Ask, Check, Scope
from theo_daemon.ledger.rules import Balance, Claims, Known
from theo_daemon.ledger.sqlite.rows import insert_rows

_BALANCE = (
    "SELECT spent_nano, held_nano, warned, exhausted, eased, window_start, coalesce(reset_at, 0) FROM spend"
    " WHERE scope = ?"
)


def read_all(db: apsw.Connection, asks: Sequence[Ask | Check], known: Known) -> None:
    """Only of scopes with a ceiling: the others refuse nothing. Of a window, the last one of its scope."""
    wanted = {
        (scope.name, scope.window_start_ms)
        for ask in asks
        if isinstance(ask, Ask) and ask.want is not None
        for scope in ask.want.scopes
        if scope.ceiling_nano is not None
    }
    for name, start in wanted:
        if not start:
            known.balances[name, 0] = read(db, name, 0)
        elif name not in known.newest:
            row = db.execute(
                f"{_BALANCE} AND window_start > 0 ORDER BY window_start DESC LIMIT 1", (name,)
            ).fetchone()
            if row is not None:
                known.newest[name] = (row[5], row[6])
                known.balances[name, row[5]] = _balance(row)


def read(db: apsw.Connection, scope: str, window_start_ms: int) -> Balance:
    """One scope's, in one window; nothing where nobody has drawn on it yet."""
    row = db.execute(f"{_BALANCE} AND window_start = ?", (scope, window_start_ms)).fetchone()
    return Balance() if row is None else _balance(row)


def _balance(row: Sequence[Any]) -> Balance:
    spent, held, warned, exhausted, eased, *_ = row
    return Balance(spent, held, bool(warned), bool(exhausted), bool(eased))


def mark_told(db: apsw.Connection, scope: Scope, column: Literal["warned", "exhausted", "eased"]) -> None:
    """Remember that this was told of the scope's window, so that no process tells it again."""
    db.execute(
        f"INSERT INTO spend(scope, window_start, reset_at, {column}) VALUES(?, ?, ?, 1)"
        f" ON CONFLICT(scope, window_start) DO UPDATE SET {column} = 1",
        (scope.name, scope.window_start_ms, scope.reset_ms),
    )


def hold(db: apsw.Connection, claims: Claims) -> None:
    """Add the bounds of what was granted to what is held."""
    resets = {
        (scope.name, scope.window_start_ms): scope.reset_ms
        for ask in claims.attempts
        if ask.want is not None
        for scope in ask.want.scopes
    }
    insert_rows(
        db,
        "INSERT INTO spend(scope, window_start, held_nano, reset_at)",
        [(*row, held, resets[row]) for row, held in claims.held.items()],
        "ON CONFLICT(scope, window_start) DO UPDATE SET held_nano = held_nano + excluded.held_nano",
    )


def add(db: apsw.Connection, rows: Sequence[tuple[str, int, int | None, int, int]]) -> None:
    """Add (scope, window start, its end, spent, held) to the budget rows; money may be negative."""
    insert_rows(
        db,
        "INSERT INTO spend(scope, window_start, reset_at, spent_nano, held_nano)",
        rows,
        "ON CONFLICT(scope, window_start) DO UPDATE SET spent_nano = spent_nano + excluded.spent_nano,"
        " held_nano = held_nano + excluded.held_nano",
    )
