"""Reading the books in Redis, from any thread: each reading has a connection of its own, for a moment."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, TypeVar

from redis.exceptions import RedisError

from theo_daemon.ledger.figures import Balance, ModelLatency, ModelSpend
from theo_daemon.ledger.redis.doubtful import read_unknown_calls
from theo_daemon.ledger.redis.keys import LedgerKeys, scope_of
from theo_daemon.ledger.redis.scripts import BOOKS
from theo_daemon.ledger.unknown_calls import UnknownCall
from theo_daemon.money import to_usd
from theo_daemon.redis_link import RedisLink, error_code
from theo_daemon.wire import Wire
from theo_workers.errors import LedgerError

PAGE: Final = 500  # budget rows of one call
T = TypeVar("T")


class RedisTransaction:
    """See `figures.LedgerTransaction`. Spend and latency are of one moment; `balances` are read when asked for."""

    def __init__(self, link: RedisLink, keys: LedgerKeys) -> None:
        """Raises LedgerError."""
        self._link, self._keys = link, keys
        self._spend: dict[str, ModelSpend] = {}
        self._latency: dict[str, ModelLatency] = {}
        for model, balance, latency in sorted(over_a_wire(link, self._ask)):
            name = model.decode()
            if balance is not None:
                spent, held = _balance(balance)
                self._spend[name] = ModelSpend(spent=to_usd(spent), held=to_usd(held))
            if latency is not None:
                self._latency[name] = _latency(latency)

    def get_all_spend(self) -> dict[str, float]:
        return {model: row.spent for model, row in self._spend.items()}

    def get_all_latency(self) -> dict[str, float]:
        return {model: row.mean_ms for model, row in self._latency.items()}

    def spend(self) -> dict[str, ModelSpend]:
        return self._spend

    def latency(self) -> dict[str, ModelLatency]:
        return self._latency

    def balances(self) -> list[Balance]:
        """A page at a time, so that a server with very many is not held up: rows may be of different moments."""
        return sorted(over_a_wire(self._link, self._scan), key=lambda row: (row.scope, row.window_start_ms))

    def unknown_calls(
        self, *, since_ms: int = 0, model: str | None = None, limit: int = 1_000
    ) -> list[UnknownCall]:
        """Of the latest ten thousand; see `figures.LedgerTransaction`. Read when asked for."""
        ask = partial(read_unknown_calls, keys=self._keys, since_ms=since_ms, model=model, limit=limit)
        return over_a_wire(self._link, ask)

    async def _ask(self, wire: Wire) -> list[tuple[bytes, bytes | None, bytes | None]]:
        if not await wire.ask("EXISTS", self._keys.base):
            raise LedgerError(
                f"{self._link.shown} has no {self._keys.base}: no daemon has kept its ledger there yet."
            )
        found = await wire.run(BOOKS, (self._keys.base,), ())
        return list(zip(found[::3], found[1::3], found[2::3], strict=True))

    async def _scan(self, wire: Wire) -> list[Balance]:
        rows: dict[str, bytes] = {}
        cursor: bytes | int = 0
        while True:
            cursor, words = await wire.ask("HSCAN", self._keys.spend, cursor, "COUNT", PAGE)
            rows |= {words[at].decode(): words[at + 1] for at in range(0, len(words), 2)}
            if int(cursor) == 0:
                return [_row(name, text) for name, text in rows.items()]


@contextmanager
def reading_redis(link: RedisLink, keys: LedgerKeys) -> Iterator[RedisTransaction]:
    """Raises LedgerError where there are no readable books."""
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


def _row(name: str, text: bytes) -> Balance:
    scope, start = scope_of(name)
    spent, held = _balance(text)
    return Balance(scope=scope, window_start_ms=start, spent_nano=spent, held_nano=held)


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
