"""Reading the books in Redis, from any thread: each reading has a connection of its own, for a moment."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any, Final, TypeVar

from redis.exceptions import RedisError

from theo_daemon.job import EntryRef
from theo_daemon.ledger.figures import Balance, ModelLatency, ModelSpend
from theo_daemon.ledger.redis.doubtful import read_unknown_calls
from theo_daemon.ledger.redis.keys import ID_HEAD, LedgerKeys, running_under, scope_of
from theo_daemon.ledger.redis.scripts import BOOKS
from theo_daemon.ledger.unknown_calls import UnknownCall
from theo_daemon.money import to_usd
from theo_daemon.redis_link import RedisLink, error_code
from theo_daemon.wire import Wire
from theo_workers.errors import LedgerError

PAGE: Final = 500  # budget rows of one call
T = TypeVar("T")


class RedisTransaction:
    """See `figures.LedgerTransaction`. Spend and latency are of one moment, that of the first look at either.

    All raise LedgerError.
    """

    def __init__(self, link: RedisLink, keys: LedgerKeys) -> None:
        self._link, self._keys = link, keys

    def get_all_spend(self) -> dict[str, float]:
        return {model: row.spent for model, row in self.spend().items()}

    def get_all_latency(self) -> dict[str, float]:
        return {model: row.mean_ms for model, row in self.latency().items()}

    def spend(self) -> dict[str, ModelSpend]:
        return self._models[0]

    def latency(self) -> dict[str, ModelLatency]:
        return self._models[1]

    @cached_property
    def _models(self) -> tuple[dict[str, ModelSpend], dict[str, ModelLatency]]:
        rows = sorted(over_a_wire(self._link, self._ask))
        balances = {model.decode(): _balance(text) for model, text, _ in rows if text is not None}
        return (
            {name: ModelSpend(spent=to_usd(one[0]), held=to_usd(one[1])) for name, one in balances.items()},
            {model.decode(): _latency(text) for model, _, text in rows if text is not None},
        )

    def balances(self, running_at_ms: int = 0) -> list[Balance]:
        """A page at a time, so that a server with very many is not held up: rows may be of different moments."""
        rows = over_a_wire(self._link, partial(self._read_balances, since_ms=running_at_ms))
        return sorted(rows, key=lambda row: (row.scope, row.window_start_ms))

    def unknown_calls(
        self, *, since_ms: int = 0, model: str | None = None, limit: int = 1_000
    ) -> list[UnknownCall]:
        """Of the latest ten thousand; see `figures.LedgerTransaction`. Read when asked for."""

        async def asked(wire: Wire) -> list[UnknownCall]:
            await self._check(wire)
            return await read_unknown_calls(wire, self._keys, since_ms=since_ms, model=model, limit=limit)

        return over_a_wire(self._link, asked)

    def id_holder(self, tenant: str, client_id: str) -> EntryRef | None:
        async def asked(wire: Wire) -> EntryRef | None:
            return running_under(await wire.ask("GETRANGE", self._keys.id(tenant, client_id), 0, ID_HEAD))

        return over_a_wire(self._link, asked)

    async def _ask(self, wire: Wire) -> list[tuple[bytes, bytes | None, bytes | None]]:
        await self._check(wire)
        found = await wire.run(BOOKS, (self._keys.base,), ())
        return list(zip(found[::3], found[1::3], found[2::3], strict=True))

    async def _check(self, wire: Wire) -> None:
        if not await wire.ask("EXISTS", self._keys.base):
            raise LedgerError(
                f"{self._link.shown} has no {self._keys.base}: no daemon has kept its ledger there yet."
            )

    async def _read_balances(self, wire: Wire, *, since_ms: int) -> list[Balance]:
        """Rows whose window ends after this; those that never end come last."""
        await self._check(wire)
        found: dict[bytes, Balance] = {}  # rows that come meanwhile may make one be read twice
        for start in itertools.count(0, PAGE):
            words = ("ZRANGEBYSCORE", self._keys.windows, f"({since_ms}", "+inf", "LIMIT", start, PAGE)
            rows = await wire.ask(*words)
            texts = await wire.ask("HMGET", self._keys.spend, *rows) if rows else []
            found |= {row: _row(row, text) for row, text in zip(rows, texts, strict=True) if text is not None}
            if len(rows) < PAGE:
                break
        return [row for row in found.values() if row.reset_ms is None or row.reset_ms > since_ms]


@contextmanager
def reading_redis(link: RedisLink, keys: LedgerKeys) -> Iterator[RedisTransaction]:
    """Where there are no readable books, the first look raises LedgerError."""
    yield RedisTransaction(link, keys)


def over_a_wire(link: RedisLink, ask: Callable[[Wire], Awaitable[T]]) -> T:
    """What `ask` does over a connection of its own, in a thread of its own: usable beside a running event loop.

    The caller waits. Raises LedgerError.
    """
    found: list[T | BaseException] = []

    async def asked() -> T:
        wire = link.wire()
        try:
            return await ask(wire)
        finally:
            await wire.close()

    def apart() -> None:
        try:
            found.append(asyncio.run(asked()))
        except (RedisError, LedgerError) as error:
            found.append(error)

    thread = threading.Thread(target=apart, name="ledger-reader", daemon=True)
    thread.start()
    thread.join()
    (result,) = found
    if isinstance(result, RedisError):
        raise LedgerError(f"the ledger at {link.shown} cannot be used: {error_code(result)}") from result
    if isinstance(result, BaseException):
        raise result
    return result


def _balance(text: bytes) -> tuple[int, int]:
    spent, held, *_ = text.split()
    return int(spent), int(held)


def _row(row: bytes, text: bytes) -> Balance:
    scope, start = scope_of(row.decode())
    spent, held, _, reset = text.split()
    return Balance(
        scope=scope,
        window_start_ms=start,
        spent_nano=int(spent),
        held_nano=int(held),
        reset_ms=int(reset) or None,
    )


def _latency(text: bytes) -> ModelLatency:
    words: Sequence[Any] = text.split()
    calls, total, last = int(words[0]), float(words[1]), float(words[2])
    return ModelLatency(
        calls=calls,
        mean_ms=round(total / calls, 3) if calls else 0.0,
        last_ms=last,
        prompt_tokens=int(words[3]),
        completion_tokens=int(words[4]),
    )
