"""What an actor is sent: many senders, one reader, in order."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

Mail = TypeVar("Mail")


class Mailbox(Generic[Mail]):
    """An unbounded queue whose reader is woken once for all that has come.

    asyncio.Queue wakes its reader for each item, which costs a turn of the loop apiece. Bounds belong to what
    is sent: a worker counts its calls, and control mail must always get in.
    """

    def __init__(self) -> None:
        self._mail: deque[Mail] = deque()
        self._reader: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._mail)

    def post(self, mail: Mail) -> None:
        """From the loop's thread only."""
        self._mail.append(mail)
        reader = self._reader
        if reader is not None and not reader.done():
            reader.set_result(None)

    def take(self) -> Mail:
        """The oldest mail. Raises IndexError when there is none."""
        return self._mail.popleft()

    async def wait(self, loop: asyncio.AbstractEventLoop) -> None:
        """Return once there is mail. `loop` is the running one; asking for it costs a system call."""
        if self._mail:
            return
        self._reader = loop.create_future()
        try:
            await self._reader
        finally:
            self._reader = None
