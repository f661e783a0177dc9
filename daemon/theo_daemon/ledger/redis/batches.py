"""Group commits into Redis: what is posted while one batch is under way goes with the next, as one script call.

A batch is repeated until it is known to be done, whatever becomes of the connection: its token lets the script find
its own work. So there is one batch under way at a time, and everything keeps its order.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from redis.exceptions import RedisError, ResponseError

from theo_daemon.backoff import delay_s
from theo_daemon.ledger.operations import Operation, ends_call
from theo_daemon.ledger.port import Orphaned
from theo_daemon.ledger.records import Granted, Landing, News, Verdict
from theo_daemon.ledger.redis.keys import Keeping, LedgerKeys
from theo_daemon.ledger.redis.lease import Lease, buried
from theo_daemon.ledger.redis.packing import Packer
from theo_daemon.ledger.redis.scripts import COMMIT
from theo_daemon.ledger.redis.told import Buried, Told, read_told
from theo_daemon.redis_link import error_code
from theo_daemon.wire import Wire, Word
from theo_workers.clock import Clock, sleep
from theo_workers.errors import LedgerError

MAX_BATCH: Final = 128  # operations: about a millisecond of the server's time
MAX_ENDS: Final = 512  # jobs that end with one batch, where many shared an answer
STOP_S: Final = 15.0

_FATAL = frozenset(("ERR", "WRONGTYPE", "CROSSSLOT"))
_PASSES = "non local key"  # the slot is on its way to another node of the cluster

Waiting = tuple[Operation, "asyncio.Future[Verdict | None] | None", Orphaned | None]


class Batches:
    """`run` must be running for anything to be recorded. An operation is answered only when it is in Redis."""

    size = wal_size = 0  # it has no file
    busy_with = 0  # a call that hangs ends by its time-out, and is trouble then

    def __init__(
        self,
        wire: Wire,
        keys: LedgerKeys,
        *,
        name: str,
        keeping: Keeping,
        lease: Lease,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        """`wire` is for batches alone."""
        self.wire, self._key, self._lease = wire, keys.base, lease
        self._name, self._settings = name, keeping.packed()
        self._clock, self._rng = clock, rng
        self._packer = Packer()
        self._owner = 0
        self._tokens = itertools.count(1)
        self._gathered: deque[Waiting] = deque()
        self._work = asyncio.Event()
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._calls_posted = self._calls_recorded = 0  # ended ones
        self._refused: str | None = None  # why the last batch had to wait
        self._silent: str | None = None  # why the lease is not renewed
        self.crashed: asyncio.Future[None] | None = None
        self.warnings: list[str] = []
        self.on_trouble: Callable[[], None] = _nobody_looks
        self.on_commit: Callable[[float], None] = _nobody_listens
        self.on_news: Callable[[News], None] = _nobody_listens
        self.on_buried: Callable[[str], None] = _nobody_listens  # hears whom this process buried

    def open(self, owner: int) -> None:
        """This process is registered as `owner`."""
        self._owner, self._loop = owner, asyncio.get_running_loop()
        self.crashed = self._loop.create_future()

    # -- asked by the ledger -------------------------------------------------------------------------

    def post(
        self, operation: Operation, *, answer: bool, orphaned: Orphaned | None = None
    ) -> asyncio.Future[Verdict | None] | None:
        """See `face.Recorder`."""
        assert self._loop is not None
        future = self._loop.create_future() if answer else None
        if not self._gathered:
            self._work.set()
        self._gathered.append((operation, future, orphaned))
        self._calls_posted += ends_call(operation)
        return future

    @property
    def trouble(self) -> str | None:
        return self._refused or self._silent

    @property
    def unrecorded(self) -> int:
        return self._calls_posted - self._calls_recorded

    @property
    def ended_by(self) -> str | None:
        crashed = self.crashed
        return str(crashed.exception()) if crashed is not None and crashed.done() else None

    def note_silence(self, reason: str | None) -> None:
        """Why the lease cannot be renewed; None: it is."""
        self._in_trouble(self._refused, reason)

    def crash(self, error: LedgerError) -> None:
        """Nothing may be recorded any more."""
        if self.crashed is not None and not self.crashed.done():
            self.crashed.set_exception(error)
        self._work.set()

    # -- recording -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Record until `stop` was called and nothing is left, or it crashed."""
        assert self.crashed is not None
        while not self.crashed.done():
            if not self._gathered:
                if self._stopping:
                    return
                self._work.clear()
                await self._work.wait()
                continue
            await self._record(self._next_batch())
        await self._say_last_words()

    async def stop(self, running: asyncio.Task[None]) -> None:
        """Record what is left, in a bounded time: see `unrecorded`."""
        self._stopping = True
        self._work.set()
        await asyncio.wait((running,), timeout=STOP_S)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running

    def _next_batch(self) -> list[Waiting]:
        gathered, ends = self._gathered, 0
        batch: list[Waiting] = []
        while gathered and len(batch) < MAX_BATCH:
            operation = gathered[0][0]
            if isinstance(operation, Landing):
                ends += len(operation.ends)
                if batch and ends > MAX_ENDS:
                    break
            batch.append(gathered.popleft())
        return batch

    async def _record(self, batch: list[Waiting]) -> None:
        """Try until it is known to be done; unless the process must end."""
        operations = [waiting[0] for waiting in batch]
        args = self._args(operations)
        started, failures = self._clock.monotonic(), 0
        while (told := await self._try(args, operations, failures)) is None:
            assert self.crashed is not None
            if self.crashed.done():
                self._gathered.extendleft(reversed(batch))
                return
            failures += 1
            await sleep(self._clock, delay_s(failures, self._rng.random()))
        self.on_commit(self._clock.monotonic() - started)
        self._in_trouble(None, self._silent)
        self._calls_recorded += sum(map(ends_call, operations))
        for news in told.news:
            self.on_news(news)
        # Were we away since the claim? Others may have taken us for dead, and be about to make these calls.
        sends = not self._lease.valid and any(isinstance(verdict, Granted) for verdict in told.verdicts)
        if not sends or await self._lease.confirmed():
            self._resolve(batch, told.verdicts)

    async def _try(self, args: Sequence[Word], operations: Sequence[Operation], failures: int) -> Told | None:
        """None: it is not known to be done. It crashed, or it has to be repeated."""
        try:
            reply = await self.wire.run(COMMIT, (self._key,), args)
        except RedisError as error:
            reason = error_code(error)
            if isinstance(error, ResponseError) and reason in _FATAL and _PASSES not in str(error):
                self.crash(LedgerError(f"the ledger's script failed in Redis: {error}. {_SEEK_HELP}"))
                return None
            if failures:  # the first may be a connection that went while nobody used it
                self._in_trouble(f"Redis does not record it: {reason}", self._silent)
            await self.wire.close()  # after a failover the next connection finds the new primary
            return None
        told = read_told(reply, operations)
        if told is None:
            self.crash(buried(self._lease.lease_s))
        return told

    async def _say_last_words(self) -> None:
        """It crashed. How calls ended is told once more: even of the buried the script takes what they cost."""
        ends = [one for one, _, _ in self._gathered if isinstance(one, Landing) and one.settled is not None]
        for start in range(0, len(ends), MAX_BATCH):
            some = ends[start : start + MAX_BATCH]
            with contextlib.suppress(RedisError):  # then they stay charged at their bound
                await self.wire.run(COMMIT, (self._key,), self._args(some))
                self._calls_recorded += sum(map(ends_call, some))

    def _args(self, operations: Sequence[Operation]) -> tuple[Word, ...]:
        token = next(self._tokens)
        return (self._owner, self._name, token, "", self._settings, *self._packer.pack(operations))

    def _resolve(self, batch: list[Waiting], verdicts: Sequence[Verdict | Buried | None]) -> None:
        for (_, future, orphaned), verdict in zip(batch, verdicts, strict=True):
            if isinstance(verdict, Buried):
                self.on_buried(verdict.name)
            elif future is None:
                continue
            elif not future.done():
                future.set_result(verdict)
            elif orphaned is not None:
                orphaned(verdict)

    def _in_trouble(self, refused: str | None, silent: str | None) -> None:
        before = self.trouble
        self._refused, self._silent = refused, silent
        if (before is None) != (self.trouble is None):
            self.on_trouble()


_SEEK_HELP = (
    "Either a key under the ledger's name holds something else, or the user may not run the commands it needs. "
    "Nothing can be recorded any more, so this process ends; its jobs stay in Redis."
)


def _nobody_looks() -> None:
    """Stands in until the owner sets `on_trouble`."""


def _nobody_listens(_told: object) -> None:
    """Stands in until the owner sets `on_commit`, `on_news` or `on_buried`."""
