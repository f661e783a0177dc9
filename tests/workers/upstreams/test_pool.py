"""Connections that must not be used again. The server is in the same thread and answers between two lines."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop
from yarl import URL

from theo_workers.clock import FakeClock
from theo_workers.upstreams import pool
from theo_workers.upstreams.connection import HttpConnection
from theo_workers.upstreams.pool import Pool

HEADERS = {"Authorization": "Bearer k"}
LOOPS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])


class Listener:
    """Accepts without the event loop's help, so that nothing happens but what the test says."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.socket.settimeout(2)
        self.peers: list[socket.socket] = []

    @property
    def url(self) -> URL:
        return URL(f"http://127.0.0.1:{self.socket.getsockname()[1]}/v1/chat/completions")

    def accept(self) -> socket.socket:
        self.peers.append(self.socket.accept()[0])
        return self.peers[-1]


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    for peer in [listener.socket, *listener.peers]:
        peer.close()


@contextlib.asynccontextmanager
async def a_pool(listener: Listener, clock: FakeClock | None = None) -> Any:
    opened = Pool(listener.url, HEADERS, clock=clock or FakeClock(), concurrency=2)
    try:
        yield opened
    finally:
        await opened.close()


async def get(opened: Pool) -> HttpConnection:
    return (await opened.acquire())[0]


@LOOPS
def test_a_connection_is_used_again(listener: Listener, run: Any) -> None:
    async def scenario() -> None:
        async with a_pool(listener) as opened:
            first = await get(opened)
            opened.give_back(first, streamed=False)
            second = await get(opened)
            assert second is first
            second.close()

    run(scenario())


@LOOPS
@pytest.mark.parametrize(
    "happens",
    [lambda peer: peer.close(), lambda peer: peer.sendall(b"HTTP/1.1 408 Request Timeout\r\n\r\n")],
    ids=["closed", "something came unasked"],
)
def test_what_the_loop_has_not_noticed_yet_is_noticed_before_a_request_is_lost_on_it(
    listener: Listener, run: Any, happens: Callable[[socket.socket], None]
) -> None:
    async def scenario() -> None:
        async with a_pool(listener) as opened:
            first = await get(opened)
            peer = listener.accept()
            opened.give_back(first, streamed=False)
            happens(peer)  # no turn of the loop from here to the next line
            second = await get(opened)
            assert second is not first
            second.close()

    run(scenario())


async def test_after_a_stream_a_connection_rests_before_it_is_used_again(listener: Listener) -> None:
    clock = FakeClock()
    async with a_pool(listener, clock) as opened:
        first = await get(opened)
        opened.give_back(first, streamed=True)
        meanwhile = await get(opened)
        assert meanwhile is not first
        await clock.advance(pool.REST_S)
        rested = await get(opened)
        assert rested is first
        meanwhile.close()
        rested.close()


async def test_a_connection_that_is_closed_while_it_rests_is_not_used_again(listener: Listener) -> None:
    clock = FakeClock()
    async with a_pool(listener, clock) as opened:
        first = await get(opened)
        opened.give_back(first, streamed=True)
        listener.accept().close()
        await clock.advance(pool.REST_S)
        second = await get(opened)
        assert second is not first
        second.close()


async def test_closing_the_pool_closes_what_rests(listener: Listener) -> None:
    async with a_pool(listener) as opened:
        opened.give_back(await get(opened), streamed=True)
        peer = listener.accept()
    assert await asyncio.to_thread(peer.recv, 1) == b""


async def test_only_so_many_connections_rest(listener: Listener) -> None:
    async with a_pool(listener) as opened:
        taken = [await get(opened) for _ in range(4)]
        for connection in taken:
            opened.give_back(connection, streamed=True)
        again = [await asyncio.wait_for(get(opened), 2) for _ in range(2)]
        for connection in again:
            connection.close()


async def test_the_head_is_ready_to_be_sent(listener: Listener) -> None:
    async with a_pool(listener) as opened:
        connection, head = await opened.acquire()
        connection.close()
    assert head.decode() == (
        "POST /v1/chat/completions HTTP/1.1\r\n"
        f"Host: 127.0.0.1:{listener.url.port}\r\nAuthorization: Bearer k\r\nContent-Length: "
    )


def test_idle_connections_are_given_up_before_servers_do() -> None:
    assert pool.IDLE_HTTP_S < 5  # uvicorn's and llama.cpp's
    assert pool.IDLE_HTTPS_S < 60
