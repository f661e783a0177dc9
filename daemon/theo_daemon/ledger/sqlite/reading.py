"""Reading the books: spend and latency by model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import msgspec

from theo_daemon.budget_names import MODEL_SCOPE
from theo_daemon.job import EntryRef
from theo_daemon.ledger.figures import Balance, ModelLatency, ModelSpend
from theo_daemon.ledger.sqlite.schema import open_ledger
from theo_daemon.ledger.unknown_calls import LATE_ANSWER, NOT_ERRORS, CallSince, UnknownCall
from theo_daemon.money import to_usd


class SqliteTransaction:
    """See `figures.LedgerTransaction`."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db

    def get_all_spend(self) -> dict[str, float]:
        """USD spent so far, by model."""
        return {model: row.spent for model, row in self.spend().items()}

    def get_all_latency(self) -> dict[str, float]:
        """Mean milliseconds of answered calls, by model."""
        return {model: row.mean_ms for model, row in self.latency().items()}

    def spend(self) -> dict[str, ModelSpend]:
        """Spent and held, by model."""
        rows = self._db.execute(
            "SELECT scope, spent_nano, held_nano FROM spend WHERE window_start = 0 AND scope GLOB 'model:*'"
            " ORDER BY scope"
        )
        return {
            str(scope).removeprefix(MODEL_SCOPE): ModelSpend(spent=to_usd(spent), held=to_usd(held))
            for scope, spent, held in rows
        }

    def balances(self, running_at_ms: int = 0) -> list[Balance]:
        rows = self._db.execute(
            "SELECT scope, window_start, spent_nano, held_nano, reset_at FROM spend"
            " WHERE reset_at IS NULL OR reset_at > ? ORDER BY scope, window_start",
            (running_at_ms,),
        )
        return [
            Balance(
                scope=str(scope), window_start_ms=start, spent_nano=spent, held_nano=held, reset_ms=reset_ms
            )
            for scope, start, spent, held, reset_ms in rows
        ]

    def latency(self) -> dict[str, ModelLatency]:
        """Count, mean and last latency and tokens, by model."""
        rows = self._db.execute(
            "SELECT model, calls, total_ms, last_ms, prompt_tokens, completion_tokens FROM latency ORDER BY model"
        )
        return {
            str(model): ModelLatency(
                calls=calls,
                mean_ms=round(total / calls, 3) if calls else 0.0,
                last_ms=last,
                prompt_tokens=prompt,
                completion_tokens=completion,
            )
            for model, calls, total, last, prompt, completion in rows
        }

    def unknown_calls(
        self, *, since_ms: int = 0, model: str | None = None, limit: int = 1_000
    ) -> list[UnknownCall]:
        """Calls that were sent and of which nobody knows whether they were billed, the newest first.

        The calls that followed for the same jobs are looked for in the whole history: half a second for two million.
        """
        rows: list[tuple[Any, ...]] = self._db.execute(
            "SELECT id, stream, entry_id, model, provider, state, provider_request_id, status_code, error_code,"
            " started_at, ended_at, coalesce(bound_nano, 0), coalesce(cost_nano, 0) FROM attempts"
            " WHERE state <> 'ok' AND state IN ('unknown', 'maybe') AND model <> '' AND started_at >= ?"
            " AND model = coalesce(?, model) ORDER BY started_at DESC, id DESC LIMIT ?",
            (since_ms, model, limit),
        ).fetchall()
        entries = msgspec.json.encode([[row[1], row[2]] for row in rows]).decode()
        names = {
            (stream, entry_id): (tenant, client_id)
            for stream, entry_id, tenant, client_id in self._db.execute(
                "SELECT stream, entry_id, tenant, client_id FROM ids WHERE (stream, entry_id) IN"
                " (SELECT value ->> 0, value ->> 1 FROM json_each(?))",
                (entries,),
            )
        }
        calls: dict[tuple[str, str], list[CallSince]] = {}
        for stream, entry_id, number, name, state, started_ms in self._db.execute(
            "SELECT stream, entry_id, id, model, state, started_at FROM attempts WHERE state <> 'void'"
            " AND model <> '' AND (stream, entry_id) IN"
            " (SELECT value ->> 0, value ->> 1 FROM json_each(?)) ORDER BY started_at, id",
            (entries,),
        ):
            calls.setdefault((stream, entry_id), []).append(CallSince(number, name, state, started_ms))
        return [
            _unknown_call(row, names.get((row[1], row[2])), calls.get((row[1], row[2]), [])) for row in rows
        ]

    def id_holder(self, tenant: str, client_id: str) -> EntryRef | None:
        row = self._db.execute(
            "SELECT stream, entry_id FROM ids WHERE tenant = ? AND client_id = ? AND outcome IS NULL",
            (tenant, client_id),
        ).fetchone()
        return None if row is None else EntryRef(str(row[0]), str(row[1]))

    def inflight_status(self, key: str) -> str | None:
        """`sent` while a call for this key is under way, else None."""
        row = self._db.execute("SELECT status FROM inflight WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def answer(self, cache_key: str, now_ms: int) -> bytes | None:
        """The fresh answer on record, as JSON."""
        row = self._db.execute(
            "SELECT answer FROM cache WHERE key = ? AND fresh_until > ?", (cache_key, now_ms)
        ).fetchone()
        return None if row is None else str(row[0]).encode()

    def last_error(self, key: str) -> str | None:
        """The latest failure recorded for this key."""
        row = self._db.execute(
            "SELECT error_code, status_code, model FROM attempts"
            " WHERE state <> 'ok' AND key = ? AND error_code IS NOT NULL ORDER BY id DESC LIMIT 1",
            (key,),
        ).fetchone()
        if row is None:
            return None
        code, status, model = row
        return f"{code} (status {status}, model {model})" if status is not None else f"{code} (model {model})"


def _unknown_call(row: tuple[Any, ...], name: tuple[str, str] | None, calls: list[CallSince]) -> UnknownCall:
    (
        number,
        stream,
        entry_id,
        model,
        provider,
        state,
        request_id,
        status,
        code,
        started,
        ended,
        bound,
        cost,
    ) = row
    tenant, client_id = name or (None, None)
    late = code == LATE_ANSWER
    return UnknownCall(
        attempt_id=number,
        stream=stream,
        entry_id=entry_id,
        tenant=tenant or None,
        id=client_id,
        model=model,
        provider=provider,
        outcome=state,
        provider_request_id=request_id,
        status_code=status,
        error_code=None if code in NOT_ERRORS else code,
        sent_at_ms=started,
        noticed_at_ms=ended,
        bound=to_usd(bound),
        charged=to_usd(cost),
        answered_late=late,
        calls_since=tuple(call for call in calls if call.attempt_id != number and call.sent_at_ms >= started),
    )


@contextmanager
def reading(path: Path) -> Iterator[SqliteTransaction]:
    """One read transaction on a connection of its own. Raises LedgerError when there is no readable ledger."""
    db = open_ledger(path, read_only=True)
    try:
        db.execute("BEGIN")
        yield SqliteTransaction(db)
    finally:
        db.close()
