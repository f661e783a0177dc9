"""Small stand-ins that tests of several rooms share."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any


class RecordedEvents:
    """Implements `ports.Events` by remembering."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, Any]]] = []

    def emit(self, event: str, /, *, model: str | None = None, **details: Any) -> None:
        self.seen.append((event, details))

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.seen]


async def until(condition: Callable[[], Any | Awaitable[Any]], *, within_s: float = 10.0) -> Any:
    """Wait for a condition to hold and return its value; fails after `within_s`."""
    deadline = time.monotonic() + within_s
    while True:
        value = condition()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        assert time.monotonic() < deadline, f"did not become true within {within_s} s: {condition}"
        await asyncio.sleep(0.002)


@contextlib.asynccontextmanager
async def running(work: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
    """Run a loop beside the test; what it raises fails the test."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        if not task.done():
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
