"""Streams of very many parts, and pieces that name them in odd ways."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.pace import in_encodings
from theo_workers.errors import ProviderUnavailable
from theo_workers.failures import FailureClass
from theo_workers.upstreams.anthropic_messages import AnthropicMessages
from theo_workers.upstreams.chat_completions import ChatCompletions
from theo_workers.upstreams.generate_content import GenerateContent
from theo_workers.upstreams.indexed import MOST_PARTS, Indexed
from theo_workers.upstreams.origin import Origin
from theo_workers.upstreams.responses import Responses
from theo_workers.upstreams.sse import SseEvent
from theo_workers.upstreams.wire import StreamedAnswer, WireFormat

ORIGIN = Origin(provider="p")
Event = Callable[[int], dict[str, Any]]
FIRST, SECOND = object(), object()


def chat(index: int) -> dict[str, Any]:
    call = {"index": index, "id": f"c{index}", "function": {"name": "f", "arguments": "1"}}
    return {"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]}


def anthropic(index: int) -> dict[str, Any]:
    block = {"type": "tool_use", "id": f"c{index}", "name": "f", "input": {}}
    return {"type": "content_block_start", "index": index, "content_block": block}


def anthropic_goes_on(index: int) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"partial_json": "1"}}


def responses(index: int) -> dict[str, Any]:
    item = {"type": "function_call", "call_id": f"c{index}", "name": "f", "arguments": "{}"}
    return {"type": "response.output_item.done", "item": item}


def gemini(index: int) -> dict[str, Any]:
    call = {"functionCall": {"name": f"f{index}", "args": {}}}
    return {"candidates": [{"content": {"parts": [call]}}]}


FORMATS: dict[str, tuple[WireFormat, Event, Event]] = {
    "chat": (ChatCompletions(ORIGIN, model="m"), chat, chat),
    "anthropic": (AnthropicMessages(ORIGIN, model="m"), anthropic, anthropic_goes_on),
    "responses": (Responses(ORIGIN, model="m"), responses, responses),
    "gemini": (GenerateContent(ORIGIN, model="m"), gemini, gemini),
}


def event_of(told: dict[str, Any]) -> SseEvent:
    return SseEvent(b"", json.dumps(told).encode())


def begun(wire: WireFormat, event: Event, parts: int) -> StreamedAnswer:
    stream = wire.stream({})
    for index in range(parts):
        stream.feed(event_of(event(index)))
    return stream


@pytest.mark.parametrize("name", ["chat", "anthropic"])
def test_a_piece_of_the_first_of_thousands_is_as_cheap_as_one_of_the_only_one(name: str) -> None:
    wire, begins, goes_on = FORMATS[name]
    piece = event_of(goes_on(0))

    def spent(parts: int) -> float:
        stream = begun(wire, begins, parts)

        def feed() -> None:
            for _ in range(500):
                stream.feed(piece)

        return in_encodings(feed, rounds=5)

    assert spent(4_000) < 4 * spent(1)


@pytest.mark.parametrize("name", FORMATS)
def test_an_answer_of_more_parts_than_there_may_be_is_garbage(name: str) -> None:
    wire, event, _ = FORMATS[name]
    stream = begun(wire, event, MOST_PARTS)
    with pytest.raises(ProviderUnavailable, match="more than 4096 parts") as caught:
        stream.feed(event_of(event(MOST_PARTS)))
    assert caught.value.failure is FailureClass.MAYBE


@pytest.mark.parametrize(
    ("index", "same"),
    [
        (0, 0),
        (1, True),
        (-7, -7),
        (10**4_000, 10**4_000),
        ("0", "0"),
        (0.5, 0.5),
        (None, None),
        ([1], [2]),
    ],
    ids=["zero", "true", "negative", "huge", "text", "fraction", "none", "no index"],
)
def test_a_piece_finds_the_latest_part_of_its_index(index: Any, same: Any) -> None:
    parts: Indexed[object] = Indexed()
    assert parts.named(index) is None
    parts.begin(index, object())
    parts.begin(index, FIRST)
    parts.begin("another", SECOND)
    assert parts.named(same) is FIRST
    assert parts.latest is SECOND
    assert len([*parts]) == 3


def test_numbers_whose_hashes_are_equal_are_found_as_fast_as_others() -> None:
    def spent(step: int) -> float:
        def begin_and_look() -> None:
            parts: Indexed[int] = Indexed()
            for number in range(1_000):
                parts.begin(number * step, number)
                parts.named(number * step)

        return in_encodings(begin_and_look, rounds=3)

    assert spent(2**61 - 1) < 10 * spent(1)
