"""Deleting what is too old to matter, in small batches that never hold the writer for long."""

from __future__ import annotations

import apsw
from msgspec import Struct

ROWS = 500
STALE_ANSWER_S = 60.0  # an answer past its time still serves those who waited for it
OUTCOME_S = 3_600.0  # as long as the done marker in Redis

# Row ids grow with time, so only the lowest are looked at and no index is needed, which every write would pay for.
_OLD_ATTEMPTS = (
    "DELETE FROM attempts WHERE started_at < ? AND state <> 'sent' AND id IN"
    " (SELECT id FROM attempts ORDER BY id LIMIT ?)"
)
_OLD_SPEND = (
    "DELETE FROM spend WHERE rowid IN (SELECT rowid FROM spend WHERE reset_at < ? AND held_nano = 0 LIMIT ?)"
)
_OLD_IDS = "DELETE FROM ids WHERE created_at < ? AND rowid IN (SELECT rowid FROM ids ORDER BY rowid LIMIT ?)"


class Keep(Struct, frozen=True, kw_only=True):
    """How long history is kept, in seconds."""

    attempts_s: float  # and what was spent in windows that are over
    ids_s: float


def prune(db: apsw.Connection, *, now_ms: int, keep: Keep) -> int:
    """Delete one batch of each kind; the largest number of rows deleted of one kind."""
    deleted = 0
    for sql, keep_s in (
        (
            "DELETE FROM cache WHERE rowid IN (SELECT rowid FROM cache WHERE fresh_until < ? LIMIT ?)",
            STALE_ANSWER_S,
        ),
        (_OLD_IDS, keep.ids_s),
        (
            "DELETE FROM outcomes WHERE rowid IN (SELECT rowid FROM outcomes WHERE created_at < ? LIMIT ?)",
            OUTCOME_S,
        ),
        (_OLD_ATTEMPTS, keep.attempts_s),
        (_OLD_SPEND, keep.attempts_s),
    ):
        db.execute(sql, (now_ms - int(keep_s * 1000), ROWS))
        deleted = max(deleted, db.changes())
    return deleted
