"""What every ledger shows the router, over two parts: one that records, and one that watches other processes."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any, Protocol

from theo_daemon.job import EntryRef
from theo_daemon.ledger.condition import Condition, Health, Tidings
from theo_daemon.ledger.operations import Operation
from theo_daemon.ledger.poller import Poller
from theo_daemon.ledger.port import InflightTimeout, OnKey, Orphaned, Token
from theo_daemon.ledger.records import Ask, Check, Forget, Landing, News, Verdict
from theo_daemon.ledger.shared import Change, FailureCounted, HealthReport, SharedStanding
from theo_workers.clock import Clock, sleep, timeout_at
from theo_workers.errors import LedgerError
from theo_workers.upstreams.room import Room

FORGET_AFTER_S = 0.5
FORGET_BATCH = 64


def process_name() -> str:
    """A name for this boot of this process: host, pid, and what no other boot has."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


class Recorder(Health, Protocol):
    """Records operations in the order in which they are posted, many with one commit."""

    crashed: asyncio.Future[None] | None  # set once it is open
    warnings: list[str]
    on_commit: Callable[[float], None]
    on_news: Callable[[News], None]

    def post(
        self, operation: Operation, *, answer: bool, orphaned: Orphaned | None = None
    ) -> asyncio.Future[Verdict | None] | None:
        """Queue an operation for the next commit; the future resolves once it is durable.

        The operation is carried out even if its future is cancelled: `orphaned` gets the answer then.
        """


