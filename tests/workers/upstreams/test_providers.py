"""The real providers' adapters over a real connection: where they post to, with which headers, and what comes back."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from formats import USER
from ugly_server import Behaviour, Exchange, ugly_server

from theo_workers.clock import SystemClock
from theo_workers.errors import ProviderUnavailable, RateLimited
from theo_workers.failures import FailureClass
from theo_workers.messages import Completion, Request
from theo_workers.model_spec import ModelSpec
from theo_workers.secret import Secret
from theo_workers.upstreams.build import build_upstream

CLOCK = SystemClock()
KEY = "canary-5a4b3c2d1e0f"


def sse(*events: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\r\n\r\n" for event in events)


RESPONSE = {
    "id": "r",
    "status": "completed",
    "output": [{"type": "message", "content": [{"type": "output_text", "text": "hello"}]}],
}
MESSAGE = {"id": "m", "content": [{"type": "text", "text": "hello"}], "stop_reason": "end_turn"}
CANDIDATE = {"candidates": [{"content": {"parts": [{"text": "hello"}]}, "finishReason": "STOP"}]}
PLAIN: dict[str, Any] = {"openai_responses": RESPONSE, "anthropic": MESSAGE, "gemini": CANDIDATE}
STREAMED = {
    "openai_responses": sse(
        {"type": "response.output_text.delta", "delta": "hello"},
        {"type": "response.completed", "response": RESPONSE},
    ),
    "anthropic": sse(
        {"type": "message_start", "message": {"id": "m"}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hello"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
        {"type": "message_stop"},
    ),
    "gemini": sse(CANDIDATE),
}
KEY_HEADERS = {
    "openai_responses": ("authorization", f"Bearer {KEY}"),
    "anthropic": ("x-api-key", KEY),
    "gemini": ("x-goog-api-key", KEY),
}
TARGETS = {
    ("openai_responses", False): "/v1/responses",
    ("openai_responses", True): "/v1/responses",
    ("anthropic", False): "/v1/messages",
    ("anthropic", True): "/v1/messages",
    ("gemini", False): "/v1/models/some-model:generateContent",
    ("gemini", True): "/v1/models/some-model:streamGenerateContent?alt=sse",
}


def answers(body: bytes, *, status: int = 200, kind: str = "application/json", **headers: str) -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        await exchange.answer(body, status=status, kind=kind, **headers)

    return behave


async def ask(
    provider: str, behave: Behaviour, *, stream: bool, **fields: Any
) -> tuple[Any, list[str], Exchange]:
    """The completion or error, the deltas, and the request as the server saw it."""
    async with ugly_server(behave) as server:
        spec = ModelSpec(
            name="m",
            provider=provider,
            model="some-model",
            base_url=server.url,
            api_key=Secret(KEY),
            **fields,
        )
        upstream = build_upstream(spec, CLOCK, random.Random(1))
        deltas: list[str] = []
        asked = Request(messages=(USER,), params={}, stream=stream)
        outcome: Completion | Exception
        try:
            outcome = await upstream.generate(
                asked, deadline=CLOCK.monotonic() + 5, on_delta=deltas.append if stream else None
            )
        except (ProviderUnavailable, RateLimited) as error:
            outcome = error
        await upstream.close()
        return outcome, deltas, server.requests[0]


@pytest.mark.parametrize(("provider", "stream"), TARGETS)
async def test_each_provider_is_asked_at_its_place_with_the_key_in_its_header_only(
    provider: str, stream: bool
) -> None:
    body = STREAMED[provider] if stream else json.dumps(PLAIN[provider]).encode()
    kind = "text/event-stream" if stream else "application/json"
    completion, deltas, request = await ask(provider, answers(body, kind=kind), stream=stream)
    assert (completion.output, completion.finish_reason) == ("hello", "stop")
    assert deltas == (["hello"] if stream else [])
    line = request.head.split("\r\n")[0]
    assert line == f"POST {TARGETS[provider, stream]} HTTP/1.1"
    name, value = KEY_HEADERS[provider]
    assert request.headers[name] == value
    assert (KEY in line, KEY.encode() in request.body, request.head.count(KEY)) == (False, False, 1)
    assert request.headers.get("anthropic-version") == ("2023-06-01" if provider == "anthropic" else None)


@pytest.mark.parametrize("provider", PLAIN)
async def test_a_streamed_request_answered_in_plain_json_is_understood(provider: str) -> None:
    plain = answers(json.dumps(PLAIN[provider]).encode())
    completion, deltas, _ = await ask(provider, plain, stream=True)
    assert (completion.output, deltas) == ("hello", ["hello"])


@pytest.mark.parametrize("provider", PLAIN)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_is_read_and_shows_no_key(provider: str, stream: bool) -> None:
    body = json.dumps({"error": {"message": f"slow down, {KEY}", "type": "rate_limit_error"}}).encode()
    error, _, _ = await ask(provider, answers(body, status=429, retry_after="3"), stream=stream)
    assert isinstance(error, RateLimited)
    assert (error.retry_after_s, error.provider) == (3.0, provider)
    assert KEY not in str(error)


@pytest.mark.parametrize("provider", PLAIN)
async def test_a_stream_cut_at_its_last_event_is_not_an_answer(provider: str) -> None:
    whole = STREAMED[provider].split(b"\r\n\r\n")
    kept = {"openai_responses": 1, "anthropic": 3, "gemini": 0}[provider]
    cut = b"".join(event + b"\r\n\r\n" for event in whole[:kept])
    error, _, _ = await ask(provider, answers(cut, kind="text/event-stream"), stream=True)
    assert isinstance(error, ProviderUnavailable)
    assert error.failure is FailureClass.MAYBE


async def test_headers_of_the_configuration_win() -> None:
    beta = {"anthropic-version": "2030-01-01", "anthropic-beta": "some-beta"}
    plain = answers(json.dumps(MESSAGE).encode())
    _, _, request = await ask("anthropic", plain, stream=False, headers=beta)
    assert {name: request.headers[name] for name in beta} == beta


async def test_gemini_takes_a_whole_path_as_its_model_and_keeps_the_query() -> None:
    async with ugly_server(answers(STREAMED["gemini"], kind="text/event-stream")) as server:
        spec = ModelSpec(
            name="m", provider="gemini", model="tunedModels/mine", base_url=server.url, query={"a": "b"}
        )
        upstream = build_upstream(spec, CLOCK, random.Random(1))
        asked = Request(messages=(USER,), params={}, stream=True)
        deltas: list[str] = []
        await upstream.generate(asked, deadline=CLOCK.monotonic() + 5, on_delta=deltas.append)
        await upstream.close()
        line = server.requests[0].head.split("\r\n")[0]
        assert line == "POST /v1/tunedModels/mine:streamGenerateContent?alt=sse&a=b HTTP/1.1"
