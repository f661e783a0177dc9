"""Streamed chat answers, event by event."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_chat_completions import JSON

from theo_workers.errors import ContentFiltered, InvalidRequest, UpstreamError
from theo_workers.messages import Completion, Usage
from theo_workers.upstreams.chat_dialects import PLAIN
from theo_workers.upstreams.chat_stream import ChatStream
from theo_workers.upstreams.origin import Origin
from theo_workers.upstreams.sse import SseEvent

ORIGIN = Origin(provider="openai")


def chunk(delta: Any = None, *, finish: Any = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta or {}, "finish_reason": finish}], **more}


def assembled(*chunks: Any) -> tuple[list[str], Completion]:
    stream = ChatStream(ORIGIN, identity=None, dialect=PLAIN)
    deltas = [stream.feed(SseEvent(b"", json.dumps(told).encode())) for told in chunks]
    return [delta for delta in deltas if delta], stream.finish()


def calls_of(*chunks: Any) -> Any:
    completion = assembled(*chunks, chunk(finish="tool_calls"))[1]
    assert completion.finish_reason == "tool_calls"
    assert completion.tool_calls is not None
    return [
        (call["id"], call["function"]["name"], call["function"]["arguments"])
        for call in json.loads(bytes(completion.tool_calls))
    ]


def piece(index: Any, arguments: Any = None, identity: Any = None, name: Any = None) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"index": index, "id": identity, "function": {k: v for k, v in function.items() if v is not None}}


def test_azures_first_chunk_and_usage_chunks_have_no_choices() -> None:
    deltas, completion = assembled(
        {"choices": [], "prompt_filter_results": []},
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "hi"}),
        chunk(finish="stop"),
        {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1}},
    )
    assert deltas == ["hi"]
    assert completion.usage == Usage(prompt_tokens=3, completion_tokens=1)


@pytest.mark.parametrize(
    "last",
    [
        chunk(finish="stop", usage={"prompt_tokens": 3, "completion_tokens": 1}),
        chunk(finish="stop", x_groq={"usage": {"prompt_tokens": 3, "completion_tokens": 1}}),
        {"choices": [{"finish_reason": "stop", "usage": {"prompt_tokens": 3, "completion_tokens": 1}}]},
    ],
    ids=["with the last choice", "Groq's", "Moonshot's"],
)
def test_usage_is_taken_from_where_each_provider_puts_it(last: Any) -> None:
    assert assembled(chunk({"content": "x"}), last)[1].usage == Usage(prompt_tokens=3, completion_tokens=1)


def test_of_repeated_usage_the_last_one_counts() -> None:
    grows = [chunk({"content": "x"}, usage={"prompt_tokens": 3, "completion_tokens": n}) for n in range(1, 4)]
    usage = assembled(*grows, chunk(finish="stop", usage=None))[1].usage
    assert usage is not None
    assert usage.completion_tokens == 3


def test_parallel_tool_calls_are_put_together_by_index() -> None:
    assert calls_of(
        chunk({"tool_calls": [piece(0, "", "a", "f")]}),
        chunk({"tool_calls": [piece(0, '{"x"')]}),
        chunk({"tool_calls": [piece(1, "", "b", "g")]}),
        chunk({"tool_calls": [piece(0, ":1}"), piece(1, "{}")]}),
    ) == [("a", "f", '{"x":1}'), ("b", "g", "{}")]


@pytest.mark.parametrize("index", [0, None], ids=["same index", "no index"])
def test_whole_calls_under_one_index_are_separate_calls(index: Any) -> None:
    assert calls_of(
        chunk({"tool_calls": [piece(index, "{}", "a", "f")]}),
        chunk({"tool_calls": [piece(index, '{"y":2}', "b", "f")]}),
    ) == [("a", "f", "{}"), ("b", "f", '{"y":2}')]


def test_names_and_ids_that_are_repeated_in_every_piece_count_once() -> None:
    assert calls_of(
        chunk({"tool_calls": [piece(0, '{"x"', "a", "f")]}),
        chunk({"tool_calls": [piece(0, ":1}", "a", "f")]}),
    ) == [("a", "f", '{"x":1}')]


def test_arguments_that_are_an_object_are_kept() -> None:
    assert calls_of(chunk({"tool_calls": [piece(0, {"x": 1}, "a", "f")]})) == [("a", "f", '{"x":1}')]


def test_a_refusal_is_content_filtered() -> None:
    with pytest.raises(ContentFiltered, match="I cannot"):
        assembled(chunk({"refusal": "I "}), chunk({"refusal": "cannot"}), chunk(finish="stop"))


def test_text_before_the_filter_struck_is_withheld() -> None:
    with pytest.raises(ContentFiltered):
        assembled(chunk({"content": "half"}), chunk(finish="content_filter"))


def test_other_choices_are_not_ours() -> None:
    other = {"choices": [{"index": 1, "delta": {"content": "no"}, "finish_reason": "length"}]}
    assert assembled(chunk({"content": "yes"}), other, chunk(finish="stop"))[1].output == "yes"


def test_groqs_failed_tool_call_is_the_callers() -> None:
    told = {"error": {"message": "bad", "type": "invalid_request_error", "code": "tool_use_failed"}}
    stream = ChatStream(ORIGIN, identity=None, dialect=PLAIN)
    with pytest.raises(InvalidRequest) as caught:
        stream.feed(SseEvent(b"error", json.dumps(told).encode()))
    assert caught.value.provider_code == "tool_use_failed"


def test_nul_is_replaced_in_deltas_as_in_the_whole() -> None:
    deltas, completion = assembled(chunk({"content": "a\0"}), chunk(finish="stop"))
    assert deltas == [completion.output] == ["a\ufffd"]


@given(st.lists(JSON, max_size=5))
def test_any_events_end_in_a_completion_or_an_upstream_error(events: list[Any]) -> None:
    stream = ChatStream(ORIGIN, identity=None, dialect=PLAIN)
    try:
        texts = [stream.feed(SseEvent(b"", json.dumps(told).encode())) for told in events]
        completion = stream.finish()
    except UpstreamError:
        return
    assert completion.output == "".join(texts)
