"""The ledger's SQL for calls, ids and answers, set-wise: a batch is one statement per table, whatever its size.

A statement gives the interpreter lock away at each step, and on a busy loop each return costs a switch
interval. So many rows are written by one multi-row statement, and read as one JSON value.
"""

from __future__ import annotations

from collections.abc import Sequence

import apsw
import msgspec

from theo_daemon.job import EntryRef
from theo_daemon.ledger.large_reads import LARGE_BYTES, Place
from theo_daemon.ledger.records import Ask, CacheWrite, Check, JobEnd, PriorAttempt, Scope, Settled
from theo_daemon.ledger.rules import Claims, KeptAnswer, Known, Remembered
from theo_daemon.ledger.sqlite import balances
from theo_daemon.ledger.sqlite.rows import Bind, chunk, insert_rows, marks, padded
from theo_daemon.ledger.sqlite.texts import TextColumn, insert_texts
from theo_daemon.ledger.unknown_calls import LATE_ANSWER

_decode_known = msgspec.json.Decoder(list[tuple[str, str, str, str | int | None, str | int | None]]).decode
_decode_prior = msgspec.json.Decoder(PriorAttempt).decode
_decode_states = msgspec.json.Decoder(list[tuple[int, str]]).decode
_encode_scopes = msgspec.json.encode
_decode_scopes = msgspec.json.Decoder(tuple[Scope, ...]).decode


def read_known(
    db: apsw.Connection,
    asks: Sequence[Ask | Check],
    now_ms: int,
    *,
    ids_since_ms: int = 0,
    places: bool = False,
) -> Known:
    """All that the ledger holds about these asks, in one statement, plus their budget rows.

    Ids taken before `ids_since_ms` (Unix ms) are forgotten, whether or not they are pruned by now; but what
    an entry itself left there is still its own. With `places`, of large texts only these are told.
    """
    answer, outcome = ("answer", "outcome") if not places else (_or_size("answer"), _or_size("outcome"))
    parts: list[str] = []
    binds: list[Bind] = []
    keys = padded(ask.key for ask in asks if isinstance(ask, Ask))
    if keys:
        parts.append(f"SELECT 'f', key, '', owner, NULL FROM inflight WHERE key IN ({marks(len(keys))})")
        binds += keys
    cached = padded(ask.cache_key for ask in asks if isinstance(ask, Ask) and ask.cache_key is not None)
    if cached:
        parts.append(
            f"SELECT 'c', key, created_at || ' ' || fresh_until, {answer}, NULL FROM cache"
            f" WHERE key IN ({marks(len(cached))})"
        )
        binds += cached
    ids = padded(ask.client_id for ask in asks if ask.client_id is not None)
    if ids:
        # By client_id alone: the few rows of other tenants with the same id are dropped in Python.
        parts.append(
            "SELECT 'i', tenant, client_id, created_at || ' ' || digest || ' ' || stream || ' ' || entry_id,"
            f" {outcome} FROM ids WHERE client_id IN ({marks(len(ids))})"
        )
        binds += ids
    entries = padded(ask.ref.entry_id for ask in asks if ask.redelivered)
    if entries:
        parts.append(
            f"SELECT 'o', stream, entry_id, {outcome}, NULL FROM outcomes"
            f" WHERE entry_id IN ({marks(len(entries))})"
        )
        parts.append(
            "SELECT 'p', stream, entry_id, NULL, '' || json_array(id, model, provider, state, coalesce(cost_nano, 0),"
            " coalesce(latency_ms, 0.0), status_code, error_code) FROM attempts"
            f" WHERE state <> 'ok' AND state NOT IN ('sent', 'void') AND entry_id IN ({marks(len(entries))})"
        )
        binds += [*entries, *entries]
    known = Known(now_ms=now_ms)
    if parts:
        sql = (
            f"WITH found(k, a, b, c, d) AS ({' UNION ALL '.join(parts)})"
            " SELECT json_group_array(json_array(k, a, b, c, d)) FROM found"
        )
        (found,) = db.execute(sql, binds).fetchone() or ("[]",)
        _sort_known(known, found, {ask.ref for ask in asks if ask.redelivered}, ids_since_ms)
    balances.read_all(db, asks, known)
    return known


def _sort_known(known: Known, found: str, redelivered: set[EntryRef], ids_since_ms: int) -> None:
    for kind, a, b, c, d in _decode_known(found):
        match kind:
            case "f":
                known.holders[a] = int(c or 0)
            case "c":
                created_at, fresh_until = b.split(" ")
                known.answers[a] = KeptAnswer(_kept(c, "cache", a), int(created_at), int(fresh_until))
            case "o":
                known.outcomes[EntryRef(a, b)] = _kept(c, "outcomes", a, b)
            case "p":
                ref = EntryRef(a, b)
                known.prior[ref] = (*known.prior.get(ref, ()), _decode_prior(str(d)))
            case _:
                taken_at, digest, stream, entry_id = str(c).split(" ")
                ref = EntryRef(stream, entry_id)
                if int(taken_at) < ids_since_ms and ref not in redelivered:
                    continue
                outcome = None if d is None else _kept(d, "ids", a, b)
                known.ids[a, b] = Remembered(digest=digest, ref=ref, outcome=outcome)


