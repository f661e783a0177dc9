from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

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
    stubs = [Stub(b"first", trouble, b"another caller's"), Stub(b"mine")]
    made: list[Stub] = []

    def connect() -> AbstractConnection:
        made.append(stubs[len(made)])
        return cast("AbstractConnection", made[-1])

    wire = Wire(connect, timeout_s=5.0)
    with pytest.raises(raised):
        await wire.ask_all([("A",), ("B",), ("C",)])
    assert await wire.ask("D") == b"mine"
    assert [stub.dropped for stub in made] == [True, False]


async def test_an_error_reply_keeps_the_connection() -> None:
    stub = Stub(ResponseError("WRONGTYPE"), b"next")
    wire = Wire(lambda: cast("AbstractConnection", stub), timeout_s=5.0)
    with pytest.raises(ResponseError):
        await wire.ask("A")
    assert await wire.ask("B") == b"next"
