"""The HTTP edge: posts bytes to one endpoint under four clocks, reads what comes back within bounds.

It uses aiohttp's connector (pool, DNS, TLS, proxies) and its C parser, and leaves out aiohttp's session.
A call then costs a third of the CPU, and what must not happen has no code that could do it: no
resending, redirects, cookies, proxies from the environment, or unpacking of compressed bodies. It also
knows exactly when a request went out, which is what decides whether it may have been billed.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Mapping
from typing import Any, Protocol, cast

import aiohttp
from aiohttp.http import HttpProcessingError
from yarl import URL

from theo_workers.clock import Clock
from theo_workers.errors import ProviderTimeout, ProviderUnavailable, UpstreamError
from theo_workers.failures import FailureClass
from theo_workers.model_spec import Timeouts
from theo_workers.upstreams.origin import Origin
from theo_workers.upstreams.watchdog import Phase, Watch, Watchdog
from theo_workers.upstreams.wire import Headers

ERROR_BODY_BYTES = 65_536  # of an error's body, no more is read
DRAIN_S = 0.1  # for the end of a finished stream, so that its connection can be used again
LAST_WORDS_S = 5.0  # for usage and the terminal event, once the answer is whole

# Servers close idle connections, and a request that crosses with it can't be told from one that was
# billed. uvicorn and llama.cpp wait 5 s; what stands before public https endpoints, a minute or more.
IDLE_HTTP_S, IDLE_HTTPS_S = 4.0, 20.0

_UNTIMED = aiohttp.ClientTimeout()  # the watchdog has the clocks
_FAULTS = (aiohttp.ClientError, aiohttp.EofStream, HttpProcessingError, OSError)


class Receiver(Protocol):
    """Takes one response as it comes. What it raises ends the call."""

    def head(self, status: int, headers: Headers) -> None:
        """Status line and headers have come."""

    def chunk(self, data: bytes) -> bool:
        """A piece of the body has come; True: that is all that is needed of it."""

    @property
    def sufficient(self) -> bool:
        """A fault from here on changes nothing."""


class Body:
    """Keeps a whole body, or of an error's body the beginning."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: Headers = {}
        self.data: bytes | bytearray = b""

    @property
    def sufficient(self) -> bool:
        """A status that is an error says enough."""
        return self.status >= 300

    def head(self, status: int, headers: Headers) -> None:
        self.status, self.headers = status, headers

    def chunk(self, data: bytes) -> bool:
        if not self.data:
            self.data = data
        else:
            if isinstance(self.data, bytes):
                self.data = bytearray(self.data)
            self.data += data
        return self.status >= 300 and len(self.data) >= ERROR_BODY_BYTES


