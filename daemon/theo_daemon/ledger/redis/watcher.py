"""Looking for what other processes do with the ledger: keys and ids that are free, standings that changed.

Two counters are asked for, one command each time, and more only when one has moved. A message to all (pub/sub) would be
faster by some milliseconds, but every process would read every landing of every other; and one that is lost with its
connection would have to be looked for all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from redis.exceptions import RedisError, ResponseError

from theo_daemon.ledger.port import OnId, OnKey, Token
from theo_daemon.ledger.redis.keys import LedgerKeys
from theo_daemon.ledger.redis.told import read_standing
from theo_daemon.ledger.shared import SharedStanding
from theo_daemon.wire import Wire, Word
from theo_workers.clock import Clock, sleep

POLL_S: Final = 0.05  # while somebody waits
REST_POLL_S: Final = (
    0.15  # and while nobody does: what other processes learn of a model is known here in time
)
AWAY_S: Final = 0.5  # while Redis does not answer, which others report

_decode_row = msgspec.msgpack.Decoder(dict[str, Any]).decode


class Watcher:
    """One poller per process, unhurried while nobody waits. See `face.Watching`."""

    def __init__(self, wire: Wire, keys: LedgerKeys, clock: Clock) -> None:
        self.wire, self._keys, self._clock = wire, keys, clock
        self.on_death: Callable[[str], None] = _nobody_listens
        self.on_standings: Callable[[Sequence[SharedStanding]], None] = _nobody_listens
        self._waiting: dict[Token, list[asyncio.Future[None]]] = {}
        self._rest: asyncio.Future[None] | None = None
        self._released = self._changed = b""
        self._look_again = True  # whatever the counters say: somebody new waits

    def wait(self, token: Token) -> asyncio.Future[None]:
        """Resolves when it is worth asking the ledger again. Cancel it freely."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(token, []).append(future)
        self._look_again = True  # what happened before this moment counts as news
        if self._rest is not None and not self._rest.done():
            self._rest.set_result(None)
        return future

    @property
    def busy(self) -> bool:
        return bool(self._waiting)

    def look_again(self, _landed: object = None) -> None:
        self._look_again = True

    async def run(self) -> None:
        """Poll for ever; cancel to stop."""
        while True:
            try:
                await self._poll()
            except RedisError:
                self._look_again = True
                await self.wire.close()
                await sleep(self._clock, AWAY_S)
                continue
            if self._waiting:
                await sleep(self._clock, POLL_S)
                continue
            self._rest = asyncio.get_running_loop().create_future()
            self._clock.call_at(self._clock.monotonic() + REST_POLL_S, self._rest)
            await self._rest

    async def _poll(self) -> None:
        for token, futures in list(self._waiting.items()):
            if all(future.done() for future in futures):
                del self._waiting[token]
        tokens, look = list(self._waiting), self._look_again
        self._look_again = False  # set again by whoever begins to wait from here on
        released, changed = await self.wire.ask("HMGET", self._keys.base, "released", "changed")
        if changed != self._changed:
            rows = await self.wire.ask("HGETALL", self._keys.standings)
            self._changed = changed
            self.on_standings(standings_of(rows))
        if tokens and (look or released != self._released):
            await self._free(tokens)
        self._released = released

    async def _free(self, tokens: Sequence[Token]) -> None:
        """Wake those who wait for what nobody holds any more."""
        held = await self.wire.ask_all([self._question(token) for token in tokens])
        for token, answer in zip(tokens, held, strict=True):
            if isinstance(answer, ResponseError):
                raise answer
            if answer not in {1, b"r"}:
                for future in self._waiting.pop(token, []):
                    if not future.done():
                        future.set_result(None)

    def _question(self, token: Token) -> tuple[Word, ...]:
        """Answered by 1, or by the mark of an id whose job runs, while the token is held."""
        match token:
            case OnKey(key):
                return "HEXISTS", self._keys.flights, key
            case OnId(tenant, client_id):
                return "GETRANGE", self._keys.id(tenant, client_id), 0, 0


def standings_of(words: Sequence[bytes]) -> list[SharedStanding]:
    """The fields and values of the hash of standings."""
    return [
        read_standing({"model": words[at].decode(), **_decode_row(words[at + 1])})
        for at in range(0, len(words), 2)
    ]


def _nobody_listens(_news: object) -> None:
    """Stands in until the owner sets `on_death` and `on_standings`."""
