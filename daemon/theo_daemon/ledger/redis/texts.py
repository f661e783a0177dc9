"""Large texts as they lie in Redis, in pieces: what reads a connection keeps room for the longest value it ever met."""

from __future__ import annotations

import random
from typing import Final

from redis.exceptions import NoPermissionError, RedisError

from theo_daemon.backoff import delay_s
from theo_daemon.ledger.large_reads import Place
from theo_daemon.ledger.redis.keys import LedgerKeys
from theo_daemon.ledger.redis.scripts import TEXTS
from theo_daemon.redis_link import RedisLink
from theo_workers.clock import Clock, sleep
from theo_workers.errors import LedgerError

READ_S: Final = 30.0
_STEP_BYTES: Final = 1_048_576


class Texts:
    """Over a connection of their own, which is made with the first."""

    def __init__(self, link: RedisLink, keys: LedgerKeys, clock: Clock, rng: random.Random) -> None:
        self.wire = link.wire(timeout_s=READ_S)
        self._key, self._clock, self._rng = keys.base, clock, rng

    async def read(self, place: Place) -> bytes | None:
        """See `large_reads.Read`. Raises LedgerError where Redis does not allow it."""
        kind, (name,), _ = place.read()
        try:
            pieces: list[bytes] = await self.wire.run(TEXTS, (self._key,), (kind, name, _STEP_BYTES))
        except NoPermissionError as error:
            raise LedgerError(f"the ledger's large texts cannot be read: {error}") from error
        except RedisError:  # it is away; whoever asks again waits until it is back
            await self.wire.close()
            await sleep(self._clock, delay_s(1, self._rng.random()))
            return None
        return _without_head(kind, pieces)


def _without_head(kind: str, pieces: list[bytes]) -> bytes | None:
    """`lua/memory.lua` explains what stands before a text. None: there is none."""
    if not pieces or (kind == "id" and pieces[0][:1] != b"d"):
        return None
    if kind != "outcome":
        pieces[0] = pieces[0].partition(b"\n")[2]
    return b"".join(pieces)