def _or_size(column: str) -> str:
    return f"iif(octet_length({column}) > {LARGE_BYTES}, octet_length({column}), {column})"


def _kept(told: str | int | None, table: str, *key: str) -> bytes:
    """A text; of a large one, whose size is told instead, its place."""
    return Place.of(table, key, told) if isinstance(told, int) else str(told).encode()


def write_claims(db: apsw.Connection, claims: Claims, *, owner: int, now_ms: int) -> None:
    """Record what `rules.decide` granted."""
    if claims.attempts:
        rows = [
            (
                ask.want.attempt_id, ask.ref.stream, ask.ref.entry_id, ask.key, owner, ask.want.model,
                ask.want.provider, "sent", ask.want.bound_nano, encode_scopes(ask.want.scopes), now_ms,
                ask.want.price,
            )
            for ask in claims.attempts
            if ask.want is not None
        ]  # fmt: skip
        insert_rows(
            db,
            "INSERT INTO attempts(id, stream, entry_id, key, owner, model, provider, state, bound_nano, scopes,"
            " started_at, price)",
            rows,
        )
    if claims.holders:
        insert_rows(
            db,
            "INSERT INTO inflight(key, status, owner, attempt, stream, entry_id, created_at, updated_at)",
            [
                (ask.key, "sent", owner, ask.want.attempt_id if ask.want else 0, *ask.ref, now_ms, now_ms)
                for ask in claims.holders
            ],
        )
    if claims.ids:
        insert_rows(
            db,
            "INSERT OR REPLACE INTO ids(tenant, client_id, digest, stream, entry_id, created_at)",  # a forgotten one
            [(ask.tenant, ask.client_id, ask.digest, *ask.ref, now_ms) for ask in claims.ids],
        )
    balances.hold(db, claims)
    for reached in claims.reached:
        balances.mark_told(db, reached.scope, "exhausted")


def encode_scopes(scopes: tuple[Scope, ...]) -> str:
    """How an attempt's row keeps the budgets it holds, for settling after a crash. "" when there are none."""
    return _encode_scopes(scopes).decode() if scopes else ""


def decode_scopes(text: str) -> tuple[Scope, ...]:
    return _decode_scopes(text) if text else ()


def settle_attempts(
    db: apsw.Connection, settled: Sequence[Settled], now_ms: int
) -> tuple[list[Settled], list[Settled]]:
    """Close the attempts that are still open. Returns (those closed now, those a peer had taken for dead)."""
    states = _states(db, settled)
    closed = [one for one in settled if states.get(one.attempt_id) == "sent"]
    late = [one for one in settled if states.get(one.attempt_id) == "unknown"]
    _close_attempts(db, closed, now_ms)
    for one in late:  # the truth replaces the charge at the bound; the state stays, for the count of unknowns
        db.execute(
            "UPDATE attempts SET cost_nano = ?, error_code = ?, ended_at = ? WHERE id = ?",
            (one.bound_nano if one.cost_nano is None else one.cost_nano, LATE_ANSWER, now_ms, one.attempt_id),
        )
    return closed, late


def _states(db: apsw.Connection, settled: Sequence[Settled]) -> dict[int, str]:
    ids = padded(one.attempt_id for one in settled)
    (found,) = db.execute(
        f"SELECT json_group_array(json_array(id, state)) FROM attempts WHERE id IN ({marks(len(ids))})"
        f" AND error_code IS NOT '{LATE_ANSWER}'",
        ids,
    ).fetchone() or ("[]",)
    return dict(_decode_states(found))


def _close_attempts(db: apsw.Connection, settled: Sequence[Settled], now_ms: int) -> None:
    """Of rows that exist: an upsert finds each by its number at once, an UPDATE FROM takes three times as long."""
    insert_rows(
        db,
        "INSERT INTO attempts(id, stream, entry_id, key, owner, model, provider, scopes, started_at, state, cost_nano,"
        " latency_ms, prompt_tokens, completion_tokens, status_code, error_code, provider_request_id, ended_at)",
        [
            (
                one.attempt_id, "", "", "", 0, "", "", "", 0, one.state,
                one.bound_nano if one.cost_nano is None else one.cost_nano, one.latency_ms, one.prompt_tokens,
                one.completion_tokens, one.status_code, one.error_code, one.provider_request_id, now_ms,
            )
            for one in settled
        ],
        "ON CONFLICT(id) DO UPDATE SET state = excluded.state, cost_nano = excluded.cost_nano,"
        " latency_ms = excluded.latency_ms, prompt_tokens = excluded.prompt_tokens,"
        " completion_tokens = excluded.completion_tokens, status_code = excluded.status_code,"
        " error_code = excluded.error_code, provider_request_id = excluded.provider_request_id,"
        " ended_at = excluded.ended_at",
    )  # fmt: skip