class HttpEndpoint:
    """One URL with one set of headers and a pool of connections, opened at the first call."""

    def __init__(
        self,
        url: URL,
        headers: Mapping[str, str],
        *,
        origin: Origin,
        clock: Clock,
        timeouts: Timeouts,
        max_response_bytes: int,
        concurrency: int,
        proxy: URL | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._url, self._headers, self._proxy = url, headers, proxy
        self._origin, self._clock, self._timeouts = origin, clock, timeouts
        self._max_response_bytes = max_response_bytes
        self._concurrency = concurrency
        self._ssl_context = ssl_context
        self._pool: _Pool | None = None

    async def exchange(self, body: bytes, receiver: Receiver, *, deadline: float) -> None:
        """Post `body` and hand the response to `receiver`; `deadline` is monotonic seconds.

        Raises ProviderTimeout and ProviderUnavailable, with NEVER_SENT until the first byte went out and
        MAYBE afterwards, and what `receiver` raises. Cancelling the task closes the connection.
        """
        now = self._clock.monotonic()
        if deadline <= now:
            raise self._origin.error(ProviderTimeout, "no time left to call", failure=FailureClass.NEVER_SENT)
        pool = self._pool
        if pool is None:
            pool = self._pool = self._open()
        task = cast("asyncio.Task[object]", asyncio.current_task(pool.loop))
        cancelling = task.cancelling()
        watch = pool.watchdog.start(task, min(now + self._timeouts.connect_s, deadline))
        failure: UpstreamError | None
        connection = None
        try:
            connection = await pool.connector.connect(pool.template, traces=[], timeout=_UNTIMED)
            await self._converse(pool, connection, body, receiver, watch=watch, deadline=deadline)
            failure = None
        except asyncio.CancelledError:
            if not watch.fired or task.uncancel() > cancelling:
                raise
            failure = self._overdue(watch.phase)
        except _FAULTS as fault:
            failure = self._fault(fault, watch.phase)
        finally:
            pool.watchdog.stop(watch)
            if connection is not None:
                connection.close()  # nothing, if it has been released
        if failure is not None and not receiver.sufficient:
            raise failure  # outside the handlers: aiohttp's errors can carry a proxy's credentials

    async def close(self) -> None:
        """Close the pool; calls in flight fail. Idempotent."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.watchdog.close()
            await pool.connector.close()

    async def _converse(
        self,
        pool: _Pool,
        connection: aiohttp.connector.Connection,
        body: bytes,
        receiver: Receiver,
        *,
        watch: Watch,
        deadline: float,
    ) -> None:
        clock, watchdog, timeouts = self._clock, pool.watchdog, self._timeouts
        protocol = connection.protocol
        if protocol is None or (transport := protocol.transport) is None or protocol.should_close:
            # Closed at once; or something came unasked, and would be taken for the answer to this call.
            raise aiohttp.ServerDisconnectedError
        protocol.set_response_params(read_until_eof=True, auto_decompress=False)
        watchdog.move(watch, Phase.FIRST_BYTE, min(clock.monotonic() + timeouts.first_byte_s, deadline))
        head = pool.head if pool.head is not None else pool.head_for_proxy()
        transport.write(b"%b%d\r\n\r\n%b" % (head, len(body), body))
        message, payload = await protocol.read()
        while message.code < 200 and message.code != 101:
            message, payload = await protocol.read()
        if message.compression and message.code < 300:
            raise self._origin.garbage("the answer is compressed, which was not asked for")
        receiver.head(message.code, message.headers)
        room, silence_s = self._max_response_bytes, timeouts.inter_chunk_s
        while not payload.at_eof():
            data = await payload.readany()
            room -= len(data)
            if room < 0:
                raise self._origin.garbage(f"the answer is larger than {self._max_response_bytes} bytes")
            if watch.phase is not Phase.DRAIN:
                if receiver.chunk(data):
                    watchdog.move(watch, Phase.DRAIN, min(clock.monotonic() + DRAIN_S, deadline))
                else:
                    wait_s = min(LAST_WORDS_S, silence_s) if receiver.sufficient else silence_s
                    watchdog.move(watch, Phase.BODY, min(clock.monotonic() + wait_s, deadline))
        if not transport.get_write_buffer_size():  # answered before it had read all: not to be used again
            connection.release()

    def _open(self) -> _Pool:
        return _Pool(
            self._url,
            self._headers,
            clock=self._clock,
            concurrency=self._concurrency,
            proxy=self._proxy,
            ssl_context=self._ssl_context,
        )

    def _overdue(self, phase: Phase) -> ProviderTimeout:
        if phase is Phase.CONNECT:
            return self._origin.error(
                ProviderTimeout, "no connection in time", failure=FailureClass.NEVER_SENT
            )
        what = "no answer in time" if phase is Phase.FIRST_BYTE else "the answer stopped coming"
        return self._origin.error(ProviderTimeout, what)

    def _fault(self, fault: Exception, phase: Phase) -> ProviderUnavailable:
        if phase is Phase.CONNECT:
            return self._origin.error(
                ProviderUnavailable, _unconnected(fault), failure=FailureClass.NEVER_SENT
            )
        match fault:
            case HttpProcessingError():
                reason = "the answer is not HTTP"
            case aiohttp.ClientPayloadError():
                reason = "the answer was cut short"
            case aiohttp.ServerDisconnectedError():
                reason = "the connection was closed without an answer"
            case _:
                reason = "the connection was reset"
        return self._origin.garbage(reason)


class _Pool:
    """What needs a running loop: the connector, the watchdog, and what is prepared once for all calls."""

    def __init__(
        self,
        url: URL,
        headers: Mapping[str, str],
        *,
        clock: Clock,
        concurrency: int,
        proxy: URL | None,
        ssl_context: ssl.SSLContext | None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.watchdog = Watchdog(clock, self.loop)
        secure = url.scheme == "https"
        self.connector = aiohttp.TCPConnector(
            limit=concurrency,
            keepalive_timeout=IDLE_HTTPS_S if secure else IDLE_HTTP_S,
            ssl=ssl_context if ssl_context is not None else True,
            socket_factory=_kept_alive_socket,
        )
        # The connector reads from it where to connect to and how; it is never sent itself.
        self.template = aiohttp.ClientRequest("POST", url, headers=headers, loop=self.loop, proxy=proxy)
        self._url, self._sent = url, {"Host": self.template.headers["Host"], **headers}
        self._through_plain_proxy = proxy is not None and not secure
        self.head = None if self._through_plain_proxy else self._head(url.raw_path_qs)

    def head_for_proxy(self) -> bytes:
        """A proxy of plain http wants the whole URL, and its own credentials beside ours."""
        credentials = self.template.headers.get("Proxy-Authorization")
        return self._head(str(self._url), {"Proxy-Authorization": credentials} if credentials else {})

    def _head(self, target: str, extra: Mapping[str, str] | None = None) -> bytes:
        lines = [f"{name}: {value}\r\n" for name, value in {**self._sent, **(extra or {})}.items()]
        return f"POST {target} HTTP/1.1\r\n{''.join(lines)}Content-Length: ".encode("ascii")


_UNCONNECTED: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...] = (
    (aiohttp.ClientConnectorDNSError, "the host name was not found"),
    (
        (aiohttp.ClientConnectorCertificateError, ssl.SSLCertVerificationError),
        "the server's certificate is not trusted",
    ),
    ((aiohttp.ClientSSLError, ssl.SSLError), "the TLS handshake failed"),
    (aiohttp.ClientProxyConnectionError, "the proxy cannot be reached"),
    (aiohttp.ClientHttpProxyError, "the proxy refused the connection"),
)


def _unconnected(fault: Exception) -> str:
    for kind, reason in _UNCONNECTED:
        if isinstance(fault, kind):
            return reason
    if isinstance(fault, OSError) and fault.errno is not None:
        return f"cannot connect: {os.strerror(fault.errno).lower()}"
    return "cannot connect"


def _kept_alive_socket(address: tuple[Any, ...]) -> socket.socket:
    """TCP keepalive: a peer that vanished during a long answer is noticed, and middleboxes keep the flow."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, seconds in (("TCP_KEEPIDLE", 45), ("TCP_KEEPINTVL", 15)):
        if hasattr(socket, option):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), seconds)
    return made
