"""Work that goes on beside a block of code, and ends with it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
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
