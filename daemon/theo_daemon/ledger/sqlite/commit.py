"""One group commit: everything that a batch of operations means for the file, inside one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import apsw

from theo_daemon.job import EntryRef
from theo_daemon.ledger.operations import Operation
from theo_daemon.ledger.records import (
    FOR_WAITERS,
    NO_MODEL,
    Ask,
    Bury,
    CacheWrite,
    CallLost,
    CeilingEased,
    CeilingNear,
    Changed,
    Check,
    Forget,
    Landing,
    News,
    PriorAttempt,
    Scope,
    Settled,
    Verdict,
)
from theo_daemon.ledger.rules import decide, eases, near_ceiling
from theo_daemon.ledger.shared import (
    CircuitClosed,
    CircuitOpened,
    FailureCounted,
    HealthReport,
    ModelDisabled,
    Ordered,
    PauseAsked,
    SharedStanding,
    takes_no_calls,
)
from theo_daemon.ledger.sqlite import balances, shared_store, store
from theo_daemon.ledger.sqlite.guards import Guards
from theo_daemon.ledger.unknown_calls import BESIDE
from theo_workers.messages import Outcome

_COMMON = frozenset((Ask, Check, Landing, Forget))
_Sums = dict[tuple[str, int, int | None], list[int]]  # scope, its window's start and end -> [spent, held]


class Committer:
    """Applies batches for one owner. `now_ms` is Unix milliseconds; the caller holds the transaction."""

    def __init__(self, db: apsw.Connection, owner: int, *, id_ttl_ms: int, places: bool = False) -> None:
        """With `places`, large texts are left where they are: see `large_reads`."""
        self._db, self._places = db, places
        self._owner, self._id_ttl_ms = owner, id_ttl_ms
        self._guards = Guards(db)
        self._cached: dict[str, int] = {}  # answers of a model kept since its last eviction
        self.news: list[News] = []  # of the last batch; to be told once it is committed

    def apply(self, operations: Sequence[Operation], now_ms: int) -> list[Verdict | None]:
        """The answer to each operation, in order; None for those that only tell."""
        self.news = []
        # Changes before landings: what a probe showed is known before its right to probe ends.
        rare = [
            (place, operation) for place, operation in enumerate(operations) if type(operation) not in _COMMON
        ]
        changed = self._apply_rare(rare, now_ms) if rare else {}
        landings = [operation for operation in operations if isinstance(operation, Landing)]
        if landings:
            self._land(landings, now_ms)
        if rare:
            changed |= self._count_failures(rare, now_ms)
        forgotten = [ref for one in operations if isinstance(one, Forget) for ref in one.refs]
        store.forget_outcomes(self._db, forgotten)
        # Landings first: an answer that is being recorded now serves the asks beside it.
        asks = [operation for operation in operations if isinstance(operation, Ask | Check)]
        verdicts = iter(self._answer(asks, now_ms, _shut(changed.values(), now_ms)))
        # Ids are let go last: a job may end while its own ask is in this very batch, and would take its id again.
        store.free_ids(self._db, [end for landing in landings for end in landing.ends])
        answers: list[Verdict | None] = [
            next(verdicts) if isinstance(one, Ask | Check) else None for one in operations
        ]
        for position, answer in changed.items():
            answers[position] = answer
        return answers

    def _apply_rare(self, rare: Sequence[tuple[int, Operation]], now_ms: int) -> dict[int, Changed]:
        """What is not of single jobs; the answers by their places in the batch, which mostly has none."""
        changed: dict[int, Changed] = {}
        for position, operation in rare:
            match operation:
                case Bury(owner):
                    self._bury(owner, now_ms)
                case HealthReport():
                    shared_store.add_health(self._db, operation)
                case CircuitOpened() | CircuitClosed() | PauseAsked() | ModelDisabled() | Ordered():
                    row, news = shared_store.change_standing(self._db, operation, now_ms)
                    changed[position] = Changed(row, news)
        return changed

    def _count_failures(self, rare: Sequence[tuple[int, Operation]], now_ms: int) -> dict[int, Changed]:
        """After the landings, so that an answer that lies in the batch, too, ends the row of failures."""
        return {
            position: Changed(*shared_store.change_standing(self._db, operation, now_ms))
            for position, operation in rare
            if isinstance(operation, FailureCounted)
        }

    def _answer(
        self, asks: Sequence[Ask | Check], now_ms: int, shut: dict[str, SharedStanding]
    ) -> list[Verdict]:
        if not asks:
            return []
        known = store.read_known(
            self._db, asks, now_ms, ids_since_ms=now_ms - self._id_ttl_ms, places=self._places
        )
        known.shut = shut
        self._guards.read(asks, known)
        verdicts, claims = decide(asks, known, owner=self._owner)
        store.write_claims(self._db, claims, owner=self._owner, now_ms=now_ms)
        self._guards.write(claims, now_ms)
        self.news += claims.reached
        return verdicts

    def _land(self, landings: Sequence[Landing], now_ms: int) -> None:
        settled = [landing.settled for landing in landings if landing.settled is not None]
        if settled:
            closed, late = store.settle_attempts(self._db, settled, now_ms)
            self._book(closed, late)
            store.add_latency(self._db, [*closed, *late])
            self._guards.settle(closed, now_ms)
        writes = [(one.cache, one.model) for one in settled if one.cache is not None]
        writes += [(one.for_waiters, FOR_WAITERS) for one in landings if one.for_waiters is not None]
        self._cache(writes, now_ms)
        store.write_ends(self._db, [end for landing in landings for end in landing.ends], now_ms)
        store.release_keys(
            self._db, [one.release_key for one in landings if one.release_key is not None], self._owner
        )

    def _book(self, closed: Sequence[Settled], late: Sequence[Settled]) -> None:
        """Move money from held to spent, once for each attempt.

        A late one was taken for dead and charged at its bound then: only the difference is due.
        """
        sums: _Sums = {}
        for one in closed:
            for scope in one.scopes:
                row = _budget_row(sums, scope)
                row[0] += _cost(one)
                row[1] -= one.bound_nano or 0
        for one in late:
            for scope in one.scopes:
                _budget_row(sums, scope)[0] += _cost(one) - (one.bound_nano or 0)
        balances.add(self._db, _rows(sums))
        self._warn([scope for one in (*closed, *late) for scope in one.scopes])

    def _warn(self, booked: Iterable[Scope]) -> None:
        """Tell of ceilings that came near with this batch, unless some process did before."""
        told = (one for one in booked if one.warn_nano is not None or one.ease_nano is not None)
        for scope in dict.fromkeys(told):
            balance = balances.read(self._db, scope.name, scope.window_start_ms)
            if eases(scope, balance):
                balances.mark_told(self._db, scope, "eased")
                self.news.append(CeilingEased(scope, balance.spent_nano))
            if near_ceiling(scope, balance):
                balances.mark_told(self._db, scope, "warned")
                self.news.append(CeilingNear(scope, balance.spent_nano))

    def _cache(self, writes: Sequence[tuple[CacheWrite, str]], now_ms: int) -> None:
        store.write_cache(self._db, writes, now_ms)
        for write, model in writes:
            kept = self._cached.get(model, 0) + 1
            # Evicting sorts the model's answers: done for every eighth of the limit, not for every answer.
            if kept > write.max_entries // 8:
                store.evict_cache(self._db, model, write.max_entries)
                kept = 0
            self._cached[model] = kept

    def _bury(self, owner: int, now_ms: int) -> None:
        """A dead owner's sent attempts: nobody knows whether they were billed, so they are, at their bound.

        If it was rehearsing a job it died of that one, and the others only ran beside it.
        """
        if owner == self._owner:
            return
        open_attempts: list[Any] = self._db.execute(
            "SELECT id, model, provider, coalesce(bound_nano, 0), scopes, stream, entry_id FROM attempts"
            " WHERE owner = ? AND state = 'sent'",
            (owner,),
        ).fetchall()
        sums: _Sums = {}
        booked: list[Scope] = []
        for number, model, provider, bound, scopes, stream, entry_id in open_attempts:
            for scope in store.decode_scopes(scopes):
                booked.append(scope)
                row = _budget_row(sums, scope)
                row[0] += bound
                row[1] -= bound
            lost = PriorAttempt(number, model, provider, Outcome.UNKNOWN, bound)
            if lost.is_call:
                self.news.append(CallLost(EntryRef(stream, entry_id), lost))
        rehearsing = any(model == NO_MODEL for _, model, *_ in open_attempts)
        self._db.execute(
            "UPDATE attempts SET state = 'unknown', cost_nano = bound_nano, ended_at = ?,"
            " error_code = iif(model = ?, NULL, ?) WHERE owner = ? AND state = 'sent'",
            (now_ms, NO_MODEL, BESIDE if rehearsing else None, owner),
        )
        balances.add(self._db, _rows(sums))
        self._warn(booked)
        self._db.execute("DELETE FROM inflight WHERE owner = ?", (owner,))
        self._guards.bury(owner)
        self._db.execute(
            "UPDATE owners SET buried_at = ? WHERE id = ? AND buried_at IS NULL", (now_ms, owner)
        )


def _rows(sums: _Sums) -> list[tuple[str, int, int | None, int, int]]:
    return [(*row, spent, held) for row, (spent, held) in sums.items() if spent or held]


def _budget_row(sums: _Sums, scope: Scope) -> list[int]:
    return sums.setdefault((scope.name, scope.window_start_ms, scope.reset_ms), [0, 0])


def _cost(settled: Settled) -> int:
    """What is charged: the bound where the cost is not known."""
    return (settled.bound_nano or 0) if settled.cost_nano is None else settled.cost_nano


def _shut(changed: Iterable[Changed], now_ms: int) -> dict[str, SharedStanding]:
    return {
        one.standing.model: one.standing
        for one in changed
        if one.news and takes_no_calls(one.standing, now_ms)
    }
