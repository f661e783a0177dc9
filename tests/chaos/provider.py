"""A provider of the rehearsal, a process of its own: OpenAI's chat form, faults by seed, and a log on disk.

Every call leaves two lines of JSON in the log: `start` as its request was read, `end` as its fate was carried out.
Times are the monotonic clock, which all processes of a host share. Which process called is told by a header that
each boot of `serve` is configured with. An answer names its call, so that a reply tells which call it came from.
HTTP is spoken by hand: a web framework would take as much CPU as the daemon that is rehearsed.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

BOOT_HEADER = "X-Boot"
FAULTS = ("500", "429", "reset", "cut", "hang", "garbage")
NOT_BILLED = frozenset({"500", "429"})  # by their status; of all others nobody but this log knows
USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
LATENCY_S = (0.005, 0.060)
_encode, _decode = msgspec.json.Encoder().encode, msgspec.json.Decoder().decode


class Provider:
    """One of `of`. Each call's fate is decided by (seed, prompt, how often it came): runs with one seed are alike."""

    def __init__(
        self, log: Path, *, seed: int, faults: float, hang_s: float, number: int = 0, of: int = 1
    ) -> None:
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._seed, self._faults, self._hang_s = f"{seed}/{number}", faults, hang_s
        self._calls = itertools.count(1 + number, of)  # no two providers count alike
        self._times: dict[str, int] = {}

    async def serve(self) -> None:
        """Announce the port on standard output; until standard input closes."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Connection(self), "127.0.0.1", 0, backlog=512)
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.to_thread(sys.stdin.read)
        server.close()

    def begin(self, prompt: str, boot: str) -> tuple[int, str, float]:
        """A call: its number, its fate, and seconds until then."""
        time_of_prompt = self._times[prompt] = self._times.get(prompt, 0) + 1
        chance = random.Random(f"{self._seed}/{prompt}/{time_of_prompt}")
        fate = chance.choice(FAULTS) if chance.random() < self._faults else "ok"
        call = next(self._calls)
        self._write(call, "start", prompt=prompt, boot=boot, fate=fate)
        return call, fate, self._hang_s if fate == "hang" else chance.uniform(*LATENCY_S)

    def end(self, call: int, how: str) -> None:
        self._write(call, "end", how=how)

    def _write(self, call: int, what: str, **more: str) -> None:
        line = {"at": time.monotonic(), "call": call, "what": what, **more}
        os.write(self._log, _encode(line) + b"\n")


class Connection(asyncio.Protocol):
    """One caller: one request at a time, each whole before it counts."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._loop = asyncio.get_running_loop()
        self._unread = b""
        self._open: tuple[int, asyncio.TimerHandle] | None = None  # a call, and its fate

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._unread += data
        self._read()

    def connection_lost(self, _: Exception | None) -> None:
        if self._open is not None:
            call, fate = self._open
            fate.cancel()
            self._provider.end(call, "closed")

    def _read(self) -> None:
        head, gap, rest = self._unread.partition(b"\r\n\r\n")
        if not gap or self._open is not None:
            return
        names = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        length = int(names[b"content-length"])
        if len(rest) < length:
            return
        payload, self._unread = _decode(rest[:length]), rest[length:]
        prompt = str(payload["messages"][-1]["content"])
        boot = names.get(BOOT_HEADER.lower().encode(), b"").decode()
        call, fate, after_s = self._provider.begin(prompt, boot)
        streamed = bool(payload.get("stream"))
        timer = self._loop.call_later(after_s, self._answer, call, fate, f"{prompt} #{call}", streamed)
        self._open = (call, timer)

    def _answer(self, call: int, fate: str, text: str, streamed: bool) -> None:
        self._open = None
        self._provider.end(call, fate)
        match fate:
            case "500":
                self._say(500, {"error": {"message": "boom", "type": "server_error"}})
            case "429":
                error = {"message": "slow down", "type": "rate_limit", "code": "rate_limit_exceeded"}
                self._say(429, {"error": error}, b"retry-after-ms: 200\r\n")
            case "reset":
                self._reset()
            case "garbage":
                page = b"<html>Welcome to the captive portal</html>"
                self._transport.write(_head(200, b"text/html", len(page)) + page)
            case _ if streamed:
                self._stream(text, cut=fate == "cut")
            case _:
                self._complete(text, cut=fate == "cut")
        self._read()

    def _complete(self, text: str, *, cut: bool) -> None:
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        body = _encode({"id": "c", "model": "m", "choices": [choice], "usage": USAGE})
        head = _head(200, b"application/json", len(body))
        if cut:
            self._transport.write(head + body[: len(body) // 2])
            self._reset()
        else:
            self._transport.write(head + body)

    def _stream(self, text: str, *, cut: bool) -> None:
        half = len(text) // 2
        events: list[dict[str, Any]] = [
            {"choices": [{"index": 0, "delta": {"role": "assistant", "content": text[:half]}}]},
            {"choices": [{"index": 0, "delta": {"content": text[half:]}, "finish_reason": "stop"}]},
            {"choices": [], "usage": USAGE},
        ]
        said = [b"data: " + _encode({"id": "c", "model": "m", **event}) + b"\n\n" for event in events]
        self._transport.write(_head(200, b"text/event-stream", None))
        if cut:
            self._transport.write(_chunk(said[0]))
            self._reset()
        else:
            self._transport.write(b"".join(map(_chunk, [*said, b"data: [DONE]\n\n"])) + b"0\r\n\r\n")

    def _say(self, status: int, body: dict[str, Any], more: bytes = b"") -> None:
        words = _encode(body)
        self._transport.write(_head(status, b"application/json", len(words), more) + words)

    def _reset(self) -> None:
        """Close with a TCP reset instead of an orderly end."""
        wire = self._transport.get_extra_info("socket")
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()


def _head(status: int, kind: bytes, length: int | None, more: bytes = b"") -> bytes:
    framed = b"Transfer-Encoding: chunked" if length is None else b"Content-Length: %d" % length
    return b"HTTP/1.1 %d .\r\nContent-Type: %s\r\n%s\r\n%s\r\n" % (status, kind, framed, more)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", type=float, default=0.0)
    parser.add_argument("--hang-s", type=float, default=10.0)
    parser.add_argument("--number", type=int, default=0)
    parser.add_argument("--of", type=int, default=1)
    options = parser.parse_args()
    provider = Provider(
        options.log, seed=options.seed, faults=options.faults, hang_s=options.hang_s,
        number=options.number, of=options.of,
    )  # fmt: skip
    asyncio.run(provider.serve())


if __name__ == "__main__":
    main()
