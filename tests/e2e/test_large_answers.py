"""Answers of 20 MB, the largest there are: what a process takes for them stays bounded, whatever is in them.

Measured from outside, as the largest part of the process that was ever in memory since the jobs were pushed.
"""

from __future__ import annotations

import asyncio
import re
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.processes import Fleet, Serve, until

BOUND_MB = 150
BYTES = 19_900_000
WIDE = "😀".encode()  # one of them, and each character of a `str` takes four bytes
USAGE = b'"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}'
HITS = 5
AT_ONCE = {"wide": 2, "stream": 2, "structured": 1, "calls": 1}


def _plain(message: bytes) -> bytes:
    return b'{"id":"c","choices":[{"index":0,"message":%b,"finish_reason":"stop"}],%b}' % (message, USAGE)


def _streamed() -> bytes:
    piece = b"x" * 60_000 + WIDE
    event = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % piece
    last = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],%b}\n\ndata: [DONE]\n\n' % USAGE
    return event * (BYTES // len(event) - 1) + last


_CALL = b'"tool_calls":[{"index":0,"id":"c1","type":"function","function":{"name":"f","arguments":"'


def _bodies() -> dict[bytes, bytes]:
    return {
        b"small": _plain(b'{"content":"hi"}'),
        b"wide": _plain(b'{"content":"%b"}' % (b"x" * (BYTES - 200) + WIDE)),
        b"structured": _plain(b'{"content":"%b"}' % (b'{\\"name\\": \\"\xe6\xb1\x89\\"}\\n' * (BYTES // 24))),
        b"calls": _plain(b'{"content":null,%b%b"}}]}' % (_CALL, b"x" * (BYTES - 300) + WIDE)),
        b"stream": _streamed(),
    }


class LargeProvider:
    """Answers with the body that the prompt begins with the name of; in a thread of its own."""

    def __init__(self) -> None:
        self.url, self._bodies = "", _bodies()
        self._loop = asyncio.new_event_loop()
        self._up, self._stop = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(
            target=self._loop.run_until_complete, args=(self._serve(),), daemon=True
        )
        self._thread.start()
        assert self._up.wait(10)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._converse, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        self._up.set()
        async with server:
            await self._stop.wait()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = re.search(rb"(?i)content-length: *(\d+)", head)
                assert size is not None
                asked = await reader.readexactly(int(size[1]))
                kind = next(kind for kind in self._bodies if b'"%b ' % kind in asked)
                form = b"text/event-stream" if b"stream" in kind else b"application/json"
                length = len(self._bodies[kind])
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n" % (form, length)
                )
                for start in range(0, length, 262_144):
                    writer.write(self._bodies[kind][start : start + 262_144])
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


@pytest.fixture
def large_provider() -> Iterator[LargeProvider]:
    provider = LargeProvider()
    yield provider
    provider.close()


def _resident_mb(process: Serve, line: str) -> float:
    with open(f"/proc/{process.pid}/status") as told:
        return next(int(words.split()[1]) for words in told if words.startswith(line)) * 1_024 / 1e6


def _ask_for(fleet: Fleet, kind: str, number: int, **more: str) -> list[dict[str, Any]]:
    """Push so many jobs at once; their final replies, without their texts but with the length of these."""
    for n in range(number):
        fleet.push(prompt=f"{kind} {n}", reply_to=f"{fleet.prefix}:reply:{n}", **more)
    until(lambda: fleet.redis.xlen(fleet.jobs_key()) == 0, 120, "the replies")
    replies = []
    for n in range(number):
        ((_, reply),) = fleet.redis.xrevrange(f"{fleet.prefix}:reply:{n}", count=1)
        texts = {name: len(reply.pop(name, "")) for name in ("output", "tool_calls")}
        replies.append({**reply, **texts})
        fleet.redis.delete(f"{fleet.prefix}:reply:{n}")
    return replies


def _begin_to_measure(process: Serve) -> None:
    with open(f"/proc/{process.pid}/clear_refs", "w") as peaks:
        peaks.write("5")


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_large_answers_take_less_than_the_bound_whatever_is_in_them(
    fleet: Fleet, large_provider: LargeProvider
) -> None:
    fleet.births = None  # its memory is to be its own
    fleet.config["models"] = [fleet.model("fast", base_url=large_provider.url)]
    process = fleet.start().wait_ready()
    _ask_for(fleet, "small", 30)
    before = _resident_mb(process, "VmRSS")
    grown: dict[str, float] = {}
    for kind, number in AT_ONCE.items():
        _begin_to_measure(process)
        replies = _ask_for(fleet, kind, number, **({"stream": "1"} if "stream" in kind else {}))
        assert [one["status"] for one in replies] == ["ok"] * number
        assert all(one["output"] + one["tool_calls"] > BYTES * 0.4 for one in replies)
        grown[kind] = _resident_mb(process, "VmHWM") - before
    assert max(grown.values()) < BOUND_MB, grown


@pytest.mark.parametrize("ledger", ["sqlite:///./theo-ledger.db", "redis"])
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_so_do_as_many_large_answers_of_the_cache_as_are_asked_for_at_once(
    fleet: Fleet, large_provider: LargeProvider, ledger: str
) -> None:
    fleet.config["models"] = [fleet.model("fast", base_url=large_provider.url)]
    fleet.config["ledger"] = {"url": ledger}
    process = fleet.start().wait_ready()
    _ask_for(fleet, "small", 30)
    before = _resident_mb(process, "VmRSS")
    _ask_for(fleet, "wide", HITS)
    _begin_to_measure(process)
    replies = _ask_for(fleet, "wide", HITS)
    assert [(one["cache_hit"], one["output"]) for one in replies] == [("1", BYTES - 200 + 1)] * HITS
    assert _resident_mb(process, "VmHWM") - before < BOUND_MB
