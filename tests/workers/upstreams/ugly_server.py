"""A server for tests that behaves exactly as badly as it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

Behaviour = Callable[["Exchange"], Awaitable[None]]

ANSWER: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
}


class Exchange:
    """One request as it came, and the means to answer it."""

    def __init__(self, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        self.head, self.body, self._writer = head.decode("latin-1"), body, writer

    @property
    def headers(self) -> dict[str, str]:
        pairs = (line.partition(": ") for line in self.head.split("\r\n")[1:] if line)
        return {name.lower(): value for name, _, value in pairs}

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def answer(
        self, body: bytes, *, status: int = 200, kind: str = "application/json", **headers: str
    ) -> None:
        extra = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
        await self.send(head.encode() + body)

    async def begin_stream(self, kind: str = "text/event-stream") -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
        await self.send(head.encode())

    async def chunk(self, data: bytes) -> None:
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def end_stream(self) -> None:
        await self.send(b"0\r\n\r\n")

    async def hang(self) -> None:
        """Say nothing more until the client goes away."""
        await asyncio.get_running_loop().create_future()

    def reset(self) -> None:
        """Close with RST."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.close()

    def close(self) -> None:
        self._writer.close()


class UglyServer:
    """Counts what it is asked; `behave` is called once per request."""

    def __init__(self, behave: Behaviour) -> None:
        self.behave = behave
        self.requests: list[Exchange] = []
        self.connections = 0
        self.gone = asyncio.Event()  # set whenever a client has closed
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        early = b""  # of the next request, read while we were looking out for the client's leaving
        try:
            while head := early + await reader.readuntil(b"\r\n\r\n"):
                length = int(next(x for x in head.lower().split(b"\r\n") if b"content-length" in x)[16:])
                exchange = Exchange(head, await reader.readexactly(length), writer)
                self.requests.append(exchange)
                behaving = asyncio.ensure_future(self.behave(exchange))
                looking = asyncio.ensure_future(reader.read(1))
                await asyncio.wait({behaving, looking}, return_when=asyncio.FIRST_COMPLETED)
                looking.cancel()
                await asyncio.wait({looking})
                early = b"" if looking.cancelled() else looking.result()
                if not behaving.done():
                    behaving.cancel()
                    return
                behaving.result()
                if writer.is_closing():
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.gone.set()
            writer.close()


@contextlib.asynccontextmanager
async def ugly_server(behave: Behaviour, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[UglyServer]:
    """A running server on a port that the kernel chose."""
    server = UglyServer(behave)
    serving: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(server.serve(reader, writer))
        serving.add(task)
        task.add_done_callback(serving.discard)

    listener = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for task in list(serving):
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
