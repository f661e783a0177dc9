"""The HTTP edge: posts bytes to one endpoint under four clocks, reads what comes back within bounds.

aiohttp's connector connects (DNS, TLS, proxies), and `connection` talks; aiohttp's session is left out. A call then
costs a third of the CPU, and what must not happen has no code that could do it: no resending, redirects, cookies,
proxies from the environment, or unpacking of compressed bodies. It also knows exactly when a request went out, which
is what decides whether it may have been billed.
"""

from __future__ import annotations

import asyncio
import math
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
from theo_workers.upstreams.room import SMALL_BYTES, Room, Share
from theo_workers.upstreams.watchdog import Floor, Phase, Watch, Watchdog
from theo_workers.upstreams.wire import Headers

ERROR_BODY_BYTES = 65_536  # of an error's body, no more is read
DRAIN_S = 0.1  # for the end of a finished stream, so that its connection can be used again
_BLANKS = 4_096  # in front of an answer; more of them are one that drips
LAST_WORDS_S = 5.0  # for usage and the terminal event, once the answer is whole

_FAULTS = (aiohttp.ClientError, ConnectionFault, OSError)


class Receiver(Protocol):
    """Takes one response as it comes. What it raises ends the call."""

    def head(self, status: int, headers: Headers) -> None:
        """Status line and headers have come."""

    def chunk(self, data: bytes) -> bool:
        """A piece of the body has come; True: that is all that is needed of it."""

    def forget(self) -> None:
        """Hold nothing of the response any more: it failed, and an error's traceback may live for long."""

    @property
    def sufficient(self) -> bool:
        """A fault from here on changes nothing."""

    @property
    def streamed(self) -> bool:
        """It was a stream of events."""

    @property
    def kept(self) -> int:
        """Bytes that it holds of the response, more or less."""

    @property
    def midway(self) -> bool:
        """Something has begun that is not whole: no server pauses there to think."""


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

    @property
    def kept(self) -> int:
        return len(self.data)

    def forget(self) -> None:
        self.data = b""

    @property
    def midway(self) -> bool:
        """Some servers send blanks while the model thinks."""
        return not self.data[:_BLANKS].isspace()

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
        self,
        pool: Pool,
        *,
        origin: Origin,
        clock: Clock,
        timeouts: Timeouts,
        max_response_bytes: int,
        room: Room,
    ) -> None:
        self._pool, self._watchdog = pool, Watchdog(clock)
        self._origin, self._clock, self._timeouts = origin, clock, timeouts
        self._limits = _Limits(
            origin,
            self._watchdog,
            timeouts,
            max_response_bytes,
            Floor(timeouts.floor_bytes, timeouts.floor_s),
            room,
        )

    async def exchange(self, body: bytes, receiver: Receiver, *, deadline: float) -> Share | None:
        """Post `body` and hand the response to `receiver`; `deadline` is monotonic seconds.

        A large response comes with its share of the room, to be kept for as long as it is.

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
        answer: _Incoming | None = None
        whole = False
        try:
            connection, head = await self._pool.acquire()
            self._watchdog.move(watch, Phase.FIRST_BYTE, self._timeouts.first_byte_s)
            answer = _Incoming(receiver, watch, self._limits, connection)
            reusable = await connection.exchange(b"%b%d\r\n\r\n%b" % (head, len(body), body), answer)
            whole = True
            if reusable:
                self._pool.give_back(connection, streamed=receiver.streamed)
                connection = None
        except asyncio.CancelledError:
            if not watch.fired or task.uncancel() > cancelling:
                raise
            failure = self._overdue(watch, answer)
        except _FAULTS as fault:
            failure = self._fault(fault, watch.phase)
        finally:
            self._watchdog.stop(watch)
            if connection is not None:
                connection.close()
            if not whole and answer is not None:
                answer.fail()
        if failure is not None and not receiver.sufficient:
            raise failure  # outside the handlers: aiohttp's errors can carry a proxy's credentials
        return answer.share if answer is not None else None

    async def close(self) -> None:
        """Close the pool; calls in flight fail. Idempotent, and a later call opens it anew."""
        self._watchdog.close()
        await self._pool.close()

    def _overdue(self, watch: Watch, answer: _Incoming | None) -> UpstreamError:
        phase = watch.phase
        if answer is not None and answer.share is not None and answer.share.waits:
            return self._origin.garbage("too many large answers at once: this one had to wait too long")
        if phase is Phase.CONNECT and self._pool.crowded:
            return self._origin.error(
                ProviderUnavailable,
                "no connection: too many open files in this process",
                failure=FailureClass.OWN,
            )
        if phase is Phase.CONNECT:
            return self._origin.error(
                ProviderTimeout, "no connection in time", failure=FailureClass.NEVER_SENT
            )
        what = "no answer in time" if phase is Phase.FIRST_BYTE else "the answer stopped coming"
        if watch.due == watch.floor_at:
            what = "the answer came too slowly"
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
    floor: Floor
    room: Room


class _Incoming:
    """Implements `connection.Taker`: one response on its way to its receiver, within bounds and under a clock."""

    __slots__ = ("_connection", "_enough", "_left", "_limits", "_receiver", "_seen", "_watch", "share")

    def __init__(self, receiver: Receiver, watch: Watch, limits: _Limits, connection: HttpConnection) -> None:
        self._receiver, self._watch, self._limits = receiver, watch, limits
        self._connection = connection
        self._left = self._seen = limits.max_response_bytes
        self._enough = False
        self.share: Share | None = None

    def head(self, status: int, headers: Headers) -> None:
        if status < 300 and headers.get("content-encoding", "identity").lower() != "identity":
            raise self._limits.origin.garbage("the answer is compressed, which was not asked for")
        self._receiver.head(status, headers)

    def data(self, piece: bytes) -> None:
        self._left -= len(piece)
        if self._left < 0:
            most = self._limits.max_response_bytes
            raise self._limits.origin.garbage(f"the answer is larger than {most} bytes")
        if not self._enough:
            self._enough = self._receiver.chunk(piece)

    def waits(self) -> None:
        size = self._seen - self._left
        if not size:
            return
        self._seen = self._left
        timeouts, watchdog = self._limits.timeouts, self._limits.watchdog
        if self._enough:
            if self._watch.phase is not Phase.DRAIN:
                watchdog.move(self._watch, Phase.DRAIN, DRAIN_S)
        elif self._receiver.sufficient:
            watchdog.move(self._watch, Phase.BODY, min(LAST_WORDS_S, timeouts.inter_chunk_s))
        else:
            floor = self._limits.floor if self._receiver.midway else None
            watchdog.receive(self._watch, size, timeouts.inter_chunk_s, floor)
            if self._limits.max_response_bytes - self._left > SMALL_BYTES:
                self._make_room()

    def fail(self) -> None:
        """The response did not come whole. An error's status is enough of it."""
        if not self._receiver.sufficient:
            self._receiver.forget()
        if self.share is not None:
            self.share.let_go()

    def _make_room(self) -> None:
        kept = self._receiver.kept
        if kept <= SMALL_BYTES:
            return
        if self.share is None:
            self.share = Share(self._limits.room)
        if not self.share.grow(kept, self._go_on):
            self._connection.pause()
            self._limits.watchdog.move(self._watch, Phase.BODY, math.inf)

    def _go_on(self) -> None:
        self._limits.watchdog.move(self._watch, Phase.BODY, self._limits.timeouts.inter_chunk_s)
        self._connection.resume()


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
