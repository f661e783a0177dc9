"""Batches of one owner as calls of the commit script, each repeated until it is known to be done.

A batch comes again under its token, by which the script finds its own work: so nothing is done twice, whatever becomes
of connections and answers, and one batch at a time is under way.
"""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Callable, Sequence
from typing import Final

from redis.exceptions import RedisError, ResponseError

from theo_daemon.backoff import delay_s
from theo_daemon.ledger.redis.journal import Journal, Recorded
from theo_daemon.ledger.redis.keys import Keeping, LedgerKeys
from theo_daemon.ledger.redis.lease import buried
from theo_daemon.ledger.redis.packing import Packer
from theo_daemon.ledger.redis.scripts import COMMIT
from theo_daemon.ledger.redis.told import Behind, Told, read_told
from theo_daemon.redis_link import error_code
from theo_daemon.wire import Wire, Word
from theo_workers.clock import Clock, sleep
from theo_workers.errors import LedgerError

_FATAL: Final = frozenset(("ERR", "WRONGTYPE", "CROSSSLOT"))
_PASSES: Final = "non local key"  # the slot is on its way to another node of the cluster


class Commits:
    """Over a connection of their own. Raises LedgerError when the process must end: see `commit`."""

    def __init__(
        self, wire: Wire, keys: LedgerKeys, *, name: str, lease_s: float, keeping: Keeping, clock: Clock,
        rng: random.Random,
    ) -> None:  # fmt: skip
        self.wire, self._key, self._name, self._lease_s = wire, keys.base, name, lease_s
        self._settings, self._packer = keeping.packed(), Packer()
        self._clock, self._rng = clock, rng
        self.owner = 0
        self._tokens = itertools.count(1)
        self.last = 0  # the token of the last batch that changed anything
        self._journal = Journal(clock)
        self.end: LedgerError | None = None  # why nothing must be repeated any more
        self.on_refused: Callable[[str], None] = _nobody_listens  # hears why a batch has to wait
        self.on_restored: Callable[[int], None] = _nobody_listens  # hears how many batches were told again

    async def commit(self, operations: Sequence[Recorded]) -> Told:
        """What Redis says, once it has done it.

        Raises LedgerError when this process was buried, when Redis lost more than is remembered here, or when the
        script fails in a way that does not pass.
        """
        token, failures = next(self._tokens), 0
        args = self._args(token, operations)
        while True:
            if self.end is not None:
                raise self.end
            try:
                told = read_told(await self.wire.run(COMMIT, (self._key,), args), operations)
            except RedisError as error:
                failures += 1
                await self._wait(error, failures)
                continue
            if isinstance(told, Told):
                self._note(token, operations, told)
                return told
            if not isinstance(told, Behind):
                raise buried(self._lease_s)
            await self._tell_again(told.token)
            token = next(self._tokens)
            args = self._args(token, operations)

    async def say(self, operations: Sequence[Recorded]) -> bool:
        """Try once, whatever comes of it; did it arrive?"""
        with contextlib.suppress(RedisError):
            await self.wire.run(COMMIT, (self._key,), self._args(next(self._tokens), operations))
            return True
        return False

    def _args(self, token: int, operations: Sequence[Recorded]) -> tuple[Word, ...]:
        return (self.owner, self._name, token, self.last, "", self._settings, *self._packer.pack(operations))

    def _note(self, token: int, operations: Sequence[Recorded], told: Told) -> None:
        if told.changed:
            self.last = token
            self._journal.add(token, operations, told.verdicts)

    async def _wait(self, error: RedisError, failures: int) -> None:
        """Until it is worth trying again. Raises LedgerError when it never will be."""
        code = error_code(error)
        if isinstance(error, ResponseError) and code in _FATAL and _PASSES not in str(error):
            raise LedgerError(f"the ledger's script failed in Redis: {error}. {_SEEK_HELP}") from error
        if failures > 1:  # the first may be a connection that went while nobody used it
            self.on_refused(code)
        await self.wire.close()  # after a failover the next connection finds the new primary
        await sleep(self._clock, delay_s(failures, self._rng.random()))

    async def _tell_again(self, known: int) -> None:
        """Of what was recorded Redis knows nothing after the batch `known`."""
        lost = self._journal.take_since(known)
        if lost is None:
            raise LedgerError(
                "Redis has lost more of the ledger than the last seconds: it restarted from old data, or failed over "
                f"to a replica that was far behind. {_ENDS}"
            )
        self.last = known
        for operations in lost:
            await self.commit(operations)
        self.on_restored(len(lost))


_ENDS: Final = (
    "This process ends, so that others book its calls; start it again. Its jobs are where Redis has them."
)
_SEEK_HELP: Final = (
    "Either a key under the ledger's name holds something else, or the user may not run the commands it needs. "
    "Nothing can be recorded any more, so this process ends; its jobs stay in Redis."
)


def _nobody_listens(_told: object) -> None:
    """Stands in until the owner sets `on_refused` and `on_restored`."""
