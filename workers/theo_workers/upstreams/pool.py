"""Connections to one endpoint: made, handed out, and given up before a request could be lost on them."""

from __future__ import annotations

import asyncio
import errno
import functools
import socket
import ssl
from collections import deque
from collections.abc import Mapping
from typing import Any

import aiohttp
from yarl import URL

from theo_workers.clock import Clock, sleep
from theo_workers.upstreams.connection import HttpConnection

# Servers close idle connections, and a request that crosses with it can't be told from one that was
# billed. uvicorn and llama.cpp wait 5 s; what stands before public https endpoints, a minute or more.
IDLE_HTTP_S, IDLE_HTTPS_S = 4.0, 20.0
REST_S = 0.05  # llama.cpp closes after a stream, without having said so
CROWDED_S = 0.05  # between tries for a connection while the process has as many files open as it may
_NO_FILE = frozenset({errno.EMFILE, errno.ENFILE})

_UNTIMED = aiohttp.ClientTimeout()  # the watchdog has the clocks


class Pool:
    """Opened at the first `acquire`, on the loop that runs then. aiohttp's connector makes the connections."""

    def __init__(
        self,
        url: URL,
        headers: Mapping[str, str],
        *,
        clock: Clock,
        concurrency: int,
        proxy: URL | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._url, self._headers, self._clock, self._concurrency = url, headers, clock, concurrency
        self._proxy, self._ssl_context = proxy, ssl_context
        self._idle_s = IDLE_HTTPS_S if url.scheme == "https" else IDLE_HTTP_S
        self._opened: tuple[aiohttp.TCPConnector, aiohttp.ClientRequest] | None = None
        self._head = b""
        self._idle: deque[HttpConnection] = deque()  # the longest idle first
        self._sweep: asyncio.Future[None] | None = None
        self._resting: dict[HttpConnection, asyncio.TimerHandle | None] = {}
        self.crowded = False  # the last try for a connection found no file left for it

    async def acquire(self) -> tuple[HttpConnection, bytes]:
        """A connection, and the head of a request on it up to the value of Content-Length.

        It is a new one, or one on which nothing has come since its last answer. Raises aiohttp's errors. While the
        process has no file left for a socket it waits for one: calls that end free theirs.
        """
        while (kept := self._take_idle()) is None:
            connector, template = self._opened or self._open()
            try:
                link = await connector.connect(template, traces=[], timeout=_UNTIMED)
            except OSError as fault:
                if fault.errno not in _NO_FILE:
                    raise
                self.crowded = True
                await sleep(self._clock, CROWDED_S)
            else:
                self.crowded = False
                return self._use(link, template), self._head
        return kept, self._head

    def _take_idle(self) -> HttpConnection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.alive:
                return connection
            # The server's goodbye, or something that would be taken for the answer to the next request.
            connection.close()
        return None

    def _use(self, link: aiohttp.connector.Connection, template: aiohttp.ClientRequest) -> HttpConnection:
        transport = link.transport
        if transport is None:
            link.close()
            raise aiohttp.ServerDisconnectedError
        if not self._head:
            self._head = self._write_head(template)
        return HttpConnection(link, transport, asyncio.get_running_loop())

    def give_back(self, connection: HttpConnection, *, streamed: bool) -> None:
        """The answer was read to its end. After a stream the connection rests, to see whether it stays."""
        if not streamed or len(self._resting) >= self._concurrency:
            self._keep(connection)
            return
        rested: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        rested.add_done_callback(functools.partial(self._rested, connection))
        self._resting[connection] = self._clock.call_at(self._clock.monotonic() + REST_S, rested)

    async def close(self) -> None:
        """Close every connection, those in use too. Idempotent; `acquire` opens the pool anew."""
        for connection, timer in self._resting.items():
            if timer is not None:
                timer.cancel()
            connection.close()
        self._resting.clear()
        while self._idle:
            self._idle.pop().close()
        if self._sweep is not None:
            self._sweep.cancel()
        opened, self._opened, self._sweep, self._head = self._opened, None, None, b""
        if opened is not None:
            await opened[0].close()

    def _keep(self, connection: HttpConnection) -> None:
        connection.idle_since = self._clock.monotonic()
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep_at(connection.idle_since + self._idle_s)

    def _sweep_at(self, moment: float) -> None:
        self._sweep = asyncio.get_running_loop().create_future()
        self._sweep.add_done_callback(self._swept)
        self._clock.call_at(moment, self._sweep)

    def _swept(self, sweep: asyncio.Future[None]) -> None:
        """Close what has been idle for too long."""
        if sweep.cancelled():
            return
        self._sweep = None
        long_ago = self._clock.monotonic() - self._idle_s
        while self._idle and self._idle[0].idle_since <= long_ago:
            self._idle.popleft().close()
        if self._idle:
            self._sweep_at(self._idle[0].idle_since + self._idle_s)

    def _rested(self, connection: HttpConnection, _: asyncio.Future[None]) -> None:
        if connection in self._resting:
            del self._resting[connection]
            self._keep(connection)

    def _open(self) -> tuple[aiohttp.TCPConnector, aiohttp.ClientRequest]:
        loop = asyncio.get_running_loop()
        connector = aiohttp.TCPConnector(
            limit=0,  # the worker bounds its calls; what it has connected stays with us
            ssl=self._ssl_context if self._ssl_context is not None else True,
            socket_factory=_kept_alive_socket,
        )
        # The connector reads from it where to connect to and how; it is never sent itself.
        template = aiohttp.ClientRequest(
            "POST", self._url, headers=self._headers, loop=loop, proxy=self._proxy
        )
        self._opened = connector, template
        return self._opened

    def _write_head(self, template: aiohttp.ClientRequest) -> bytes:
        target, headers = self._url.raw_path_qs, {"Host": template.headers["Host"], **self._headers}
        if self._proxy is not None and self._url.scheme == "http":
            # Such a proxy wants the whole URL, and its own credentials, which connecting has put there.
            target = str(self._url)
            if credentials := template.headers.get("Proxy-Authorization"):
                headers["Proxy-Authorization"] = credentials
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"POST {target} HTTP/1.1\r\n{lines}Content-Length: ".encode("ascii")


def _kept_alive_socket(address: tuple[Any, ...]) -> socket.socket:
    """TCP keepalive: a peer that vanished during a long answer is noticed, and middleboxes keep the flow."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, seconds in (("TCP_KEEPIDLE", 45), ("TCP_KEEPINTVL", 15)):
        if hasattr(socket, option):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), seconds)
    return made
