"""Good streams of all four formats, maltreated: cut anywhere, events lost, doubled, swapped, bytes flipped.

What comes out is the whole answer or an UpstreamError. An answer of which a part is missing is never taken for whole.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theo_workers.clock import FakeClock
from theo_workers.errors import UpstreamError
from theo_workers.messages import Completion
from theo_workers.upstreams.anthropic_messages import AnthropicMessages
from theo_workers.upstreams.chat_completions import ChatCompletions
from theo_workers.upstreams.generate_content import GenerateContent
from theo_workers.upstreams.http_upstream import _Streamed
from theo_workers.upstreams.origin import Origin
from theo_workers.upstreams.responses import Responses
from theo_workers.upstreams.wire import WireFormat

ORIGIN = Origin(provider="p")
TEXTS = ["The ", "sea ", "is wide, ", "and Ω ", "deep."]
WHOLE = "".join(TEXTS)
ARGUMENTS = ['{"ci', 'ty": "Bo', 'nn"}']


def _chat() -> list[Any]:
    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

    begun = {"index": 0, "id": "t1", "type": "function", "function": {"name": "weather", "arguments": ""}}
    pieces = [{"index": 0, "function": {"arguments": piece}} for piece in ARGUMENTS]
    return [
        chunk({"role": "assistant", "content": ""}),
        *[chunk({"content": text}) for text in TEXTS],
        *[chunk({"tool_calls": [piece]}) for piece in [begun, *pieces]],
        chunk({}, "tool_calls"),
        {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 5}},
    ]


def _responses() -> list[Any]:
    message = {"type": "message", "content": [{"type": "output_text", "text": WHOLE}]}
    call = {"type": "function_call", "call_id": "t1", "name": "weather", "arguments": "".join(ARGUMENTS)}
    usage = {"input_tokens": 9, "output_tokens": 5}
    whole = {"id": "r", "status": "completed", "output": [message, call], "usage": usage}
    return [
        {"type": "response.created", "response": {"id": "r", "status": "in_progress"}},
        *[{"type": "response.output_text.delta", "delta": text} for text in TEXTS],
        {"type": "response.output_item.done", "item": message},
        *[{"type": "response.function_call_arguments.delta", "delta": piece} for piece in ARGUMENTS],
        {"type": "response.output_item.done", "item": call},
        {"type": "response.completed", "response": whole},
    ]


def _anthropic() -> list[Any]:
    def delta(index: int, told: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": index, "delta": told}

    return [
        {"type": "message_start", "message": {"id": "m", "usage": {"input_tokens": 9, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *[delta(0, {"type": "text_delta", "text": text}) for text in TEXTS],
        {"type": "content_block_stop", "index": 0},
        {
            "type": "content_block_start",
            "index": 1,
            "content_block": {"type": "tool_use", "id": "t1", "name": "weather", "input": {}},
        },
        *[delta(1, {"type": "input_json_delta", "partial_json": piece}) for piece in ARGUMENTS],
        {"type": "content_block_stop", "index": 1},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 5}},
        {"type": "message_stop"},
    ]


def _gemini() -> list[Any]:
    def chunk(part: dict[str, Any], **more: Any) -> dict[str, Any]:
        usage = {"promptTokenCount": 9, "candidatesTokenCount": 5}
        return {"candidates": [{"content": {"parts": [part]}, **more}], "usageMetadata": usage}

    call = {"functionCall": {"id": "t1", "name": "weather", "args": {"city": "Bonn"}}}
    return [*[chunk({"text": text}) for text in TEXTS], chunk(call), chunk({"text": ""}, finishReason="STOP")]


FORMATS: dict[str, tuple[WireFormat, list[Any]]] = {
    "chat": (ChatCompletions(ORIGIN, model="m"), _chat()),
    "responses": (Responses(ORIGIN, model="m"), _responses()),
    "anthropic": (AnthropicMessages(ORIGIN, model="m"), _anthropic()),
    "gemini": (GenerateContent(ORIGIN, model="m"), _gemini()),
}
END = {"chat": b"data: [DONE]\n\n"}


def events_of(name: str) -> list[bytes]:
    told = FORMATS[name][1]
    return [b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n" for event in told]


def read(name: str, *pieces: bytes) -> tuple[Completion | None, str]:
    """The completion or, for an UpstreamError, None; and what was delivered. Anything else is a defect."""
    deltas: list[str] = []
    wire = FORMATS[name][0]
    streamed = _Streamed(ORIGIN, wire, deltas.append, FakeClock())
    streamed.head(200, {"content-type": "text/event-stream"})
    with contextlib.suppress(UpstreamError):
        for piece in pieces:
            if streamed.chunk(piece):
                break
        completion = streamed.finish(lambda body: wire.decode({}, body.data))
        return completion, "".join(deltas)
    return None, "".join(deltas)


def assert_whole(completion: Completion, delivered: str) -> None:
    assert completion.output == delivered == WHOLE
    assert completion.finish_reason == "tool_calls"
    assert completion.tool_calls is not None
    (call,) = json.loads(bytes(completion.tool_calls))
    assert (call["id"], call["function"]["name"]) == ("t1", "weather")
    assert json.loads(call["function"]["arguments"]) == {"city": "Bonn"}


@pytest.mark.parametrize("name", FORMATS)
@given(cuts=st.lists(st.integers(0, 2_000), max_size=12))
@settings(max_examples=60, deadline=None)
def test_a_good_stream_is_read_however_it_is_cut_into_pieces(name: str, cuts: list[int]) -> None:
    stream = b"".join(events_of(name)) + END.get(name, b"")
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    completion, delivered = read(name, *(stream[a:b] for a, b in itertools.pairwise(places)))
    assert completion is not None
    assert_whole(completion, delivered)
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (9, 5)


@pytest.mark.parametrize("name", FORMATS)
def test_a_stream_that_ends_at_any_byte_is_whole_or_an_error(name: str) -> None:
    stream = b"".join(events_of(name))
    whole = 0
    for end in range(len(stream)):
        completion, delivered = read(name, stream[:end])
        if completion is None:
            assert WHOLE.startswith(delivered)
        else:
            assert_whole(completion, delivered)
            whole += 1
    assert whole < len(stream) / 3  # only behind the reason to stop


MUTATION = st.tuples(
    st.sampled_from(["lose", "double", "swap", "flip", "insert", "cut"]),
    st.integers(0, 10_000),
    st.integers(0, 255),
)
STRANGERS = [
    b"data: {}\n\n",
    b"data: null\n\n",
    b"data: [1]\n\n",
    b'data: {"type": "ping"}\n\n',
    b": comment\n\n",
    b"event: error\ndata: {}\n\n",
    b'data: {"error": {"message": "overloaded", "type": "overloaded_error"}}\n\n',
    b"\n\n\n",
    b"data: {\n\n",
]


def mutate(events: list[bytes], kind: str, where: int, what: int) -> None:
    at = where % len(events) if events else 0
    match kind:
        case "insert":
            events.insert(at, STRANGERS[what % len(STRANGERS)])
        case "lose" if events:
            del events[at]
        case "double" if events:
            events.insert(at, events[at])
        case "swap" if events:
            events[at], events[at - 1] = events[at - 1], events[at]
        case "cut" if events:
            events[at] = events[at][: where % (len(events[at]) + 1)]
        case "flip" if events and events[at]:
            piece = bytearray(events[at])
            piece[where % len(piece)] ^= what
            events[at] = bytes(piece)


@pytest.mark.parametrize("name", FORMATS)
@given(mutations=st.lists(MUTATION, min_size=1, max_size=6))
@settings(max_examples=150, deadline=None)
def test_a_maltreated_stream_is_an_answer_that_can_be_written_or_an_upstream_error(
    name: str, mutations: list[tuple[str, int, int]]
) -> None:
    events = events_of(name)
    for mutation in mutations:
        mutate(events, *mutation)
    completion, delivered = read(name, b"".join(events))
    delivered.encode()
    if completion is not None:
        assert completion.output.encode() == delivered.encode()
        json.loads(bytes(completion.tool_calls or b"[]"))


@pytest.mark.parametrize("name", FORMATS)
@given(noise=st.lists(st.binary(max_size=40), max_size=10))
@settings(max_examples=100, deadline=None)
def test_noise_is_an_upstream_error(name: str, noise: list[bytes]) -> None:
    assert read(name, *noise)[0] is None
