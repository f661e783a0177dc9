"""Finds the primary of a service by asking its sentinels, and believes it only when it says so itself."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from theo_daemon.redis_node import Dialler, NoPrimary, in_words
from theo_daemon.redis_url import Node
from theo_daemon.wire import Wire
from theo_workers.clock import Clock, sleep

WATCH_S = 0.25
ASK_TIMEOUT_S = 5.0


class SentinelPrimary:
    """Asked for every new connection: what sentinels said a moment ago is what a failover changes."""

    def __init__(
        self, sentinels: Sequence[Node], service: str, *, asking: Dialler, dialling: Dialler
    ) -> None:
        """`asking` opens connections to sentinels, `dialling` to the servers that they name."""
        self._sentinels, self._service = list(sentinels), service
        self._question = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service)
        self._asking, self._dialling = asking, dialling
        self._last: Node | None = None
        self._moves = 0

    def moves(self) -> int:
        """How often another server was seen to be named: connections made before lead to the wrong one."""
        return self._moves

    async def connect(self) -> AbstractConnection:
        """A connection to the primary. Raises redis.exceptions.RedisError.

        One look at each sentinel at most: between looks the caller waits, as for any server that is away.
        """
        troubles: dict[Node, str] = {}
        for sentinel in tuple(self._sentinels):
            try:
                connection, said = await self._asking.ask(sentinel, *self._question)
                await connection.disconnect(nowait=True)
                named = _node(said)
            except RedisError as error:
                troubles[sentinel] = in_words(error)
                self._ask_last(sentinel)
                continue
            if named is None:
                troubles[sentinel] = f"knows no service {self._service!r}"
            elif named not in troubles:
                try:
                    connection = await self._verified(named)
                except AuthenticationError:
                    raise  # the primary refuses the login: no other sentinel can help
                except RedisError as error:
                    troubles[named] = in_words(error)
                else:
                    self._last = named
                    return connection
        raise NoPrimary(troubles)

    async def watch(self, clock: Clock) -> None:
        """Notice that another server is named while the last one still answers, until cancelled.

        After a failover by command, or a partition, a deposed primary takes writes for seconds, to lose them.
        """
        asking = Wire(self._any_sentinel, timeout_s=ASK_TIMEOUT_S)
        try:
            while True:
                await sleep(clock, WATCH_S)
                with contextlib.suppress(RedisError):  # without sentinels nothing can move
                    named = _node(await asking.ask(*self._question))
                    if named is not None and named != self._last:
                        self._moves += 1
        finally:
            await asking.close()

    async def _any_sentinel(self) -> AbstractConnection:
        troubles: dict[Node, str] = {}
        for sentinel in tuple(self._sentinels):
            try:
                return (await self._asking.ask(sentinel, "PING")).connection
            except RedisError as error:
                troubles[sentinel] = in_words(error)
                self._ask_last(sentinel)
        raise NoPrimary(troubles)

    async def _verified(self, node: Node) -> AbstractConnection:
        """A sentinel can be late: until it notices, it names a server that is a replica by now."""
        connection, role = await self._dialling.ask(node, "ROLE")
        if isinstance(role, list) and role[0] != b"master":
            await connection.disconnect(nowait=True)
            raise RedisError(f"is a {role[0].decode()} and no primary yet")
        return connection  # a login that may not ask for ROLE has to trust the sentinel

    def _ask_last(self, sentinel: Node) -> None:
        """The next look begins with one that answers."""
        self._sentinels.remove(sentinel)
        self._sentinels.append(sentinel)


def _node(said: Any) -> Node | None:
    """The server that a sentinel names; None for a service that it does not know."""
    if isinstance(said, ResponseError):
        raise said
    return None if said is None else Node(said[0].decode(), int(said[1]))
