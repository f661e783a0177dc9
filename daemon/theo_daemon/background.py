"""Work that goes on beside a block of code, and ends with it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any

GRACE_S = 5.0


@asynccontextmanager
async def running(
    work: Coroutine[Any, Any, None], *, stop: Callable[[], None] | None = None
) -> AsyncIterator[asyncio.Task[None]]:
    """Run `work` beside; at the end ask it to stop and wait a little, or cancel it."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        if stop is not None:
            stop()
            await asyncio.wait((task,), timeout=GRACE_S)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def first_failure(tasks: Iterable[asyncio.Task[None]]) -> asyncio.Future[None]:
    """Ends when one of these fails, with what it raised. To end by itself, or to be cancelled, is no failure."""
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def ended(task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not failed.done():
            failed.set_exception(error)

    for task in tasks:
        task.add_done_callback(ended)
    return failed
