"""Deleting what is too old to matter, in batches so small that no claim waits for one."""

from __future__ import annotations

from typing import Any

import apsw
from msgspec import Struct

ROWS = 100  # of a kind deleted in one batch: some milliseconds of the writer's time
LOOKED_AT = 25  # answers in one batch: each may be large, and its end is found behind it
STALE_ANSWER_S = 60.0  # an answer past its time still serves those who waited for it
# Rows of what is published are deleted soon after; what is left waits for a Redis that is away, however long that takes
# within reason, and must outlive a clock that is set.
OUTCOME_S = 86_400.0

# Row ids grow with time, so only the lowest are looked at and no index is needed, which every write would pay for.
_OLD_IDS = "DELETE FROM ids WHERE created_at < ? AND rowid IN (SELECT rowid FROM ids ORDER BY rowid LIMIT ?)"
_OLD_OUTCOMES = _OLD_IDS.replace("ids", "outcomes")
# Those of attempts do so for each owner by itself: a long-lived process has low ones to the end.
_OLD_ATTEMPTS = (
    "DELETE FROM attempts WHERE started_at < ? AND state <> 'sent' AND id IN"
    " (SELECT id FROM attempts WHERE id >= ? AND id < ? ORDER BY id LIMIT ?)"
)
# The newest name stays, whoever had it: numbers of owners are never used again.
_OLD_OWNERS = (
    "DELETE FROM owners WHERE id IN (SELECT id FROM owners AS o WHERE buried_at < ?"
    " AND id < (SELECT max(id) FROM owners)"
    " AND NOT EXISTS (SELECT 1 FROM attempts WHERE attempts.id >= o.id << 40 AND attempts.id < (o.id + 1) << 40)"
    " LIMIT ?)"
)
_OLD_SPEND = (
    "DELETE FROM spend WHERE rowid IN (SELECT rowid FROM spend WHERE reset_at < ? AND held_nano = 0 LIMIT ?)"
)


class Keep(Struct, frozen=True, kw_only=True):
    """How long history is kept, in seconds."""

    attempts_s: float  # and what was spent in windows that are over
    ids_s: float


class Pruner:
    """Remembers how far it has come through the answers: their row ids say nothing of when they end."""

    def __init__(self, keep: Keep) -> None:
        self._keep = keep
        self._answer_row = 0

    def prune(self, db: apsw.Connection, now_ms: int) -> bool:
        """One batch of each kind, in one transaction. True: there may be more."""
        history_ms = now_ms - int(self._keep.attempts_s * 1000)
        with db:
            more = [
                self._answers(db, now_ms - int(STALE_ANSWER_S * 1000)),
                _delete(db, _OLD_IDS, now_ms - int(self._keep.ids_s * 1000), ROWS) >= ROWS,
                _delete(db, _OLD_OUTCOMES, now_ms - int(OUTCOME_S * 1000), ROWS) >= ROWS,
                over_windows(db, history_ms) >= ROWS,
                _attempts(db, history_ms),
            ]
        return any(more)

    def _answers(self, db: apsw.Connection, before_ms: int) -> bool:
        rows: list[Any] = db.execute(
            "SELECT rowid, fresh_until FROM cache WHERE rowid > ? ORDER BY rowid LIMIT ?",
            (self._answer_row, LOOKED_AT),
        ).fetchall()
        over = [(row,) for row, fresh_until in rows if fresh_until < before_ms]
        db.executemany("DELETE FROM cache WHERE rowid = ?", over)
        self._answer_row = rows[-1][0] if len(rows) == LOOKED_AT else 0
        return self._answer_row > 0


def _attempts(db: apsw.Connection, before_ms: int) -> bool:
    owners: list[Any] = db.execute(
        "SELECT id FROM owners WHERE started_at < ? ORDER BY id", (before_ms,)
    ).fetchall()
    left = ROWS
    for (owner,) in owners:
        left -= _delete(db, _OLD_ATTEMPTS, before_ms, owner << 40, (owner + 1) << 40, left)
        if left <= 0:
            return True
    _delete(db, _OLD_OWNERS, before_ms, ROWS)
    return False


def over_windows(db: apsw.Connection, before_ms: int) -> int:
    """Delete budgets whose window ended before this, but for those in which calls under way hold something."""
    return _delete(db, _OLD_SPEND, before_ms, ROWS)


def _delete(db: apsw.Connection, sql: str, *values: int) -> int:
    db.execute(sql, values)
    return db.changes()
