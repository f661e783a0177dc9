"""Finds the primary of a service by asking its sentinels, and believes it only when it says so itself."""

from __future__ import annotations

from collections.abc import Sequence

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from theo_daemon.redis_node import Dialler, NoPrimary, in_words
from theo_daemon.redis_url import Node


class SentinelPrimary:
    """Asked for every new connection: what sentinels said a moment ago is what a failover changes."""

    def __init__(
        self, sentinels: Sequence[Node], service: str, *, asking: Dialler, dialling: Dialler
    ) -> None:
        """`asking` opens connections to sentinels, `dialling` to the servers that they name."""
        self._sentinels, self._service = list(sentinels), service
        self._asking, self._dialling = asking, dialling

    async def connect(self) -> AbstractConnection:
        """A connection to the primary. Raises redis.exceptions.RedisError.

        One look at each sentinel at most: between looks the caller waits, as for any server that is away.
        """
        troubles: dict[Node, str] = {}
        for sentinel in tuple(self._sentinels):
            try:
                named = await self._named_by(sentinel)
            except RedisError as error:
                troubles[sentinel] = in_words(error)
                self._ask_last(sentinel)
                continue
            if named is None:
                troubles[sentinel] = f"knows no service {self._service!r}"
            elif named not in troubles:
                try:
                    return await self._verified(named)
                except AuthenticationError:
                    raise  # the primary refuses the login: no other sentinel can help
                except RedisError as error:
                    troubles[named] = in_words(error)
        raise NoPrimary(troubles)

    async def _named_by(self, sentinel: Node) -> Node | None:
        connection, said = await self._asking.ask(
            sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service
        )
        await connection.disconnect(nowait=True)
        if isinstance(said, ResponseError):
            raise said
        return None if said is None else Node(said[0].decode(), int(said[1]))

    async def _verified(self, node: Node) -> AbstractConnection:
        """A sentinel can be late: until it notices, it names a server that is a replica by now."""
        connection, role = await self._dialling.ask(node, "ROLE")
        if isinstance(role, list) and role[0] != b"master":
            await connection.disconnect(nowait=True)
            raise RedisError(f"is a {role[0].decode()} and no primary yet")
        return connection  # a login that may not ask for ROLE has to trust the sentinel

    def _ask_last(self, sentinel: Node) -> None:
        self._sentinels.remove(sentinel)
        self._sentinels.append(sentinel)
