"""Who is asked for the primary, in which order, and who is believed; over answers instead of servers."""

from __future__ import annotations

from typing import Any, cast

import pytest
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.doubles import running
from theo_daemon.redis_cluster import SlotPrimary
from theo_daemon.redis_node import Answer, Dialler
from theo_daemon.redis_sentinel import WATCH_S, SentinelPrimary
from theo_daemon.redis_url import Node
from theo_workers.clock import FakeClock

A, B, C, D = (Node(name, 7000) for name in "abcd")
DEAD = RedisConnectionError("refused")
MASTER, REPLICA = [b"master", 0, []], [b"slave", b"a", 7000, b"connected", 0]


class Connection:
    """To a node that replies the same to everything."""

    def __init__(self, network: Network, node: Node) -> None:
        self.network, self.node = network, node
        network.open.append(node)

    async def disconnect(self, nowait: bool) -> None:
        self.network.open.remove(self.node)

    async def send_packed_command(self, packed: bytes, check_health: bool) -> None:
        pass

    async def read_response(self) -> Any:
        return self.network.replies[self.node]


class Network:
    """What each node replies; who was asked, and which connections are open."""

    def __init__(self, replies: dict[Node, Any]) -> None:
        self.replies = replies
        self.asked: list[Node] = []
        self.open: list[Node] = []

    async def ask(self, node: Node, *question: str) -> Answer:
        self.asked.append(node)
        reply = self.replies[node]
        if isinstance(reply, RedisError) and not isinstance(reply, ResponseError):
            raise reply
        return Answer(cast("AbstractConnection", Connection(self, node)), reply)

    @property
    def dialler(self) -> Dialler:
        return cast("Dialler", self)


def names(node: Node) -> list[bytes]:
    """A sentinel's answer."""
    return [node.host.encode(), str(node.port).encode()]


def serves(*nodes: Node, first: int = 0, last: int = 99) -> list[Any]:
    """A row of CLUSTER SLOTS."""
    return [first, last, *([node.host.encode(), node.port, b"id"] for node in nodes)]


def service(sentinels: dict[Node, Any], servers: dict[Node, Any]) -> tuple[SentinelPrimary, Network, Network]:
    asking, dialling = Network(sentinels), Network(servers)
    primary = SentinelPrimary(list(sentinels), "main", asking=asking.dialler, dialling=dialling.dialler)
    return primary, asking, dialling


@pytest.mark.parametrize(
    ("sentinels", "servers"),
    [
        ({A: names(C)}, {C: MASTER}),
        ({A: DEAD, B: names(C)}, {C: MASTER}),
        ({A: None, B: names(C)}, {C: MASTER}),
        ({A: AuthenticationError("no"), B: names(C)}, {C: MASTER}),
        ({A: names(D), B: names(C)}, {C: MASTER, D: REPLICA}),
        ({A: names(D), B: names(C)}, {C: MASTER, D: DEAD}),
        ({A: names(C)}, {C: ResponseError("NOPERM ROLE")}),
    ],
)
async def test_a_sentinel_is_believed_when_the_server_agrees(
    sentinels: dict[Node, Any], servers: dict[Node, Any]
) -> None:
    primary, asking, dialling = service(sentinels, servers)
    await primary.connect()
    assert (asking.open, dialling.open) == ([], [C])


async def test_everybody_is_asked_once_and_what_each_said_is_told() -> None:
    sentinels = {A: DEAD, B: names(C), D: names(C)}
    primary, asking, dialling = service(sentinels, {C: REPLICA})
    with pytest.raises(RedisConnectionError, match="a:7000: refused; c:7000: is a slave and no primary yet"):
        await primary.connect()
    assert (asking.asked, dialling.asked) == ([A, B, D], [C])
    assert (asking.open, dialling.open) == ([], [])


async def test_the_sentinel_that_answered_is_asked_first_the_next_time() -> None:
    primary, asking, _ = service({A: DEAD, B: names(C)}, {C: MASTER})
    await primary.connect()
    await primary.connect()
    assert asking.asked == [A, B, B]