def write_cache(db: apsw.Connection, writes: Sequence[tuple[CacheWrite, str]], now_ms: int) -> None:
    """Keep answers (each with its model), the newest of a key winning."""
    newest = {write.key: (write, model) for write, model in writes}
    insert_texts(
        db,
        "INSERT OR REPLACE",
        TextColumn("cache", "key, model, created_at, fresh_until", "answer"),
        [
            ((write.key, model, now_ms, now_ms + write.ttl_ms), write.answer)
            for write, model in newest.values()
        ],
    )


def evict_cache(db: apsw.Connection, model: str, limit: int) -> None:
    """Drop the oldest answers of `model` beyond `limit`; an answer that replaced another is a new row."""
    db.execute(
        "DELETE FROM cache WHERE model = ?1 AND rowid <="
        " (SELECT rowid FROM cache WHERE model = ?1 ORDER BY rowid DESC LIMIT 1 OFFSET ?2)",
        (model, limit),
    )


def write_ends(db: apsw.Connection, ends: Sequence[JobEnd], now_ms: int) -> None:
    """Outcomes that must survive a crash, and what repeated ids are answered."""
    insert_texts(
        db,
        "INSERT",
        TextColumn("outcomes", "stream, entry_id, created_at", "outcome"),
        [
            ((*end.ref, now_ms), end.outcome)
            for end in ends
            if end.outcome is not None and not (end.remember and end.client_id)  # that is kept with the id
        ],
        "ON CONFLICT(entry_id, stream) DO NOTHING",
    )
    kept = [end for end in ends if end.client_id is not None and end.remember and end.outcome is not None]
    _remember(db, kept, now_ms)


def free_ids(db: apsw.Connection, ends: Sequence[JobEnd]) -> None:
    """Let go of the ids whose jobs ended without an outcome to remember."""
    for end in ends:
        if end.client_id is not None and not end.remember:
            db.execute(
                "DELETE FROM ids WHERE client_id = ? AND tenant = ? AND stream = ? AND entry_id = ?"
                f" AND outcome IS NULL{_NO_CALL_IS_OUT if end.vanished else ''}",
                (end.client_id, end.tenant, *end.ref),
            )


_NO_CALL_IS_OUT = (
    " AND NOT EXISTS (SELECT 1 FROM attempts WHERE attempts.entry_id = ids.entry_id"
    " AND attempts.stream = ids.stream AND state <> 'ok' AND state = 'sent')"
)


def _remember(db: apsw.Connection, ends: Sequence[JobEnd], now_ms: int) -> None:
    """Only the push that holds the id decides what it is answered, and once: the first outcome may be out by now."""
    insert_texts(
        db,
        "INSERT",
        TextColumn("ids", "tenant, client_id, digest, stream, entry_id, created_at", "outcome"),
        [((end.tenant, end.client_id, end.digest, *end.ref, now_ms), end.outcome or b"") for end in ends],
        "ON CONFLICT(client_id, tenant) DO UPDATE SET outcome = excluded.outcome"
        " WHERE ids.stream = excluded.stream AND ids.entry_id = excluded.entry_id AND ids.outcome IS NULL",
    )


def release_keys(db: apsw.Connection, keys: Sequence[str], owner: int) -> None:
    """The flights have landed."""
    found = padded(keys)
    if found:
        db.execute(f"DELETE FROM inflight WHERE owner = ? AND key IN ({marks(len(found))})", [owner, *found])


def forget_outcomes(db: apsw.Connection, refs: Sequence[EntryRef]) -> None:
    """Published: the outcomes served their purpose."""
    start = 0
    while start < len(refs):
        size = chunk(len(refs) - start)
        db.execute(
            f"DELETE FROM outcomes WHERE (entry_id, stream) IN (VALUES {','.join(['(?,?)'] * size)})",
            [value for ref in refs[start : start + size] for value in (ref.entry_id, ref.stream)],
        )
        start += size


def add_latency(db: apsw.Connection, settled: Sequence[Settled]) -> None:
    """Answered calls: count, total and last latency and tokens, per model."""
    sums: dict[str, list[float]] = {}
    for one in settled:
        if one.state == "ok":
            total = sums.setdefault(one.model, [0, 0.0, 0.0, 0, 0])
            total[0] += 1
            total[1] += one.latency_ms
            total[2] = one.latency_ms
            total[3] += one.prompt_tokens
            total[4] += one.completion_tokens
    insert_rows(
        db,
        "INSERT INTO latency(model, calls, total_ms, last_ms, prompt_tokens, completion_tokens)",
        [(model, *total) for model, total in sums.items()],
        "ON CONFLICT(model) DO UPDATE SET calls = calls + excluded.calls, total_ms = total_ms + excluded.total_ms,"
        " last_ms = excluded.last_ms, prompt_tokens = prompt_tokens + excluded.prompt_tokens,"
        " completion_tokens = completion_tokens + excluded.completion_tokens",
    )
