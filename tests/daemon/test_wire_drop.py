from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from theo_daemon.wire import Wire


class Stub:
    """A connection that does not clean up after itself."""

    def __init__(self, *replies: Any) -> None:
        self.replies, self.dropped = list(replies), False

    async def send_packed_command(self, packed: bytes, check_health: bool) -> None:
        assert not self.dropped

    async def read_response(self) -> Any:
        reply = self.replies.pop(0)
        if isinstance(reply, BaseException):
            raise reply
        return reply

    async def disconnect(self, nowait: bool) -> None:
        self.dropped = True


def wired(*stubs: Stub) -> tuple[Wire, list[Stub]]:
    """A wire over these in turn, and the list of those used so far."""
    made: list[Stub] = []

    async def connect() -> AbstractConnection:
        made.append(stubs[len(made)])
        return cast("AbstractConnection", made[-1])

    return Wire(connect, timeout_s=5.0), made


@pytest.mark.parametrize(
    ("trouble", "raised"),
    [
        (RedisConnectionError("lost"), RedisConnectionError),
        (OSError("reset"), RedisConnectionError),
        (asyncio.CancelledError(), asyncio.CancelledError),
    ],
)
async def test_a_connection_with_an_unread_answer_is_never_used_again(
    trouble: BaseException, raised: type[BaseException]
) -> None:
    wire, made = wired(Stub(b"first", trouble, b"another caller's"), Stub(b"mine"))
    with pytest.raises(raised):
        await wire.ask_all([("A",), ("B",), ("C",)])
    assert await wire.ask("D") == b"mine"
    assert [stub.dropped for stub in made] == [True, False]


async def test_an_error_reply_keeps_the_connection() -> None:
    stub = Stub(ResponseError("WRONGTYPE"), b"next")
    wire, made = wired(stub)
    with pytest.raises(ResponseError):
        await wire.ask("A")
    assert await wire.ask("B") == b"next"
    assert made == [stub]


@pytest.mark.parametrize("elsewhere", [MovedError("1 h:7000"), ReadOnlyError("a replica")])
async def test_what_a_server_leaves_undone_is_asked_of_the_next_one(elsewhere: ResponseError) -> None:
    wire, made = wired(Stub(elsewhere, elsewhere), Stub(b"one", b"two"))
    assert await wire.ask_all([("A",), ("B",)]) == [b"one", b"two"]
    assert [stub.dropped for stub in made] == [True, False]


async def test_what_nobody_does_is_asked_twice_and_no_more() -> None:
    wire, made = wired(*[Stub(MovedError("1 h:7000")) for _ in range(3)])
    with pytest.raises(MovedError):
        await wire.ask("A")
    assert [stub.dropped for stub in made] == [True, True]


@pytest.mark.parametrize(
    "replies",
    [
        (b"done", ReadOnlyError("a replica")),  # the first would be done twice
        (AskError("1 h:7000"), AskError("1 h:7000")),
        (ClusterDownError("no"), ClusterDownError("no")),
        (MasterDownError("no"), MasterDownError("no")),
    ],
)
async def test_what_only_time_can_heal_is_told_and_the_server_left(replies: Sequence[Any]) -> None:
    wire, made = wired(Stub(*replies), Stub(b"next"))
    assert await wire.ask_all([("A",), ("B",)]) == list(replies)
    assert await wire.ask("C") == b"next"
    assert [stub.dropped for stub in made] == [True, False]
