"""Looking for what other processes do with the ledger: keys and ids that are free, standings that changed.

Two counters are asked for, one command each time, and more only when one has moved. A message to all (pub/sub) would be
faster by some milliseconds, but every process would read every landing of every other; and one that is lost with its
connection would have to be looked for all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from redis.exceptions import RedisError, ResponseError

from theo_daemon.ledger.poller import Poller
from theo_daemon.ledger.port import OnId, OnKey, Token
from theo_daemon.ledger.redis.keys import LedgerKeys
from theo_daemon.ledger.redis.told import read_standing
from theo_daemon.ledger.shared import SharedStanding
from theo_daemon.wire import Wire, Word
from theo_workers.clock import Clock, sleep

AWAY_S = 0.5  # while Redis does not answer, which others report

_decode_row = msgspec.msgpack.Decoder(dict[str, Any]).decode


class Watcher(Poller):
    """How the ledger in Redis is looked at."""

    def __init__(self, wire: Wire, keys: LedgerKeys, clock: Clock) -> None:
        super().__init__(clock)
        self.wire, self._keys = wire, keys
        self._released = self._changed = b""

    async def _look(self, tokens: Sequence[Token], *, afresh: bool) -> None:
        try:
            released, changed = await self.wire.ask("HMGET", self._keys.base, "released", "changed")
            if changed != self._changed:
                rows = await self.wire.ask("HGETALL", self._keys.standings)
                self._changed = changed
                self.on_standings(standings_of(rows))
            if tokens and (afresh or released != self._released):
                await self._free(tokens)
            self._released = released
        except RedisError:
            self.look_again()
            await self.wire.close()
            await sleep(self._clock, AWAY_S)

    async def _free(self, tokens: Sequence[Token]) -> None:
        """Wake those who wait for what nobody holds any more."""
        held = await self.wire.ask_all([self._question(token) for token in tokens])
        for token, answer in zip(tokens, held, strict=True):
            if isinstance(answer, ResponseError):
                raise answer
            if answer not in {1, b"r"}:
                self._wake(token)

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
