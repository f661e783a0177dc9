"""The HTTP edge: posts bytes to one endpoint under four clocks, reads what comes back within bounds.

aiohttp's connector connects (DNS, TLS, proxies), and `connection` talks; aiohttp's session is left out. A call then
costs a third of the CPU, and what must not happen has no code that could do it: no resending, redirects, cookies,
proxies from the environment, or unpacking of compressed bodies. It also knows exactly when a request went out, which
is what decides whether it may have been billed.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from typing import NamedTuple, Protocol, cast

import aiohttp

from theo_workers.clock import Clock
from theo_workers.errors import ProviderTimeout, ProviderUnavailable, UpstreamError
from theo_workers.failures import FailureClass
from theo_workers.model_spec import Timeouts
from theo_workers.upstreams.connection import (
    ConnectionFault,
    CutShort,
    HttpConnection,
    NotHttp,
    Unanswered,
)
from theo_workers.upstreams.origin import Origin
from theo_workers.upstreams.pool import Pool
from theo_workers.upstreams.watchdog import Phase, Watch, Watchdog
from theo_workers.upstreams.wire import Headers

ERROR_BODY_BYTES = 65_536  # of an error's body, no more is read
DRAIN_S = 0.1  # for the end of a finished stream, so that its connection can be used again
LAST_WORDS_S = 5.0  # for usage and the terminal event, once the answer is whole

_FAULTS = (aiohttp.ClientError, ConnectionFault, OSError)


class Receiver(Protocol):
    """Takes one response as it comes. What it raises ends the call."""

    def head(self, status: int, headers: Headers) -> None:
        """Status line and headers have come."""

    def chunk(self, data: bytes) -> bool:
        """A piece of the body has come; True: that is all that is needed of it."""

    @property
    def sufficient(self) -> bool:
        """A fault from here on changes nothing."""

    @property
    def streamed(self) -> bool:
        """It was a stream of events."""


class Body:
    """Keeps a whole body, or of an error's body the beginning."""

    streamed = False

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
    """Where one model's requests are posted to."""

    def __init__(
        self, pool: Pool, *, origin: Origin, clock: Clock, timeouts: Timeouts, max_response_bytes: int
    ) -> None:
        self._pool, self._watchdog = pool, Watchdog(clock)
        self._origin, self._clock, self._timeouts = origin, clock, timeouts
        self._limits = _Limits(origin, self._watchdog, timeouts, max_response_bytes)

    async def exchange(self, body: bytes, receiver: Receiver, *, deadline: float) -> None:
        """Post `body` and hand the response to `receiver`; `deadline` is monotonic seconds.

        Raises ProviderTimeout and ProviderUnavailable, with NEVER_SENT until the first byte went out and
        MAYBE afterwards, and what `receiver` raises. Cancelling the task closes the connection.
        """
        if deadline <= self._clock.monotonic():
            raise self._origin.error(ProviderTimeout, "no time left to call", failure=FailureClass.NEVER_SENT)
        task = cast("asyncio.Task[object]", asyncio.current_task())
        cancelling = task.cancelling()
        watch = self._watchdog.start(task, self._timeouts.connect_s, deadline=deadline)
        failure: UpstreamError | None = None
        connection: HttpConnection | None = None
        try:
            connection, head = await self._pool.acquire()
            self._watchdog.move(watch, Phase.FIRST_BYTE, self._timeouts.first_byte_s)
            answer = _Incoming(receiver, watch, self._limits)
            if await connection.exchange(b"%b%d\r\n\r\n%b" % (head, len(body), body), answer):
                self._pool.give_back(connection, streamed=receiver.streamed)
                connection = None
        except asyncio.CancelledError:
            if not watch.fired or task.uncancel() > cancelling:
                raise
            failure = self._overdue(watch.phase)
        except _FAULTS as fault:
            failure = self._fault(fault, watch.phase)
        finally:
            self._watchdog.stop(watch)
            if connection is not None:
                connection.close()
        if failure is not None and not receiver.sufficient:
            raise failure  # outside the handlers: aiohttp's errors can carry a proxy's credentials

    async def close(self) -> None:
        """Close the pool; calls in flight fail. Idempotent, and a later call opens it anew."""
        self._watchdog.close()
        await self._pool.close()

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
            case NotHttp():
                reason = "the answer is not HTTP"
            case CutShort():
                reason = "the answer was cut short"
            case Unanswered():
                reason = "the connection was closed without an answer"
            case _:
                reason = "the connection was reset"
        return self._origin.garbage(reason)


class _Limits(NamedTuple):
    """What holds for every response of an endpoint."""

    origin: Origin
    watchdog: Watchdog
    timeouts: Timeouts
    max_response_bytes: int


class _Incoming:
    """Implements `connection.Taker`: one response on its way to its receiver, within bounds and under a clock."""

    __slots__ = ("_came", "_enough", "_limits", "_receiver", "_room", "_watch")

    def __init__(self, receiver: Receiver, watch: Watch, limits: _Limits) -> None:
        self._receiver, self._watch, self._limits = receiver, watch, limits
        self._room = limits.max_response_bytes
        self._enough = self._came = False

    def head(self, status: int, headers: Headers) -> None:
        if status < 300 and headers.get("content-encoding", "identity").lower() != "identity":
            raise self._limits.origin.garbage("the answer is compressed, which was not asked for")
        self._receiver.head(status, headers)

    def data(self, piece: bytes) -> None:
        self._room -= len(piece)
        if self._room < 0:
            most = self._limits.max_response_bytes
            raise self._limits.origin.garbage(f"the answer is larger than {most} bytes")
        if not self._enough:
            self._enough, self._came = self._receiver.chunk(piece), True

    def waits(self) -> None:
        if not self._came:
            return
        self._came = False
        timeouts, move = self._limits.timeouts, self._limits.watchdog.move
        if self._enough:
            move(self._watch, Phase.DRAIN, DRAIN_S)
        elif self._receiver.sufficient:
            move(self._watch, Phase.BODY, min(LAST_WORDS_S, timeouts.inter_chunk_s))
        else:
            move(self._watch, Phase.BODY, timeouts.inter_chunk_s)


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
