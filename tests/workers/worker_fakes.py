"""A scripted upstream, a listening observer and a worker built from sane defaults."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from theo_workers.breaker import Breaker
from theo_workers.call import Call, Result
from theo_workers.clock import FakeClock, sleep
from theo_workers.health import ModelHealth
from theo_workers.load import Load
from theo_workers.messages import Completion, DeltaSink, Message, Outcome, Request, Usage
from theo_workers.model_worker import ModelWorker
from theo_workers.slots import Slots
from theo_workers.standing import Standing

HELLO = Completion(output="hello", finish_reason="stop", usage=Usage(prompt_tokens=5, completion_tokens=2))
REQUEST = Request(messages=(Message(role="user", content="Say hi"),), params={})

Fate = Completion | BaseException
HANG = 1e9


class FakeUpstream:
    """Meets its calls with `fates`, each after `takes_s`; the last one is for all that follow."""

    provider = "fake"

    def __init__(self, clock: FakeClock, *fates: Fate, takes_s: float = 0.0) -> None:
        self._clock = clock
        self.fates = list(fates) or [HELLO]
        self.takes_s = takes_s
        self.begun = self.running = self.most_running = self.closed_early = 0

    async def generate(self, request: Request, *, deadline: float, on_delta: DeltaSink | None) -> Completion:
        fate = self.fates[min(self.begun, len(self.fates) - 1)]
        self.begun += 1
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            if self.takes_s:
                await sleep(self._clock, self.takes_s)
        except asyncio.CancelledError:
            self.closed_early += 1
            raise
        finally:
            self.running -= 1
        if isinstance(fate, BaseException):
            raise fate
        return fate

    async def close(self) -> None:
        """Nothing is held."""


class Listener:
    """Writes down what it hears."""

    def __init__(self) -> None:
        self.transitions: list[tuple[str, dict[str, Any]]] = []
        self.attempts: list[tuple[Outcome, float]] = []
        self.defects: list[BaseException] = []
        self.crash_on_attempt = False

    @property
    def events(self) -> list[str]:
        return [event for event, _ in self.transitions]

    def on_transition(self, model: str, event: str, details: Mapping[str, Any]) -> None:
        self.transitions.append((event, dict(details)))

    def on_attempt(
        self, model: str, outcome: Outcome, latency_ms: float, error: BaseException | None
    ) -> None:
        self.attempts.append((outcome, round(latency_ms, 6)))
        if self.crash_on_attempt:
            self.crash_on_attempt = False
            raise LookupError("planted")

    def on_defect(self, model: str, error: BaseException) -> None:
        self.defects.append(error)


async def send_at_once() -> None:
    """A `before_send` with nothing to do."""


def call(
    clock: FakeClock, *, within_s: float = 120.0, before_send: Callable[[], Awaitable[None]] = send_at_once
) -> Call:
    return Call(request=REQUEST, deadline=clock.monotonic() + within_s, before_send=before_send)


class Stage:
    """One worker and all it stands on."""

    def __init__(
        self, *fates: Fate, takes_s: float = 0.0, threshold: int = 3, limit: int = 8, mailbox: int = 8,
        ramp_s: float = 0.0, load: Load | None = None,
    ) -> None:  # fmt: skip
        self.clock = FakeClock()
        self.upstream = FakeUpstream(self.clock, *fates, takes_s=takes_s)
        self.listener = Listener()
        self.standing = Standing(Breaker(threshold=threshold), Slots(limit, ramp_s=ramp_s, load=load))
        self.changes = 0
        self.worker = ModelWorker(
            "fast",
            self.upstream,
            self.standing,
            ModelHealth(),
            clock=self.clock,
            rng=random.Random(7),
            observer=self.listener,
            mailbox=mailbox,
        )
        self.worker.on_change = self._changed

    def _changed(self) -> None:
        self.changes += 1

    def submit(self, **options: Any) -> asyncio.Future[Result]:
        return self.worker.submit(call(self.clock, **options))

    async def outcomes(self, number: int, *, after_s: float = 0.0, **options: Any) -> list[object]:
        """Submit `number` calls one after another; what each came to `after_s` later."""
        found: list[object] = []
        for _ in range(number):
            reply = self.submit(**options)
            await self.clock.advance(after_s)
            found.append(outcome(reply))
        return found

    @property
    def free(self) -> int:
        return self.worker.free(self.clock.monotonic())

    def availability(self) -> object:
        return self.worker.availability(self.clock.monotonic())

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Stage]:
        """With its actor running; on leaving, the actor must not have crashed."""
        actor = asyncio.get_running_loop().create_task(self.worker.run())
        await self.clock.advance(0)
        try:
            yield self
        finally:
            actor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await actor


def outcome(reply: asyncio.Future[Result]) -> object:
    """The result's or exception's type name, or how it stands."""
    if not reply.done():
        return "waiting"
    if reply.cancelled():
        return "cancelled"
    error = reply.exception()
    return type(reply.result() if error is None else error).__name__
