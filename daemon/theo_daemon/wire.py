"""One connection to Redis, spoken to without a client in between: packed by hiredis, raw replies, no retries.

A client object costs 30-60 us of CPU per command in Python; here a batch of any size is one pack, one
write and one read. Raw replies keep what client libraries fold into dicts, such as a field given twice.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    NoScriptError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

Word = str | bytes | memoryview | int | float

# Refusals of a server that is not, or not any more, the one for these keys. An ASK is not followed: while a slot
# is on its way, a command with several keys is at home on neither side, and only waiting helps.
_ELSEWHERE: Final = (MovedError, ReadOnlyError)
_AWAY: Final = (*_ELSEWHERE, AskError, ClusterDownError)


class Script:
    """A Lua script and its digest."""

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class Wire:
    """A connection that is made when needed; callers take turns on it in the order of their calls.

    Every method raises redis.exceptions.RedisError and nothing else of its own making. After anything but
    an error reply the connection is dropped: what happened to the commands is then unknown, and no later
    caller can read an answer that was meant for this one. Cancelling drops it too. A server that says that
    the keys are elsewhere is left as well; if it did nothing, the commands are sent once more to the server
    that `connect` then finds.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[AbstractConnection]],
        *,
        timeout_s: float,
        moves: Callable[[], int] = int,
    ) -> None:
        """`connect` makes connections without a socket timeout: `timeout_s` is for each call as a whole.

        When `moves` has changed since a connection was made, another is made before the next call.

        The client library's own time-out is an `asyncio.wait_for` around each write, which on CPython 3.11
        loses a cancellation that comes as the write ends.
        """
        self._connect, self._timeout_s, self._moves = connect, timeout_s, moves
        self._made_at = 0  # moves
        self._connection: AbstractConnection | None = None
        self._turn = asyncio.Lock()

    async def ask(self, *words: Word) -> Any:
        """One command, its raw RESP2 reply. An error reply is raised."""
        (reply,) = await self.ask_all((words,))
        if isinstance(reply, ResponseError):
            raise reply
        return reply

    async def ask_all(self, commands: Sequence[Sequence[Word]]) -> list[Any]:
        """Commands sent at once; their raw replies in order, with error replies among them as exceptions."""
        packed = b"".join(
            [
                hiredis.pack_command(tuple(command))  # type: ignore[arg-type] # its stub means a tuple of one
                for command in commands
            ]
        )
        async with self._turn:
            for _ in range(2):
                replies = await self._exchange(packed, len(commands))
                if not any(isinstance(reply, _AWAY) for reply in replies):
                    break
                await self._drop()
                if not all(isinstance(reply, _ELSEWHERE) for reply in replies):
                    break
        return replies

    async def run(self, script: Script, keys: Sequence[str | bytes], args: Sequence[Word]) -> Any:
        """Run a script by digest, sending its text only to a server that does not know it yet."""
        try:
            return await self.ask("EVALSHA", script.sha, len(keys), *keys, *args)
        except NoScriptError:
            return await self.ask("EVAL", script.text, len(keys), *keys, *args)

    async def run_all(
        self, script: Script, calls: Sequence[tuple[Sequence[str | bytes], Sequence[Word]]]
    ) -> list[Any]:
        """Run a script for several (keys, args) in one round trip; replies as `ask_all` gives them."""
        commands = [("EVALSHA", script.sha, len(keys), *keys, *args) for keys, args in calls]
        replies = await self.ask_all(commands)
        if not any(isinstance(reply, NoScriptError) for reply in replies):
            return replies
        # A script is known to a server or not: none of these has run.
        return await self.ask_all([("EVAL", script.text, *command[2:]) for command in commands])

    async def close(self) -> None:
        """Drop the connection; another call would make a new one."""
        async with self._turn:
            await self._drop()

    async def _exchange(self, packed: bytes, count: int) -> list[Any]:
        settled = False
        try:
            async with asyncio.timeout(self._timeout_s):
                if self._made_at != self._moves():
                    await self._drop()
                connection = self._connection
                if connection is None:
                    self._made_at = self._moves()  # before: the world may move on meanwhile
                    connection = self._connection = await self._connect()
                await connection.send_packed_command(packed, check_health=False)
                replies = [await _reply(connection) for _ in range(count)]
            settled = True
        except TimeoutError:
            raise RedisTimeoutError(f"no answer within {self._timeout_s} s") from None
        except OSError as error:  # what a socket raises before the client library has wrapped it
            raise RedisConnectionError(f"connection lost: {error}") from error
        finally:
            if not settled:
                await self._drop()
        return replies

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)


async def _reply(connection: AbstractConnection) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error
