"""One HTTP/1.1 connection to a provider: a request goes out, its response comes in piece by piece, then the next.

The parser is llhttp, Node.js's. There is no stream object between the socket and whoever takes the response: that,
and one parser for all responses of a connection, makes a call a third as dear as through a client session.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from typing import Protocol

import httptools
from aiohttp.connector import Connection as Link

from theo_workers.upstreams.wire import Headers

MAX_HEAD_BYTES = 65_536  # of status line and headers; the answers of providers have some 2,000


class ConnectionFault(Exception):
    """The response did not come, or not whole.

    ├── Unanswered   the connection ended before a response had begun
    ├── CutShort     it ended inside one
    └── NotHttp      what came is no HTTP, or has headers without end
    """


class Unanswered(ConnectionFault):
    """Closed without a response."""


class CutShort(ConnectionFault):
    """Closed inside a response."""


class NotHttp(ConnectionFault):
    """Cannot be read as a response."""


class Taker(Protocol):
    """Takes one response as it comes. What it raises ends the exchange."""

    def head(self, status: int, headers: Headers) -> None:
        """Status line and headers are there."""

    def data(self, piece: bytes) -> None:
        """A piece of the body is there."""

    def waits(self) -> None:
        """That was all for now, and not all of it."""


class HttpConnection(asyncio.Protocol):
    """A connected transport, taken over from whoever connected it; `link` keeps it alive there.

    From the loop's thread only, one exchange at a time.
    """

    # Of the response that is coming; `_begin` sets them.
    _headers: dict[str, str]
    _pieces: list[bytes]
    _status: int
    _fed: int  # bytes, until the headers are whole
    _head_bytes: int
    _headed: bool  # the headers are whole
    _told: bool  # and the taker knows
    _complete: bool
    _reusable: bool
    _until_end: bool  # it ends with the connection

    def __init__(self, link: Link, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._link, self._transport, self._loop = link, transport, loop
        self._parser = httptools.HttpResponseParser(self)
        self._poll = _reader_of(transport)
        self._waiter: asyncio.Future[bool] | None = None
        self._taker: Taker
        self._lost = False  # no further exchange: the other side has closed, or sent what nobody asked for
        self.idle_since = 0.0  # monotonic seconds; whoever keeps it sets this
        self._begin()
        transport.set_protocol(self)

    # -- whoever owns it -----------------------------------------------------------------------------

    def exchange(self, request: bytes, taker: Taker) -> asyncio.Future[bool]:
        """Send `request`; the response goes to `taker`. Resolves, once that is whole, with: may it be used again?

        Raises ConnectionFault, OSError, or what `taker` raised. Cancelled or failed, it must be closed.
        """
        self._begin()
        self._taker = taker
        self._waiter = waiter = self._loop.create_future()
        if self._lost:
            waiter.set_exception(Unanswered())
        else:
            self._transport.write(request)
        return waiter

    @property
    def alive(self) -> bool:
        """Has nothing come since the last response? An end of file counts, seen by the loop or not."""
        return not self._lost and not self._transport.is_closing() and not self._poll()

    def pause(self) -> None:
        """Read no further: the server has to wait. Until `resume`, or `close`."""
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        """At once: what was not sent yet is not sent any more. Idempotent."""
        self._lost = True
        self._transport.abort()
        self._link.close()

    # -- the transport -------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done():
            self.close()  # an answer that nobody asked for must not be taken for the next one
            return
        fault: Exception | None = None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._complete, self._reusable = True, False
        except httptools.HttpParserError:
            fault = NotHttp()
        if not self._headed:
            self._fed += len(data)
        if max(self._fed, self._head_bytes) > MAX_HEAD_BYTES:
            waiter.set_exception(NotHttp())
        else:
            self._hand_over(waiter, fault)

    def eof_received(self) -> None:
        self._ended(None)

    def connection_lost(self, error: Exception | None) -> None:
        self._ended(error)

    # -- the parser ----------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._complete:
            self._reusable = False  # one answer too many

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._headed:
            return  # of a trailer, or of an answer too many
        self._head_bytes += len(name) + len(value)
        self._headers.setdefault(name.lower().decode("latin-1"), value.decode("latin-1").strip())

    def on_headers_complete(self) -> None:
        if self._headed:
            return
        status = self._parser.get_status_code()
        if status < 200 and status != 101:
            self._headers, self._head_bytes = {}, 0  # of an interim response: the real one follows
            return
        self._status, self._headed = status, True
        lengths = self._headers
        chunked = "chunked" in lengths.get("transfer-encoding", "").lower()
        self._until_end = not chunked and "content-length" not in lengths

    def on_body(self, piece: bytes) -> None:
        if not self._complete:
            self._pieces.append(piece)

    def on_message_complete(self) -> None:
        if self._headed and not self._complete:
            self._complete = True
            self._reusable = self._parser.should_keep_alive()

    # -- one response --------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._headers, self._pieces = {}, []
        self._status = self._fed = self._head_bytes = 0
        self._headed = self._told = self._complete = self._reusable = self._until_end = False

    def _hand_over(self, waiter: asyncio.Future[bool], fault: Exception | None) -> None:
        """What has come by now goes to the taker, even in front of a fault: an error's status says enough."""
        try:
            if self._headed and not self._told:
                self._told = True
                self._taker.head(self._status, self._headers)
            for piece in self._pieces:
                self._taker.data(piece)
            self._pieces.clear()
            if not self._complete:
                self._taker.waits()
        except Exception as refusal:  # noqa: BLE001 - it belongs to whoever waits, and is raised there
            waiter.set_exception(refusal)
            return
        if self._complete:
            # Answered before the request had gone out: what is left of it would reach the next one's place.
            sent = not self._transport.get_write_buffer_size()
            waiter.set_result(self._reusable and fault is None and sent and not self._lost)
            del self._taker  # idle, it must not hold on to the last answer
        elif fault is not None:
            waiter.set_exception(fault)

    def _ended(self, error: Exception | None) -> None:
        """The other side sends no more."""
        self._lost = True
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        if self._headed and self._until_end and error is None:
            self._complete = True
            self._hand_over(waiter, None)
        else:
            waiter.set_exception(error or (CutShort() if self._headed else Unanswered()))


def _reader_of(transport: asyncio.Transport) -> Callable[[], object]:
    """Asks the kernel, without waiting, whether anything has come that the loop has not read yet."""
    sock = transport.get_extra_info("socket")
    if sock is None:
        return lambda: True  # it cannot be known: never used twice
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    return lambda: poll.poll(0)
