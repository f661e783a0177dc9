"""Group commits into Redis: what is posted while one batch is under way goes with the next, as one script call."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from theo_daemon.ledger.large_reads import LargeReads, Read, place_in
from theo_daemon.ledger.operations import Operation, ends_call
from theo_daemon.ledger.port import Orphaned
from theo_daemon.ledger.records import Granted, Hit, Landing, News, Replay, Verdict
from theo_daemon.ledger.redis.commits import Commits
from theo_daemon.ledger.redis.lease import Lease
from theo_daemon.ledger.redis.told import Buried
from theo_workers.clock import Clock
from theo_workers.errors import LedgerError

MAX_BATCH: Final = 128  # operations: about a millisecond of the server's time
MAX_ENDS: Final = 512  # jobs that end with one batch, where many shared an answer
STOP_S: Final = 15.0

Waiting = tuple[Operation, "asyncio.Future[Verdict | None] | None", Orphaned | None]


class Batches:
    """`run` must be running for anything to be recorded. An operation is answered only when it is in Redis."""

    size = wal_size = 0  # it has no file
    busy_with = 0  # a call that hangs ends by its time-out, and is trouble then

    def __init__(self, commits: Commits, lease: Lease, clock: Clock, read: Read) -> None:
        """`read` brings large texts."""
        self._commits, self._lease, self._clock = commits, lease, clock
        self.large = LargeReads(read, partial(self.post, answer=True))
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
        commits.on_refused = self._note_refusal

    def open(self, owner: int) -> None:
        """This process is registered as `owner`."""
        self._commits.owner, self._loop = owner, asyncio.get_running_loop()
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
        self._commits.end = error
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
        await self.large.close()
        self._stopping = True
        self._work.set()
        await asyncio.wait((running,), timeout=STOP_S)
        if running.cancel():
            with contextlib.suppress(asyncio.CancelledError):
                await running

    def note_end(self, running: asyncio.Task[None]) -> None:
        """`run` is over. If by a fault that nobody foresaw, the process must not go on."""
        error = None if running.cancelled() else running.exception()
        if error is not None:
            crash = LedgerError(f"the ledger's recorder ended: {type(error).__name__}: {error}")
            crash.__cause__ = error
            self.crash(crash)

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
        operations = [waiting[0] for waiting in batch]
        started = self._clock.monotonic()
        try:
            told = await self._commits.commit(operations)
        except LedgerError as error:
            self._gathered.extendleft(reversed(batch))
            self.crash(error)
            return
        self.on_commit(self._clock.monotonic() - started)
        self._in_trouble(None, self._silent)
        self._calls_recorded += sum(map(ends_call, operations))
        for news in told.news:
            self.on_news(news)
        # Were we away since the claim? Others may have taken us for dead, and be about to make these calls.
        sends = not self._lease.valid and any(isinstance(verdict, Granted) for verdict in told.verdicts)
        if not sends or await self._lease.confirmed():
            self._resolve(batch, told.verdicts)

    async def _say_last_words(self) -> None:
        """It crashed. How calls ended is told once more: even of the buried the script takes what they cost."""
        ends = [one for one, _, _ in self._gathered if isinstance(one, Landing) and one.settled is not None]
        for start in range(0, len(ends), MAX_BATCH):
            some = ends[start : start + MAX_BATCH]
            if await self._commits.say(some):  # if not, they stay charged at their bound
                self._calls_recorded += sum(map(ends_call, some))

    def _resolve(self, batch: list[Waiting], verdicts: Sequence[Verdict | Buried | None]) -> None:
        for (operation, future, orphaned), verdict in zip(batch, verdicts, strict=True):
            if isinstance(verdict, Buried):
                self.on_buried(verdict.name)
            elif future is None:
                continue
            elif future.done():
                if orphaned is not None:
                    orphaned(verdict)
            elif isinstance(verdict, Hit | Replay) and place_in(verdict) is not None:
                self.large.bring(verdict, (operation, future, orphaned))
            else:
                future.set_result(verdict)

    # -- trouble -------------------------------------------------------------------------------------

    def _note_refusal(self, code: str) -> None:
        self._in_trouble(f"Redis does not record it: {code}", self._silent)

    def _in_trouble(self, refused: str | None, silent: str | None) -> None:
        before = self.trouble
        self._refused, self._silent = refused, silent
        if (before is None) != (self.trouble is None):
            self.on_trouble()


def _nobody_looks() -> None:
    """Stands in until the owner sets `on_trouble`."""


def _nobody_listens(_told: object) -> None:
    """Stands in until the owner sets `on_commit`, `on_news` or `on_buried`."""
