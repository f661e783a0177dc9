"""A batch of operations as the commit script reads it: one MessagePack document, and the long texts beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from theo_daemon.ledger.rates import reserved_tokens
from theo_daemon.ledger.records import (
    Ask,
    Bury,
    CacheWrite,
    Check,
    Forget,
    JobEnd,
    Landing,
    Scope,
    Settled,
    Want,
)
from theo_daemon.ledger.redis.journal import Recorded, Restore
from theo_daemon.ledger.redis.keys import entry_name, id_digest, spend_row
from theo_daemon.ledger.shared import (
    CircuitClosed,
    CircuitOpened,
    FailureCounted,
    HealthReport,
    ModelDisabled,
    Ordered,
    PauseAsked,
)
from theo_workers.texts import Json, joined, length, start_within

FIRST_TEXT: Final = 8  # the place of the first long text among the script's arguments
_SCOPES: Final = 1_024  # lists of scopes that are kept packed

_encode = msgspec.msgpack.Encoder().encode
_Packed = tuple[Any, ...]


class Packer:
    """Packs batches, each operation as the list that `lua/batch.lua` reads; what is not there is `false`."""

    def __init__(self) -> None:
        self._texts: list[bytes] = []
        self._scopes: dict[
            tuple[Scope, ...], msgspec.Raw
        ] = {}  # packed ones; models draw on the same again and again
        self._named: dict[tuple[Scope, ...], int] = {}  # those of this batch, by their place in it
        self._how: dict[type, Callable[[Any], _Packed]] = {
            Ask: self._ask, Restore: self._restore, Check: self._check, Landing: self._landing,
            Forget: self._forget, Bury: self._bury, HealthReport: self._health,
            CircuitOpened: self._opened, CircuitClosed: self._closed, PauseAsked: self._paused,
            ModelDisabled: self._disabled, Ordered: self._ordered, FailureCounted: self._failure,
        }  # fmt: skip

    def pack(self, operations: Sequence[Recorded]) -> list[bytes]:
        """The last arguments of the script: scopes and operations, then their texts."""
        self._texts, self._named = [], {}
        how = self._how
        packed = [how[type(operation)](operation) for operation in operations]
        scopes = [self._packed_scopes(one) for one in self._named]
        return [_encode((scopes, packed)), *self._texts]

    # -- jobs ----------------------------------------------------------------------------------------

    def _check(self, check: Check) -> _Packed:
        return (
            "check",
            entry_name(check.ref),
            False,
            check.redelivered,
            False,
            False,
            _id(check),
            check.digest,
        )

    def _ask(self, ask: Ask, kind: str = "ask") -> _Packed:
        want, identity = ask.want, _id(ask)
        return (
            kind, entry_name(ask.ref), ask.key, ask.redelivered, ask.holding, _given(ask.cache_key), identity,
            identity and ask.digest, _given(ask.waited_since_ms), False if want is None else self._want(want, ask),
        )  # fmt: skip

    def _restore(self, restore: Restore) -> _Packed:
        return self._ask(restore.ask, "restore")

    def _want(self, want: Want, ask: Ask) -> _Packed:
        rate = want.rate
        limits = (
            (False, False, 0) if rate is None else (_given(rate.rpm), _given(rate.tpm), reserved_tokens(rate))
        )
        return (
            str(want.attempt_id), want.model, _given(want.bound_nano), self._place_of(want.scopes),
            self._text(self._record(want, ask)), _given(want.probe_until_ms), *limits,
        )  # fmt: skip

    def _record(self, want: Want, ask: Ask) -> bytes:
        """What Redis keeps of the call for the case that it goes wrong."""
        record: dict[str, Any] = {
            "model": want.model, "provider": want.provider, "scopes": self._packed_scopes(want.scopes),
            "entry": entry_name(ask.ref), "key": ask.key,
        }  # fmt: skip
        if want.bound_nano is not None:
            record["bound"] = want.bound_nano
        if ask.client_id is not None:
            record |= {"id": ask.client_id, "tenant": ask.tenant}
        if want.price is not None:
            record["price"] = want.price
        return _encode(record)

    def _landing(self, landing: Landing) -> _Packed:
        settled = landing.settled
        ends = [self._end(end) for end in landing.ends]
        return (
            "land",
            False if settled is None else self._settled(settled),
            settled is not None and self._cached(settled.cache, landing.ends, ends),
            _given(landing.release_key),
            ends,
            self._cached(landing.for_waiters),
        )

    def _cached(
        self, cache: CacheWrite | None, ends: Sequence[JobEnd] = (), packed: Sequence[_Packed] = ()
    ) -> _Packed | bool:
        if cache is None:
            return False
        text: int | tuple[int, int, int] | None = None
        if not isinstance(
            cache.answer, bytes
        ):  # it is large, and sent once, as a part of the outcome that tells it
            for end, (_, place, *_) in zip(ends, packed, strict=True):
                if end.outcome is not None and (start := start_within(cache.answer, end.outcome)) is not None:
                    text = place, start + 1, start + length(cache.answer)  # as Lua counts
                    break
        return cache.key, cache.ttl_ms, cache.max_entries, self._text(cache.answer) if text is None else text

    def _settled(self, one: Settled) -> _Packed:
        cost = (one.bound_nano or 0) if one.cost_nano is None else one.cost_nano
        return (
            str(one.attempt_id), one.model, one.state, cost, _given(one.bound_nano), self._place_of(one.scopes),
            one.latency_ms, one.prompt_tokens, one.completion_tokens, _given(one.status_code), _given(one.error_code),
            _given(one.provider_request_id),
        )  # fmt: skip

    def _end(self, end: JobEnd) -> _Packed:
        outcome = False if end.outcome is None else self._text(end.outcome)
        return (entry_name(end.ref), outcome, _id(end), end.digest, end.remember, end.vanished)

    def _forget(self, forget: Forget) -> _Packed:
        return ("forget", [entry_name(ref) for ref in forget.refs])

    def _text(self, text: Json) -> int:
        self._texts.append(joined(text))
        return FIRST_TEXT + len(self._texts) - 1

    def _place_of(self, scopes: tuple[Scope, ...]) -> int:
        """From 1, as Lua counts."""
        return self._named.setdefault(scopes, len(self._named) + 1)

    def _packed_scopes(self, scopes: tuple[Scope, ...]) -> msgspec.Raw:
        packed = self._scopes.get(scopes)
        if packed is None:
            if len(self._scopes) >= _SCOPES:
                self._scopes.clear()
            packed = self._scopes[scopes] = msgspec.Raw(_encode([_scope(scope) for scope in scopes]))
        return packed

    # -- models and owners ---------------------------------------------------------------------------

    def _bury(self, bury: Bury) -> _Packed:
        return ("bury", str(bury.owner))

    def _health(self, report: HealthReport) -> _Packed:
        return ("health", {"model": report.model, "before": report.before, "now": report.now})

    def _opened(self, change: CircuitOpened) -> _Packed:
        return _change(
            "opened",
            change.model,
            generation=change.generation,
            until_ms=change.until_ms,
            openings=change.openings,
        )

    def _closed(self, change: CircuitClosed) -> _Packed:
        return _change("closed", change.model, generation=change.generation)

    def _failure(self, one: FailureCounted) -> _Packed:
        return ("failure", one.model, one.generation, one.threshold, one.until_ms)

    def _paused(self, change: PauseAsked) -> _Packed:
        return _change("paused", change.model, until_ms=change.until_ms)

    def _disabled(self, change: ModelDisabled) -> _Packed:
        return _change("disabled", change.model, cause=change.cause, credential=change.credential)

    def _ordered(self, change: Ordered) -> _Packed:
        return _change("ordered", change.model, order=change.order_id, disable=change.disable)


def _change(kind: str, model: str, **fields: Any) -> _Packed:
    return ("change", {"kind": kind, "model": model, **fields})


def _id(operation: Ask | Check | JobEnd) -> str | bool:
    return operation.client_id is not None and id_digest(operation.tenant, operation.client_id)


def _given(value: Any) -> Any:
    return False if value is None else value


def _scope(scope: Scope) -> _Packed:
    """Row, ceiling, reset, warning and ease, as `lua/money.lua` names them."""
    row = spend_row(scope.name, scope.window_start_ms)
    limits = (scope.ceiling_nano, scope.reset_ms, scope.warn_nano, scope.ease_nano)
    return (row, *map(_given, limits))
