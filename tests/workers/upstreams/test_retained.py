"""Streams of very many small values: what they would take decoded is bounded, whatever they are in."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from ugly_server import Exchange, ugly_server

from theo_workers.clock import SystemClock
from theo_workers.errors import ProviderUnavailable
from theo_workers.failures import FailureClass
from theo_workers.messages import Message, Request
from theo_workers.model_spec import ModelSpec
from theo_workers.upstreams.anthropic_messages import AnthropicMessages
from theo_workers.upstreams.chat_completions import ChatCompletions
from theo_workers.upstreams.chat_dialects import dialect_of
from theo_workers.upstreams.generate_content import GenerateContent
from theo_workers.upstreams.openai import OpenAIUpstream
from theo_workers.upstreams.origin import Origin
from theo_workers.upstreams.responses import Responses
from theo_workers.upstreams.sse import SseEvent
from theo_workers.upstreams.wire import WireFormat

CLOCK = SystemClock()
ORIGIN = Origin(provider="p")
CHAT = ChatCompletions(ORIGIN, model="m")
OPENROUTER = ChatCompletions(ORIGIN, model="m", dialect=dialect_of("openrouter.ai"))
BYTES = 20_000_000  # the most that is read of an answer


def chunk(**delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta}]}


def field(number: int, tree: Any) -> dict[str, Any]:
    return chunk(tool_calls=[{"index": 0, f"x{number}": tree}])


def function_field(number: int, tree: Any) -> dict[str, Any]:
    return chunk(tool_calls=[{"index": 0, "function": {f"x{number}": tree}}])


def arguments(number: int, tree: Any) -> dict[str, Any]:
    return chunk(tool_calls=[{"index": number, "function": {"name": "f", "arguments": tree}}])


def detail(number: int, tree: Any) -> dict[str, Any]:
    return chunk(reasoning_details=[{"type": "reasoning.text", "index": 0, f"x{number}": tree}])


def item(_number: int, tree: Any) -> dict[str, Any]:
    return {"type": "response.output_item.done", "item": {"type": "message", "content": tree}}


def block(number: int, tree: Any) -> dict[str, Any]:
    told = {"type": "tool_use", "id": f"c{number}", "name": "f", "input": tree}
    return {"type": "content_block_start", "index": number, "content_block": told}


def call(number: int, tree: Any) -> dict[str, Any]:
    return {
        "candidates": [
            {"content": {"parts": [{"functionCall": {"name": f"f{number}", "args": {"a": tree}}}]}}
        ]
    }


CASES: dict[str, tuple[WireFormat, Callable[[int, Any], dict[str, Any]]]] = {
    "a call's fields": (CHAT, field),
    "a function's fields": (CHAT, function_field),
    "arguments": (CHAT, arguments),
    "details of reasoning": (OPENROUTER, detail),
    "items": (Responses(ORIGIN, model="m"), item),
    "blocks": (AnthropicMessages(ORIGIN, model="m"), block),
    "arguments of Gemini's calls": (GenerateContent(ORIGIN, model="m"), call),
}
TREES = {"small": b"[" + b"{}," * 20 + b"1]", "large": b"[" + b'{"a":1},' * 6_000 + b"1]"}


@pytest.mark.parametrize("size", TREES)
@pytest.mark.parametrize("name", CASES)
def test_a_stream_of_small_values_is_given_up_before_it_fills_the_memory(name: str, size: str) -> None:
    wire, event = CASES[name]
    stream, fed = wire.stream({}), 0

    def feed_on() -> None:
        nonlocal fed
        for number in range(BYTES):
            data = json.dumps(event(number, "tree")).encode().replace(b'"tree"', TREES[size])
            fed += len(data)
            assert fed < BYTES / 4
            stream.feed(SseEvent(b"", data))

    with pytest.raises(ProviderUnavailable, match=r"too many values|more than 4096 parts") as caught:
        feed_on()
    assert caught.value.failure is FailureClass.MAYBE


@pytest.mark.parametrize("more", [{}, {"extra_content": {"a": [1]}}], ids=["plain", "with extras"])
def test_long_arguments_in_many_pieces_are_no_small_values(more: dict[str, Any]) -> None:
    stream = CHAT.stream({})
    begins = {"index": 0, "id": "c", "function": {"name": "f", "arguments": ""}, **more}
    goes_on = SseEvent(
        b"",
        json.dumps(chunk(tool_calls=[{"index": 0, "function": {"arguments": '[1,{"a":[2,3]}],'}}])).encode(),
    )
    stream.feed(SseEvent(b"", json.dumps(chunk(tool_calls=[begins])).encode()))
    for _ in range(100_000):
        stream.feed(goes_on)
    stream.feed(SseEvent(b"", b'{"choices":[{"index":0,"finish_reason":"tool_calls"}]}'))
    assert stream.finish().finish_reason == "tool_calls"


def test_a_large_item_of_text_is_no_small_values_whatever_is_written_in_it() -> None:
    stream = Responses(ORIGIN, model="m").stream({})
    told = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "[1,2,{}]," * 200_000}
    stream.feed(SseEvent(b"", json.dumps({"type": "response.output_item.done", "item": told}).encode()))
    last = {"type": "response.completed", "response": {"id": "r", "status": "completed", "output": []}}
    stream.feed(SseEvent(b"", json.dumps(last).encode()))
    assert stream.finish().finish_reason == "tool_calls"


@pytest.mark.parametrize("unit", [b"{},", b'{"a":1},', b"1,"], ids=["objects", "fields", "numbers"])
async def test_one_event_of_small_values_is_not_even_decoded(unit: bytes) -> None:
    event = b'{"choices":[{"index":0,"delta":{"content":[%b1]}}]}' % (unit * (4_000_000 // len(unit)))

    async def behave(exchange: Exchange) -> None:
        await exchange.begin_stream()
        await exchange.chunk(b"data: " + event + b"\n\n")
        await exchange.end_stream()

    async with ugly_server(behave) as server:
        upstream = OpenAIUpstream(
            ModelSpec(name="m", provider="openai", model="m", base_url=server.url), CLOCK
        )
        request = Request(messages=(Message(role="user", content="hi"),), params={}, stream=True)
        with pytest.raises(ProviderUnavailable, match="too many values"):
            await upstream.generate(request, deadline=CLOCK.monotonic() + 20, on_delta=None)
        await upstream.close()