async def test_a_primary_that_refuses_the_login_ends_the_search() -> None:
    primary, _, dialling = service({A: names(C), B: names(C)}, {C: AuthenticationError("no")})
    with pytest.raises(AuthenticationError):
        await primary.connect()
    assert dialling.asked == [C]


async def test_a_primary_deposed_alive_is_noticed() -> None:
    clock = FakeClock()
    primary, asking, _ = service({A: names(C)}, {C: MASTER, D: MASTER})
    await primary.connect()
    async with running(primary.watch(clock)):
        await clock.advance(10 * WATCH_S)
        assert primary.moves() == 0
        asking.replies[A] = names(D)
        await clock.advance(WATCH_S)
        assert primary.moves() == 1
        await primary.connect()
        await clock.advance(10 * WATCH_S)
        assert primary.moves() == 1
    assert asking.open == []


@pytest.mark.parametrize("away", [DEAD, None, ResponseError("ERR what?")])
async def test_sentinels_that_know_nothing_move_nobody(away: Any) -> None:
    clock = FakeClock()
    primary, asking, _ = service({A: names(C)}, {C: MASTER})
    await primary.connect()
    asking.replies[A] = away
    async with running(primary.watch(clock)):
        await clock.advance(10 * WATCH_S)
    assert primary.moves() == 0


@pytest.mark.parametrize(
    ("replies", "asked"),
    [
        ({A: [serves(A, B)]}, [A]),
        ({A: [serves(B, A)], B: [serves(B, A)]}, [A, B]),
        ({A: DEAD, B: [serves(C)], C: [serves(C)]}, [A, B, C]),
        # The first is late: what it says is followed until somebody speaks for itself.
        ({A: [serves(B)], B: [serves(C)], C: [serves(C)]}, [A, B, C]),
        ({A: [serves(B, C)], B: DEAD, C: [serves(C, B)]}, [A, B, C]),
        ({A: [serves(D, first=100, last=200)], B: [serves(B)]}, [A, B]),
        ({A: ResponseError("ERR cluster support disabled"), B: [serves(B)]}, [A, B]),
    ],
)
async def test_a_node_is_believed_when_it_speaks_for_itself(
    replies: dict[Node, Any], asked: list[Node]
) -> None:
    network = Network(replies)
    await SlotPrimary([A, B], 7, dialling=network.dialler).connect()
    assert network.asked == asked
    assert network.open == [asked[-1]]


async def test_a_node_that_does_not_know_its_name_is_known_by_ours() -> None:
    network = Network({A: [[0, 99, [b"", 7000, b"id"]]]})
    await SlotPrimary([A], 7, dialling=network.dialler).connect()
    assert network.open == [A]


async def test_nodes_that_point_at_each_other_are_asked_once() -> None:
    network = Network({A: [serves(B, A)], B: [serves(A, B)]})
    with pytest.raises(RedisConnectionError, match="a:7000: says that slot 7 is at b:7000; b:7000: says"):
        await SlotPrimary([A, B], 7, dialling=network.dialler).connect()
    assert (network.asked, network.open) == ([A, B], [])


async def test_after_a_failover_the_old_nodes_of_the_slot_are_asked_first_and_a_dead_one_last() -> None:
    network = Network({A: [serves(B, C)], B: [serves(B, C)], C: [serves(B, C)]})
    finder = SlotPrimary([A], 7, dialling=network.dialler)
    await finder.connect()
    network.replies |= {B: DEAD}
    network.asked.clear()
    with pytest.raises(RedisConnectionError):
        await finder.connect()
    assert network.asked == [B, C, A]
    network.replies |= {C: [serves(C)]}
    network.asked.clear()
    await finder.connect()
    assert network.asked == [C]


async def test_a_login_that_is_refused_ends_the_search() -> None:
    network = Network({A: AuthenticationError("no"), B: [serves(B)]})
    with pytest.raises(AuthenticationError):
        await SlotPrimary([A, B], 7, dialling=network.dialler).connect()
    assert network.asked == [A]
