"""Intake and publisher without Redis: jobs come from this very program, and replies go back to it."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Sequence

from theo_daemon.job import EntryRef, Envelope, JobOutcome, Word
from theo_daemon.ports import DeadLetter, Finish

STREAM = "local"


class LocalReplies:
    """Keeps a future per job; implements the ports Publisher and Holds."""

    kept_until = math.inf  # nobody else has these entries

    def __init__(self, boot: str) -> None:
        self._stream = f"{STREAM}:{boot}"  # entries of two programs that share a ledger must not meet
        self._numbers = itertools.count()
        self._waiting: dict[EntryRef, asyncio.Future[JobOutcome]] = {}

    def expect(self, now_ms: int) -> tuple[EntryRef, asyncio.Future[JobOutcome]]:
        """A new entry, and where its outcome will appear."""
        ref = EntryRef(self._stream, f"{now_ms}-{next(self._numbers)}")
        future: asyncio.Future[JobOutcome] = asyncio.get_running_loop().create_future()
        self._waiting[ref] = future
        return ref, future

    def finish(
        self,
        envelope: Envelope,
        outcome: JobOutcome,
        *,
        queued_ms: int,  # noqa: ARG002 - the port's face; a caller in the same program can see how long it waited
        dead: DeadLetter | None = None,  # noqa: ARG002 - the caller gets the error itself
    ) -> asyncio.Future[Finish]:
        """Hand the outcome to whoever awaits it."""
        done: asyncio.Future[Finish] = asyncio.get_running_loop().create_future()
        done.set_result(Finish.PUBLISHED)
        waiting = self._waiting.pop(envelope.ref, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(outcome)
        return done

    def delta(self, envelope: Envelope, *, attempt: int, seq: int, text: Word) -> None:
        """The library face returns whole answers."""

    async def answered(self, ref: EntryRef) -> bool:  # noqa: ARG002 - nobody else has it
        """Not by anybody else."""
        return False

    async def vanished(self, ref: EntryRef) -> bool:  # noqa: ARG002 - it may be another program's
        """Nobody can tell."""
        return False

    async def unusable(self, reply_tos: Sequence[str]) -> frozenset[str]:  # noqa: ARG002 - there are none
        """Nothing is published by name."""
        return frozenset()

    async def kept(self) -> None:
        """They always are."""

    def fail(self, error: Exception) -> None:
        """Nothing can be answered any more."""
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(error)
        self._waiting.clear()

    def release(self, ref: EntryRef) -> None:
        """The entry is finished, or nobody will finish it any more."""
        waiting = self._waiting.pop(ref, None)
        if waiting is not None and not waiting.done():
            waiting.cancel()
