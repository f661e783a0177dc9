"""Calls of unknown outcome as Redis lists them: the latest of them, and what followed for their jobs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from theo_daemon.ledger.redis.keys import LedgerKeys, entry_of
from theo_daemon.ledger.unknown_calls import LATE_ANSWER, NOT_ERRORS, CallSince, UnknownCall
from theo_daemon.money import to_usd
from theo_daemon.wire import Wire

PAGE: Final = 1_000  # listed attempts of one call
_IN_DOUBT: Final = frozenset(("unknown", "maybe"))
_decode_record = msgspec.msgpack.Decoder(dict[str, Any]).decode


class _Listed(Struct, frozen=True):
    """One attempt, as it was listed last."""

    noticed_at_ms: int
    words: Mapping[str, str]

    @property
    def attempt_id(self) -> int:
        return int(self.words["attempt"])

    @property
    def sent_at_ms(self) -> int:
        return int(self.words["started_at"])

    def since(self) -> CallSince:
        return CallSince(self.attempt_id, self.words["model"], self.words["state"], self.sent_at_ms)


async def read_unknown_calls(
    wire: Wire, keys: LedgerKeys, *, since_ms: int, model: str | None, limit: int
) -> list[UnknownCall]:
    """See `figures.LedgerTransaction`. Raises redis.exceptions.RedisError."""
    listed: dict[int, _Listed] = {}
    for stream in (keys.doubtful, keys.failures):
        async for one in _each(wire, stream):
            listed.setdefault(one.attempt_id, one)  # the newest comes first
    chosen = [
        one
        for one in listed.values()
        if one.words["state"] in _IN_DOUBT
        and one.sent_at_ms >= since_ms
        and model in {None, one.words["model"]}
    ]
    chosen.sort(key=lambda one: (one.sent_at_ms, one.attempt_id), reverse=True)
    del chosen[limit:]
    calls: dict[str, list[CallSince]] = {one.words["entry"]: [] for one in chosen}
    for one in listed.values():
        if one.words["entry"] in calls:
            calls[one.words["entry"]].append(one.since())
    async for entry, call in _under_way(wire, keys):
        if entry in calls:
            calls[entry].append(call)
    return [_unknown_call(one, calls[one.words["entry"]]) for one in chosen]


async def _each(wire: Wire, stream: str) -> AsyncIterator[_Listed]:
    """All that is listed there, the newest first."""
    end = "+"
    while True:
        page = await wire.ask("XREVRANGE", stream, end, "-", "COUNT", PAGE)
        for entry_id, flat in page:
            words = [word.decode() for word in flat]
            noticed_at_ms = int(entry_id.partition(b"-")[0])
            yield _Listed(noticed_at_ms, dict(zip(words[::2], words[1::2], strict=True)))
        if len(page) < PAGE:
            return
        end = f"({page[-1][0].decode()}"


async def _under_way(wire: Wire, keys: LedgerKeys) -> AsyncIterator[tuple[str, CallSince]]:
    """Every call that is out now, with its entry."""
    for owner in await wire.ask("HKEYS", keys.owners):
        words = await wire.ask("HGETALL", keys.open(owner.decode()))
        for field, text in zip(words[::2], words[1::2], strict=True):
            if field.startswith(b"a"):
                head, _, rest = text.partition(b"\n")
                started, length, entry = head.split(b" ", 2)
                record = _decode_record(rest[int(length) :])
                if record["model"]:
                    call = CallSince(int(field[1:]), record["model"], "sent", int(started))
                    yield entry.decode(), call


def _unknown_call(one: _Listed, calls: list[CallSince]) -> UnknownCall:
    words = one.words
    ref, code = entry_of(words["entry"]), words["error_code"]
    later = [
        call for call in calls if call.attempt_id != one.attempt_id and call.sent_at_ms >= one.sent_at_ms
    ]
    return UnknownCall(
        attempt_id=one.attempt_id,
        stream=ref.stream,
        entry_id=ref.entry_id,
        tenant=words["tenant"] or None,
        id=words["id"] or None,
        model=words["model"],
        provider=words["provider"],
        outcome=words["state"],
        provider_request_id=words["provider_request_id"] or None,
        status_code=int(words["status_code"]) if words["status_code"] else None,
        error_code=None if code in NOT_ERRORS else code or None,
        sent_at_ms=one.sent_at_ms,
        noticed_at_ms=one.noticed_at_ms,
        bound=to_usd(int(words["bound_nano"])),
        charged=to_usd(int(words["cost_nano"])),
        answered_late=code == LATE_ANSWER,
        calls_since=tuple(sorted(later, key=lambda call: (call.sent_at_ms, call.attempt_id))),
    )
