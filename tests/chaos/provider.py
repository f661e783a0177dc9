"""The provider of the rehearsal, a process of its own: OpenAI's chat form, faults by seed, and a log on disk.

Every call leaves two lines of JSON in the log: `start` as its request was read, `end` as its fate was carried out.
Times are the monotonic clock, which all processes of a host share. Which process called is told by a header that
each boot of `serve` is configured with. An answer names its call, so that a reply tells which call it came from.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any

from aiohttp import web

BOOT_HEADER = "X-Boot"
FAULTS = ("500", "429", "reset", "cut", "hang", "garbage")
NOT_BILLED = frozenset({"500", "429"})  # by their status; of all others nobody but this log knows
USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
LATENCY_S = (0.005, 0.060)


class Provider:
    """Decides each call's fate by (seed, prompt, how often it came), so that runs with one seed are alike."""

    def __init__(self, log: Path, *, seed: int, faults: float, hang_s: float) -> None:
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._seed, self._faults, self._hang_s = seed, faults, hang_s
        self._calls = itertools.count(1)
        self._times: dict[str, int] = {}

    async def serve(self) -> None:
        """Announce the port on standard output; until standard input closes."""
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._complete)
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=512).start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await runner.cleanup()

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        payload = await request.json()
        prompt = str(payload["messages"][-1]["content"])
        time_of_prompt = self._times[prompt] = self._times.get(prompt, 0) + 1
        chance = random.Random(f"{self._seed}/{prompt}/{time_of_prompt}")
        fate = chance.choice(FAULTS) if chance.random() < self._faults else "ok"
        call = next(self._calls)
        self._write(call, "start", prompt=prompt, boot=request.headers.get(BOOT_HEADER, ""), fate=fate)
        try:
            await asyncio.sleep(self._hang_s if fate == "hang" else chance.uniform(*LATENCY_S))
            self._write(call, "end", how=fate)
            return await self._answer(
                request, fate, f"{prompt} #{call}", streamed=bool(payload.get("stream"))
            )
        except asyncio.CancelledError:
            self._write(call, "end", how="closed")
            raise

    def _write(self, call: int, what: str, **more: str) -> None:
        line = {"at": time.monotonic(), "call": call, "what": what, **more}
        os.write(self._log, json.dumps(line).encode() + b"\n")

    async def _answer(
        self, request: web.Request, fate: str, text: str, *, streamed: bool
    ) -> web.StreamResponse:
        match fate:
            case "500":
                return web.json_response({"error": {"message": "boom", "type": "server_error"}}, status=500)
            case "429":
                error = {"message": "slow down", "type": "rate_limit", "code": "rate_limit_exceeded"}
                return web.json_response({"error": error}, status=429, headers={"retry-after-ms": "200"})
            case "reset":
                _reset(request)
                return web.Response()
            case "garbage":
                return web.Response(
                    text="<html>Welcome to the captive portal</html>", content_type="text/html"
                )
            case _ if streamed:
                return await _stream(request, text, cut=fate == "cut")
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        body = json.dumps({"id": "c", "model": "m", "choices": [choice], "usage": USAGE}).encode()
        response = web.StreamResponse(
            headers={"Content-Type": "application/json", "Content-Length": str(len(body))}
        )
        await response.prepare(request)
        if fate == "cut":
            await response.write(body[: len(body) // 2])
            _reset(request)
            return response
        await response.write(body)
        await response.write_eof()
        return response


def _reset(request: web.Request) -> None:
    """Close with a TCP reset instead of an orderly end."""
    transport = request.transport
    if transport is not None:
        wire = transport.get_extra_info("socket")
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()


async def _stream(request: web.Request, text: str, *, cut: bool) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    half = len(text) // 2
    events: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": text[:half]}}]},
        {"choices": [{"index": 0, "delta": {"content": text[half:]}, "finish_reason": "stop"}]},
        {"choices": [], "usage": USAGE},
    ]
    for event in events:
        await response.write(b"data: " + json.dumps({"id": "c", "model": "m", **event}).encode() + b"\n\n")
        if cut:
            _reset(request)
            return response
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", type=float, default=0.0)
    parser.add_argument("--hang-s", type=float, default=10.0)
    options = parser.parse_args()
    provider = Provider(options.log, seed=options.seed, faults=options.faults, hang_s=options.hang_s)
    asyncio.run(provider.serve())


if __name__ == "__main__":
    main()
