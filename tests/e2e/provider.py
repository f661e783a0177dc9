"""A provider of the tests' own: OpenAI's chat form on the loopback, with a log and programmable answers."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web


@dataclass(frozen=True, kw_only=True)
class Fate:
    """What one call gets. `body` in place of an answer; `usage` is (prompt tokens, completion tokens)."""

    status: int = 200
    latency_s: float = 0.0
    text: str = ""  # default: made from the prompt
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    usage: tuple[int, int] = (10, 5)


def failing(status: int, message: str, code: str | None = None, **more: Any) -> Fate:
    """An error in OpenAI's form."""
    body = {"error": {"message": message, "type": "error", "param": None, "code": code}}
    return Fate(status=status, body=body, **more)


@dataclass(kw_only=True)
class Call:
    """One request as it came. `ended_at` is set when it was answered, or `closed` by the caller before."""

    at: float
    model: str
    prompt: str
    payload: dict[str, Any]
    authorization: str
    ended_at: float | None = None
    closed: bool = False


class Provider:
    """Runs in a thread of its own, so that tests may block. Fates are used up in order; the last one stays."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.url = ""
        self._fates: list[tuple[Callable[[Call], bool], list[Fate]]] = []
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._up.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def answer(self, *fates: Fate, prompt: str = "", model: str = "") -> None:
        """Calls whose prompt begins with `prompt`, to this `model` if given; the newest rule wins."""

        def fits(call: Call) -> bool:
            return call.prompt.startswith(prompt) and model in {"", call.model}

        self._fates.insert(0, (fits, list(fates)))

    def called(self, prompt: str = "", model: str = "") -> list[Call]:
        """The calls whose prompt begins with `prompt`, to this `model` if given, oldest first."""
        return [c for c in list(self.calls) if c.prompt.startswith(prompt) and model in {"", c.model}]

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._complete)
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        self._up.set()
        await self._stop.wait()
        await runner.cleanup()

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        payload = await request.json()
        call = Call(
            at=time.monotonic(),
            model=payload["model"],
            prompt=str(payload["messages"][-1]["content"]),
            payload=payload,
            authorization=request.headers.get("Authorization", ""),
        )
        self.calls.append(call)
        fate = self._next(call)
        try:
            await asyncio.sleep(fate.latency_s)
        except asyncio.CancelledError:
            call.closed, call.ended_at = True, time.monotonic()
            raise
        call.ended_at = time.monotonic()
        if fate.body is not None:
            return web.json_response(fate.body, status=fate.status, headers=fate.headers)
        text = fate.text or f"answer to {call.prompt}"
        if payload.get("stream"):
            return await _streamed(request, call, text, fate)
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        return web.json_response(
            {
                "id": "c",
                "object": "chat.completion",
                "model": call.model,
                "choices": [choice],
                "usage": _usage(fate),
            },
            headers=fate.headers,
        )

    def _next(self, call: Call) -> Fate:
        for fits, fates in self._fates:
            if fits(call):
                return fates.pop(0) if len(fates) > 1 else fates[0]
        return Fate()


def _usage(fate: Fate) -> dict[str, int]:
    prompt, completion = fate.usage
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


async def _streamed(request: web.Request, call: Call, text: str, fate: Fate) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    half = len(text) // 2
    events: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": text[:half]}}]},
        {"choices": [{"index": 0, "delta": {"content": text[half:]}, "finish_reason": "stop"}]},
        {"choices": [], "usage": _usage(fate)},
    ]
    for event in events:
        chunk = {"id": "c", "object": "chat.completion.chunk", "model": call.model, **event}
        await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response
