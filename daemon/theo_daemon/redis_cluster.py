"""Finds the primary of one slot of a cluster, the slot that all keys of one prefix share."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from theo_daemon.redis_node import Dialler, NoPrimary, in_words
from theo_daemon.redis_url import Node


class SlotPrimary:
    """Asked for every new connection; remembers where to begin."""

    def __init__(self, seeds: Sequence[Node], slot: int, *, dialling: Dialler) -> None:
        """`seeds` are any nodes of the cluster."""
        self._seeds, self._slot, self._dialling = tuple(seeds), slot, dialling
        self._order = list(seeds)

    async def connect(self) -> AbstractConnection:
        """A connection to the primary of the slot. Raises redis.exceptions.RedisError.

        Follows what nodes say until one says that it is the primary itself, which the others can be late to
        learn. Asks each node once: between looks the caller waits, as for any server that is away.
        """
        troubles: dict[Node, str] = {}
        waiting = deque(self._order)
        while waiting:
            node = waiting.popleft()
            if node in troubles:
                continue
            try:
                connection, said = await self._dialling.ask(node, "CLUSTER", "SLOTS")
            except AuthenticationError:
                raise  # all nodes of a cluster have the same users
            except RedisError as error:
                troubles[node] = in_words(error)
                self._order = [*(other for other in self._order if other != node), node]
                continue
            serving = () if isinstance(said, ResponseError) else _serving(said, self._slot, node)
            if serving and serving[0] == node:
                self._order = list(dict.fromkeys((*serving, *self._seeds)))
                return connection
            await connection.disconnect(nowait=True)
            if isinstance(said, ResponseError):
                troubles[node] = in_words(said)
            elif serving:
                troubles[node] = f"says that slot {self._slot} is at {serving[0]}"
            else:
                troubles[node] = f"knows no primary of slot {self._slot}"
            waiting.extendleft(reversed(serving))
        raise NoPrimary(troubles)


def _serving(reply: list[Any], slot: int, asked: Node) -> tuple[Node, ...]:
    """The nodes of the slot, its primary first, from what CLUSTER SLOTS says."""
    for first, last, *nodes in reply:
        if first <= slot <= last:
            # A node that does not know its own name leaves the host out: it is the one we used.
            return tuple(Node(host.decode() if host else asked.host, int(port)) for host, port, *_ in nodes)
    return ()
