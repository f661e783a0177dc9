"""A batch of operations as the commit script reads it: one MessagePack document, and the long texts beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from theo_daemon.ledger.rates import Rate, reserved_tokens
from theo_daemon.ledger.records import Ask, Bury, Check, Forget, JobEnd, Landing, Scope, Settled, Want
from theo_daemon.ledger.redis.journal import Recorded, Restore
from theo_daemon.ledger.redis.keys import entry_name, id_digest, spend_row
from theo_daemon.ledger.shared import (
    CircuitClosed,
    CircuitOpened,
    HealthReport,
    ModelDisabled,
    Ordered,
    PauseAsked,
)

FIRST_TEXT: Final = 8  # the place of the first long text among the script's arguments
_SCOPES = 1_024  # packed ones that are kept: models draw on the same budgets call after call

_encode = msgspec.msgpack.Encoder().encode
_Packed = dict[str, Any]


class Packer:
    """Packs batches. Fields that say nothing are left out; what may be missing in a list is `false`."""

    def __init__(self) -> None:
        self._texts: list[bytes] = []
        self._scopes: dict[tuple[Scope, ...], msgspec.Raw] = {}
        self._how: dict[type, Callable[[Any], _Packed]] = {
            Ask: self._ask, Restore: self._restore, Check: self._check, Landing: self._landing,
            Forget: self._forget, Bury: self._bury,
            HealthReport: self._health, CircuitOpened: self._opened, CircuitClosed: self._closed,
            PauseAsked: self._paused, ModelDisabled: self._disabled, Ordered: self._ordered,
        }  # fmt: skip

    def pack(self, operations: Sequence[Recorded]) -> list[bytes]:
        """The last arguments of the script: the operations, then their texts."""
        self._texts = []
        how = self._how
        packed = _encode([how[type(operation)](operation) for operation in operations])
        return [packed, *self._texts]

    # -- jobs ----------------------------------------------------------------------------------------

    def _check(self, check: Check) -> _Packed:
        packed: _Packed = {"op": "check", "entry": entry_name(check.ref), "digest": check.digest}
        if check.client_id is not None:
            packed["id"] = id_digest(check.tenant, check.client_id)
        if check.redelivered:
            packed["redelivered"] = True
        return packed

    def _ask(self, ask: Ask) -> _Packed:
        packed: _Packed = {"op": "ask", "entry": entry_name(ask.ref), "digest": ask.digest, "key": ask.key}
        if ask.cache_key is not None:
            packed["cache_key"] = ask.cache_key
        if ask.client_id is not None:
            packed["id"] = id_digest(ask.tenant, ask.client_id)
        if ask.redelivered:
            packed["redelivered"] = True
        if ask.waited_since_ms is not None:
            packed["since"] = ask.waited_since_ms
        if ask.holding:
            packed["holding"] = True
        if ask.want is not None:
            packed["want"] = self._want(ask.want, ask)
        return packed

    def _restore(self, restore: Restore) -> _Packed:
        return {**self._ask(restore.ask), "op": "restore"}

    def _want(self, want: Want, ask: Ask) -> _Packed:
        scopes = self._packed_scopes(want.scopes)
        record: _Packed = {
            "model": want.model,
            "provider": want.provider,
            "scopes": scopes,
            "entry": entry_name(ask.ref),
            "key": ask.key,
        }
        if ask.client_id is not None:
            record |= {"id": ask.client_id, "tenant": ask.tenant}
        if want.price is not None:
            record["price"] = want.price
        packed: _Packed = {"attempt": str(want.attempt_id), "model": want.model, "scopes": scopes}
        if want.bound_nano is not None:
            packed["bound"] = record["bound"] = want.bound_nano
        packed["record"] = self._text(_encode(record))
        if want.rate is not None:
            packed["rate"] = _rate(want.rate)
        if want.probe_until_ms is not None:
            packed["probe_until"] = want.probe_until_ms
        return packed

    def _landing(self, landing: Landing) -> _Packed:
        packed: _Packed = {"op": "land"}
        settled = landing.settled
        if settled is not None:
            packed["settled"] = self._settled(settled)
            if settled.cache is not None:
                cache = settled.cache
                packed["cache"] = {
                    "key": cache.key,
                    "ttl": cache.ttl_ms,
                    "max": cache.max_entries,
                    "model": settled.model,
                    "text": self._text(cache.answer),
                }
        if landing.release_key is not None:
            packed["release"] = landing.release_key
        if landing.ends:
            packed["ends"] = [self._end(end) for end in landing.ends]
        return packed

    def _settled(self, one: Settled) -> _Packed:
        packed: _Packed = {
            "attempt": str(one.attempt_id),
            "model": one.model,
            "state": one.state,
            "cost": (one.bound_nano or 0) if one.cost_nano is None else one.cost_nano,
            "scopes": self._packed_scopes(one.scopes),
            "latency": one.latency_ms,
            "prompt": one.prompt_tokens,
            "completion": one.completion_tokens,
        }
        if one.bound_nano is not None:
            packed["bound"] = one.bound_nano
        if one.status_code is not None:
            packed["status"] = one.status_code
        if one.error_code is not None:
            packed["error"] = one.error_code
        if one.provider_request_id is not None:
            packed["request"] = one.provider_request_id
        return packed

    def _end(self, end: JobEnd) -> _Packed:
        packed: _Packed = {"entry": entry_name(end.ref), "digest": end.digest}
        if end.outcome is not None:
            packed["outcome"] = self._text(end.outcome)
        if end.client_id is not None:
            packed["id"] = id_digest(end.tenant, end.client_id)
        if end.remember:
            packed["remember"] = True
        return packed

    def _forget(self, forget: Forget) -> _Packed:
        return {"op": "forget", "entries": [entry_name(ref) for ref in forget.refs]}

    def _text(self, text: bytes) -> int:
        self._texts.append(text)
        return FIRST_TEXT + len(self._texts) - 1

    def _packed_scopes(self, scopes: tuple[Scope, ...]) -> msgspec.Raw:
        packed = self._scopes.get(scopes)
        if packed is None:
            if len(self._scopes) >= _SCOPES:
                self._scopes.clear()
            packed = self._scopes[scopes] = msgspec.Raw(_encode([_scope(scope) for scope in scopes]))
        return packed

    # -- models and owners ---------------------------------------------------------------------------

    def _bury(self, bury: Bury) -> _Packed:
        return {"op": "bury", "owner": str(bury.owner)}

    def _health(self, report: HealthReport) -> _Packed:
        return {"op": "health", "model": report.model, "before": report.before, "now": report.now}

    def _opened(self, change: CircuitOpened) -> _Packed:
        return {
            **_change("opened", change.model), "generation": change.generation, "until_ms": change.until_ms,
            "openings": change.openings,
        }  # fmt: skip

    def _closed(self, change: CircuitClosed) -> _Packed:
        return {**_change("closed", change.model), "generation": change.generation}

    def _paused(self, change: PauseAsked) -> _Packed:
        return {**_change("paused", change.model), "until_ms": change.until_ms}

    def _disabled(self, change: ModelDisabled) -> _Packed:
        return {**_change("disabled", change.model), "cause": change.cause, "credential": change.credential}

    def _ordered(self, change: Ordered) -> _Packed:
        return {**_change("ordered", change.model), "order": change.order_id, "disable": change.disable}


def _change(kind: str, model: str) -> _Packed:
    return {"op": "change", "kind": kind, "model": model}


def _rate(rate: Rate) -> _Packed:
    packed: _Packed = {"tokens": reserved_tokens(rate)}
    if rate.rpm is not None:
        packed["rpm"] = rate.rpm
    if rate.tpm is not None:
        packed["tpm"] = rate.tpm
    return packed


def _scope(scope: Scope) -> tuple[str | int | bool, ...]:
    """Row, ceiling, reset and warning; `scope_from` reads it."""
    rest = (scope.ceiling_nano, scope.reset_ms, scope.warn_nano)
    return (spend_row(scope.name, scope.window_start_ms), *(False if one is None else one for one in rest))
