"""Several processes on one stage: over the same books, the same clock and the same provider."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from tests.fakes import MemoryBooks, MemoryLedger, VirtualClock
from tests.scenario.stage import Stage, model, open_stage
from theo_daemon.config import Config, LedgerConfig, RoutingConfig
from theo_workers.errors import AuthenticationFailed, ProviderUnavailable, RateLimited
from theo_workers.standing import Unavailable
from theo_workers.upstreams.script import Fate

DOWN = ProviderUnavailable("boom", status_code=500)
LIMITED = RateLimited("slow down", status_code=429, retry_after_s=20.0)
REFUSED = AuthenticationFailed("bad key", status_code=401)


class Provider:
    """What all processes call: `fate` decides, and every call is written down."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock, self._start = clock, clock.monotonic()
        self.fate: Fate | BaseException = Fate(text="hello")
        self.calls: list[tuple[str, float]] = []  # who called, and after how many seconds

    def called(self, name: str) -> Fate | BaseException:
        self.calls.append((name, round(self._clock.monotonic() - self._start, 3)))
        return self.fate


class Fleet:
    """Processes over the same books, clock and provider."""

    def __init__(self, stack: contextlib.AsyncExitStack, *, max_attempts: int = 4, **options: Any) -> None:
        self._stack, self.options = stack, options
        self._routing = RoutingConfig(default="fast", max_attempts=max_attempts)
        self.clock, self.books = VirtualClock(), MemoryBooks()
        self.provider = Provider(self.clock)

    async def start(self, name: str, *, lag: Callable[[], float] = lambda: 0.0, **options: Any) -> Stage:
        """`lag`: what its commits take, in seconds."""
        fast = model("fast", **{**self.options, **options})
        config = Config(routing=self._routing, models=(fast,), ledger=LedgerConfig(url=Path("unused.db")))
        ledger = MemoryLedger(self.books, clock=self.clock, name=name, lag=lag)
        stage = Stage(config, clock=self.clock, seed=len(name), ledger=ledger)
        stage.upstreams["fast"].fate_for = lambda _: self.provider.called(name)
        await self._stack.enter_async_context(open_stage(stage))
        return stage

    async def stop(self) -> None:
        """All processes end cleanly; the books stay."""
        await self._stack.aclose()


@contextlib.asynccontextmanager
async def fleet(**options: Any) -> AsyncIterator[Fleet]:
    async with contextlib.AsyncExitStack() as stack:
        found = Fleet(stack, **options)
        yield found
        await found.stop()
    found.books.close()


def standing(stage: Stage) -> object:
    return stage.core.fleet["fast"].worker.availability(stage.clock.monotonic())


def reason(stage: Stage) -> str | None:
    found = standing(stage)
    return found.reason if isinstance(found, Unavailable) else None


def events(*stages: Stage) -> list[str]:
    return sorted(event for stage in stages for _, event in stage.observer.transitions)


async def broken(found: Fleet, stage: Stage) -> None:
    """The first opening, by one process alone."""
    found.provider.fate = DOWN
    stage.push("x", on_unknown="fail")
    while not events(stage):
        await stage.advance(0.5)
