"""Opens a connection to one server of several and asks it who it is, in a bounded time."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from theo_daemon.redis_url import Node

STEP_TIMEOUT_S = 1.5  # a host that says nothing must leave time to ask the next one


class Answer(NamedTuple):
    """What a server replied, raw; an error reply is returned like any other."""

    connection: AbstractConnection
    reply: Any


class Dialler:
    """Opens connections with the login and the TLS settings of one URL, to whichever server is named."""

    def __init__(self, connection_class: type[AbstractConnection], options: dict[str, Any]) -> None:
        self._connection_class = connection_class
        self._options = options | {"socket_timeout": None, "socket_connect_timeout": STEP_TIMEOUT_S}

    async def ask(self, node: Node, *question: str) -> Answer:
        """Connect and ask. Raises redis.exceptions.RedisError; then, or cancelled, nothing stays open."""
        connection = self._connection_class(**{**self._options, "host": node.host, "port": node.port})
        answered = False
        try:
            async with asyncio.timeout(STEP_TIMEOUT_S):
                await connection.send_command(*question, check_health=False)
                reply = await _reply(connection)
            answered = True
        except TimeoutError:
            raise RedisTimeoutError(f"no answer within {STEP_TIMEOUT_S} s") from None
        except OSError as error:
            raise RedisConnectionError(f"connection lost: {error}") from error
        finally:
            if not answered:
                await connection.disconnect(nowait=True)
        return Answer(connection, reply)


class NoPrimary(RedisConnectionError):
    """Nobody that was asked leads to a primary; the message says what each of them said."""

    def __init__(self, troubles: dict[Node, str]) -> None:
        super().__init__("; ".join(f"{node}: {trouble}" for node, trouble in troubles.items()))


def in_words(error: RedisError) -> str:
    """An error in one line."""
    return " ".join(str(error).split()) or type(error).__name__


async def _reply(connection: AbstractConnection) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error
