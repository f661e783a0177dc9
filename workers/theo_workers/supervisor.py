"""Keeps the actors running: restarts a crashed one, within a budget, and drains them all."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from theo_workers.clock import Clock, timeout_at
from theo_workers.errors import RouterError


class Supervised(Protocol):
    """An actor. `run` may be called again after it has crashed, and goes on with the state it has."""

    @property
    def name(self) -> str:
        """For the operator."""

    async def run(self) -> None:
        """Returns only when drained."""

    def drain(self) -> None:
        """Take no more, finish what is begun, then return from `run`."""


class Crashes(Protocol):
    """Hears of every crash; a worker's Observer will do."""

    def on_defect(self, model: str, error: BaseException) -> None:
        """The actor `model` has crashed and, if the budget allows, runs again."""


class CrashedTooOften(RouterError):
    """An actor crashed more often than its budget of restarts allows; the last crash is the cause."""


class RestartBudget:
    """At most `restarts` within any `within_s` seconds, counted per actor."""

    def __init__(self, *, restarts: int = 5, within_s: float = 60.0) -> None:
        self.restarts, self.within_s = restarts, within_s
        self._spent: dict[str, deque[float]] = {}

    def spend(self, name: str, now: float) -> bool:
        """May `name` be restarted at the monotonic second `now`? If so it is counted."""
        spent = self._spent.setdefault(name, deque())
        while spent and spent[0] <= now - self.within_s:
            spent.popleft()
        if len(spent) >= self.restarts:
            return False
        spent.append(now)
        return True


class Supervisor:
    """Runs `actors`; each has state of its own, so a crash of one leaves the others alone."""

    def __init__(
        self,
        actors: Sequence[Supervised],
        *,
        clock: Clock,
        observer: Crashes,
        budget: RestartBudget | None = None,
    ) -> None:
        self._actors, self._clock, self._observer = actors, clock, observer
        self._budget = RestartBudget() if budget is None else budget
        self._running: dict[asyncio.Task[None], Supervised] = {}

    async def run(self) -> None:
        """Returns when all actors are drained; raises CrashedTooOften. Either way none is left running."""
        for actor in self._actors:
            self._start(actor)
        try:
            while self._running:
                ended, _ = await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    self._restart_if_crashed(task)
        finally:
            self._cancel()
            while self._running:
                ended, _ = await asyncio.wait(self._running)
                for task in ended:
                    del self._running[task]

    async def drain(self, deadline: float) -> None:
        """Let begun calls finish until the monotonic second `deadline`, then cancel them, while `run` runs."""
        for actor in self._actors:
            actor.drain()
        try:
            async with timeout_at(self._clock, deadline):
                await self._all_ended()
        except TimeoutError:
            self._cancel()
            await self._all_ended()

    async def _all_ended(self) -> None:
        while self._running:  # `run` takes out those that have ended
            await asyncio.wait(self._running)

    def _start(self, actor: Supervised) -> None:
        self._running[asyncio.get_running_loop().create_task(actor.run())] = actor

    def _restart_if_crashed(self, task: asyncio.Task[None]) -> None:
        actor = self._running.pop(task)
        if task.cancelled() or (crash := task.exception()) is None:
            return
        self._observer.on_defect(actor.name, crash)
        if not self._budget.spend(actor.name, self._clock.monotonic()):
            limit = f"{self._budget.restarts} restarts in {self._budget.within_s:g} s"
            raise CrashedTooOften(f"the worker of {actor.name} needs more than {limit}") from crash
        self._start(actor)

    def _cancel(self) -> None:
        for task in self._running:
            task.cancel()
