"""Large texts are read when there is room for them, one by one: a batch names their places, and they are brought here.

Whoever gets such a verdict holds a share of the room that answers on their way from providers are in, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
from msgspec.structs import replace

from theo_daemon.ledger.operations import Operation
from theo_daemon.ledger.port import Orphaned
from theo_daemon.ledger.records import Hit, Replay, Verdict
from theo_workers.errors import LedgerError
from theo_workers.upstreams.room import Loan, Room, Share

LARGE_BYTES: Final = 262_144  # above this a batch names the place of a text

Asked = tuple[Operation, "asyncio.Future[Verdict | None]", Orphaned | None]
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(tuple[str, list[str], int]).decode


class Place(bytes):
    """Stands for a large text until that is brought: where its kind lies, its key there and its size, as JSON."""

    __slots__ = ()

    @classmethod
    def of(cls, where: str, key: tuple[str, ...], size: int) -> Place:
        return cls(_encode((where, key, size)))

    def read(self) -> tuple[str, list[str], int]:
        """What it was made of."""
        return _decode(self)


Read = Callable[[Place], Awaitable[bytes | None]]
"""Brings a text; None: it is not there (any more), or cannot be had just now, so that the ask has to be repeated."""


class LargeReads:
    """`ask_again` posts an operation."""

    def __init__(
        self, read: Read, ask_again: Callable[[Operation], asyncio.Future[Verdict | None] | None]
    ) -> None:
        self._read, self._ask_again = read, ask_again
        self.room = Room()  # until its owner shares another
        self._tasks: set[asyncio.Task[None]] = set()

    def bring(self, verdict: Verdict, waiting: Asked) -> None:
        """Resolve the future with the verdict and its text."""
        task = asyncio.get_running_loop().create_task(self._bring(verdict, *waiting))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Nobody waits any more."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _bring(
        self, verdict: Verdict, operation: Operation, future: asyncio.Future[Verdict | None],
        orphaned: Orphaned | None,
    ) -> None:  # fmt: skip
        whole: Verdict | None = None
        try:
            while not future.done():
                place = place_in(verdict)
                whole = verdict if place is None else await self._with_text(verdict, place)
                if whole is not None:
                    break
                again = self._ask_again(operation)  # it is gone meanwhile
                told = None if again is None else await again
                assert told is not None
                verdict = told
        except LedgerError as error:
            if not future.done():
                future.set_exception(error)
            return
        if not future.done():
            future.set_result(whole)
        elif orphaned is not None:
            orphaned(verdict)

    async def _with_text(self, verdict: Verdict, place: Place) -> Verdict | None:
        share, (_, _, size) = Share(self.room), place.read()
        there: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            if not share.grow(size, lambda: None if there.done() else there.set_result(None)):
                await there
            text = await self._read(place)
        except BaseException:
            share.let_go()
            raise
        match verdict:
            case Hit() if text is not None:
                return replace(verdict, answer=text, held=Loan(share))
            case Replay() if text is not None:
                return replace(verdict, outcome=text, held=Loan(share))
        share.let_go()
        return None


def place_in(verdict: Verdict | None) -> Place | None:
    """Of the text that is still to be brought."""
    match verdict:
        case Hit(answer=Place() as place) | Replay(outcome=Place() as place):
            return place
    return None