class LedgerFace(ABC):
    """Claims, landings and waits for the dispatcher. `name` is this process's, unique to its boot."""

    def __init__(self, name: str, clock: Clock, *, recorder: Recorder, watcher: Poller) -> None:
        self.name, self.uuid, self._clock = name, "", clock
        self._recorder, self._watch = recorder, watcher
        self._condition = Condition(recorder, clock)
        self._forgotten: list[EntryRef] = []
        self._counted: list[tuple[FailureCounted, asyncio.Future[Verdict | None]]] = []
        self._owner = 0
        self._attempts = itertools.count()

    @abstractmethod
    def share_room(self, room: Room) -> None:
        """See `port.Ledger`."""

    # -- for jobs ------------------------------------------------------------------------------------

    def ask(self, ask: Ask | Check, orphaned: Orphaned | None = None) -> asyncio.Future[Verdict | None]:
        """See `port.Claims`, here and below."""
        if self._counted:
            self._post_counted()
        future = self._recorder.post(ask, answer=True, orphaned=orphaned)
        assert future is not None
        return future

    def land(self, landing: Landing) -> asyncio.Future[Verdict | None]:
        if self._counted:
            self._post_counted()
        future = self._recorder.post(landing, answer=True)
        assert future is not None
        if self._watch.busy:
            future.add_done_callback(self._watch.look_again)
        return future

    def tell(self, landing: Landing) -> None:
        if self._watch.busy or self._counted:
            self.land(landing)
        else:
            self._recorder.post(landing, answer=False)

    def forget(self, ref: EntryRef) -> None:
        if not self._forgotten:
            rung: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            rung.add_done_callback(lambda _: self._flush_forgotten())
            self._clock.call_at(self._clock.monotonic() + FORGET_AFTER_S, rung)
        self._forgotten.append(ref)
        if len(self._forgotten) >= FORGET_BATCH:
            self._flush_forgotten()

    def wait(self, token: Token) -> asyncio.Future[None]:
        return self._watch.wait(token)

    def next_attempt_id(self) -> int:
        return self._owner << 40 | next(self._attempts)

    def _flush_forgotten(self) -> None:
        if self._forgotten:
            self._recorder.post(Forget(tuple(self._forgotten)), answer=False)
            self._forgotten = []

    # -- for the models ------------------------------------------------------------------------------

    @property
    def owner(self) -> int:
        return self._owner

    def change(self, change: Change) -> asyncio.Future[Verdict | None]:
        if isinstance(change, FailureCounted):
            # No commit of its own: the end of the call that failed follows at once, and goes on record with it.
            counted: asyncio.Future[Verdict | None] = asyncio.get_running_loop().create_future()
            self._counted.append((change, counted))
            return counted
        future = self._recorder.post(change, answer=True)
        assert future is not None
        return future

    def _post_counted(self) -> None:
        counted, self._counted = self._counted, []
        for change, future in counted:
            posted = self._recorder.post(change, answer=True)
            assert posted is not None
            posted.add_done_callback(partial(_hand_on, future))

    def report_health(self, reports: Sequence[HealthReport]) -> None:
        for report in reports:
            self._recorder.post(report, answer=False)

    def on_standings(self, told: Callable[[Sequence[SharedStanding]], None]) -> None:
        self._watch.on_standings = told

    # -- how it is -----------------------------------------------------------------------------------

    @property
    def crashed(self) -> asyncio.Future[None]:
        assert self._recorder.crashed is not None
        return self._recorder.crashed

    @property
    def trouble(self) -> str | None:
        return self._condition.trouble

    @property
    def warnings(self) -> Sequence[str]:
        return self._recorder.warnings

    @property
    def size(self) -> int:
        return self._recorder.size

    @property
    def wal_size(self) -> int:
        return self._recorder.wal_size

    def on_death(self, told: Callable[[str], None]) -> None:
        self._watch.listen(told)

    def on_commit(self, told: Callable[[float], None]) -> None:
        self._recorder.on_commit = told

    def on_news(self, told: Callable[[News], None]) -> None:
        self._recorder.on_news = told

    def on_tidings(self, told: Callable[[Tidings], None]) -> None:
        self._condition.on_tidings = told

    def _look_after(self, works: Iterable[Coroutine[Any, Any, None]]) -> list[asyncio.Task[None]]:
        """Run them while it is open. One that fails by a fault that nobody foresaw is a crash of the ledger."""
        tasks = [asyncio.get_running_loop().create_task(work) for work in works]
        for task in tasks:
            task.add_done_callback(self._note_end)
        return tasks

    def _note_end(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not self.crashed.done():
            crash = LedgerError(f"what looks after the ledger ended: {type(error).__name__}: {error}")
            crash.__cause__ = error
            self.crashed.set_exception(crash)

    def _check_recorded(self, error: BaseException | None) -> None:
        """At the end. Raises LedgerError for ended calls that could not be recorded, unless it ends by an error."""
        left = self._condition.at_end()
        if left is not None and error is None:
            raise LedgerError(
                f"{left.calls} ended calls could not be recorded ({left.reason}). They will be charged at their bound, "
                "and their jobs, which stay in Redis, may be sent again."
            )

    # -- for people ----------------------------------------------------------------------------------

    async def wait_for_inflight(self, key: str, timeout_s: float) -> bytes | None:
        """Wait until the generation in flight under `key` has ended, in whichever process it runs.

        Parameters: `key` is the cache key of the job (32 hex digits, see `theo_daemon.key.cache_key`);
        `timeout_s` is how long to wait, in seconds, measured by the ledger's monotonic clock.

        Returns the answer as JSON bytes (`theo_daemon.job.Answer`) when the generation left a fresh one in the
        cache; None when it failed, was not to be cached, or nothing was in flight under `key` at all.

        Raises InflightTimeout (a RouterError and a TimeoutError) when the generation still runs after
        `timeout_s`. Its message names the key's first digits, the status and the last failure on record:
        `Timed out waiting for inflight generation (key: abc123..., status: waiting, elapsed: 30.2s): ...`.
        LedgerError when the ledger cannot be read.

        Behaviour: nothing is claimed and nothing is called; several callers may wait for one key. If the
        process that runs the generation dies, that counts as its end once it is noticed: within about 0.3 s
        on one host, when its lease has run out on another. Cancelling the wait has no effect on the generation.
        """
        started = self._clock.monotonic()
        try:
            async with timeout_at(self._clock, started + timeout_s):
                while await self._in_flight(key):
                    # What this very process lands is not always seen by the watcher, so the wait is cut short.
                    waiting = self.wait(OnKey(key))
                    nap = asyncio.ensure_future(sleep(self._clock, 0.1))
                    done, _ = await asyncio.wait((waiting, nap), return_when=asyncio.FIRST_COMPLETED)
                    for late in {waiting, nap} - done:
                        late.cancel()
        except TimeoutError:
            elapsed = self._clock.monotonic() - started
            last = await self._last_error(key)
            raise InflightTimeout(
                f"Timed out waiting for inflight generation (key: {key[:6]}..., status: waiting, "
                f"elapsed: {elapsed:.1f}s): {last or 'no error was recorded'}"
            ) from None
        return await self._fresh_answer(key)

    @abstractmethod
    async def _in_flight(self, key: str) -> bool:
        """Is a call for this flight key under way?"""

    @abstractmethod
    async def _last_error(self, key: str) -> str | None:
        """The latest failure recorded for this flight key, in words."""

    @abstractmethod
    async def _fresh_answer(self, key: str) -> bytes | None:
        """The fresh answer on record under this cache key, as JSON."""


def _hand_on(future: asyncio.Future[Verdict | None], answer: asyncio.Future[Verdict | None]) -> None:
    if not (future.done() or answer.cancelled()):
        future.set_result(answer.result())
