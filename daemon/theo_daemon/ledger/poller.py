"""Waiting for what other processes do with the ledger: looked at again and again, oftener while somebody waits."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from theo_daemon.ledger.port import Token
from theo_daemon.ledger.shared import SharedStanding
from theo_workers.clock import Clock, sleep

POLL_S = 0.05  # while somebody waits
REST_POLL_S = 0.15  # and while nobody does: what other processes learn of a model is known here in time


class Poller(ABC):
    """One per process. What is looked at is the ledger's own matter; who waits is not, nor when the next look is."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._on_death: Callable[[str], None] | None = None
        self._mourned: list[str] = []  # dead of whom nobody has heard yet
        # Hears the standings of all models after other processes wrote to the ledger.
        self.on_standings: Callable[[Sequence[SharedStanding]], None] = _nobody_listens
        self._waiting: dict[Token, list[asyncio.Future[None]]] = {}
        self._rest: asyncio.Future[None] | None = None
        # Though nothing seems to have changed: somebody new waits, or the last look failed.
        self._look_again = True

    def wait(self, token: Token) -> asyncio.Future[None]:
        """Resolves when it is worth asking the ledger again. Cancel it freely."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(token, []).append(future)
        self._look_again = True  # what happened before this moment counts as news
        if self._rest is not None and not self._rest.done():
            self._rest.set_result(None)
        return future

    def listen(self, on_death: Callable[[str], None]) -> None:
        """`on_death` hears the name of each process once it is buried, also of those buried before this call.

        A process looks for the dead as soon as it has the ledger, before it can take anything over.
        """
        self._on_death = on_death
        while self._mourned:
            on_death(self._mourned.pop(0))

    def tell_of(self, dead: str) -> None:
        """This process is buried."""
        if self._on_death is None:
            self._mourned.append(dead)
        else:
            self._on_death(dead)

    @property
    def busy(self) -> bool:
        """Does anybody wait?"""
        return bool(self._waiting)

    def look_again(self, _landed: object = None) -> None:
        """This process wrote what somebody may wait for, or could not look."""
        self._look_again = True

    async def run(self) -> None:
        """Poll for ever; cancel to stop."""
        while True:
            self._forget_who_left()
            afresh, self._look_again = (
                self._look_again,
                False,
            )  # set again by whoever begins to wait from here on
            await self._look(list(self._waiting), afresh=afresh)
            if self._waiting:
                await sleep(self._clock, POLL_S)
                continue
            self._rest = asyncio.get_running_loop().create_future()
            self._clock.call_at(self._clock.monotonic() + REST_POLL_S, self._rest)
            await self._rest

    @abstractmethod
    async def _look(self, tokens: Sequence[Token], *, afresh: bool) -> None:
        """Tell the news, and wake who waits for a token that is free. `afresh`: whatever has been seen already.

        Handles its own faults, by `look_again`.
        """

    def _wake(self, token: Token) -> None:
        for future in self._waiting.pop(token, []):
            if not future.done():
                future.set_result(None)

    def _forget_who_left(self) -> None:
        for token, futures in list(self._waiting.items()):
            if all(future.done() for future in futures):
                del self._waiting[token]


def _nobody_listens(_news: object) -> None:
    """Stands in until the owner sets `on_standings`."""
