"""Chat Completions, plain: what is sent, and what is read from answers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theo_workers.errors import (
    ContentFiltered,
    ContextLengthExceeded,
    InvalidRequest,
    ProviderQuotaExhausted,
    ProviderUnavailable,
    RateLimited,
    UpstreamError,
)
from theo_workers.failures import FailureClass
from theo_workers.messages import Completion, Message, Request, Usage
from theo_workers.upstreams.chat_completions import ChatCompletions
from theo_workers.upstreams.chat_dialects import dialect_of
from theo_workers.upstreams.origin import Origin

ORIGIN = Origin(provider="openai")
WIRE = ChatCompletions(ORIGIN, model="gpt-4o-mini")


def encoded(wire: ChatCompletions = WIRE, *, stream: bool = False, **params: Any) -> dict[str, Any]:
    request = Request(messages=(Message(role="user", content="hi"),), params=params, stream=stream)
    body: dict[str, Any] = json.loads(wire.encode(request))
    return body


def decoded(choice: dict[str, Any] | None = None, *, headers: Any = None, **more: Any) -> Completion:
    answer = {"choices": [choice] if choice is not None else [], **more}
    return WIRE.decode(headers or {}, json.dumps(answer).encode())


def failure(choice: dict[str, Any] | None = None, **more: Any) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        decoded(choice, **more)
    return caught.value


def says(content: Any = "hi", finish: Any = "stop", **message: Any) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}


def test_params_go_out_as_they_came() -> None:
    params: dict[str, Any] = {
        "temperature": 0.2,
        "tools": [{"type": "function"}],
        "seed": 7,
        "some_new_one": {"a": [1]},
    }
    assert encoded(**params) == {
        "model": "gpt-4o-mini",
        "messages": [{"role": "user", "content": "hi"}],
        **params,
    }


def test_messages_keep_their_parts_and_calls() -> None:
    messages = (
        Message(role="system", content="s"),
        Message(role="user", content=[{"type": "image_url", "image_url": {"url": "data:..."}}], name="n"),
        Message(role="assistant", tool_calls=[{"id": "1", "type": "function", "function": {"name": "f"}}]),
        Message(role="tool", content="4", tool_call_id="1"),
    )
    body = json.loads(WIRE.encode(Request(messages=messages, params={})))
    assert body["messages"] == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:..."}}], "name": "n"},
        {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f"}}]},
        {"role": "tool", "content": "4", "tool_call_id": "1"},
    ]


@pytest.mark.parametrize("host", ["llm.example", "generativelanguage.googleapis.com"])
def test_signatures_that_came_with_calls_go_back_to_google_only(host: str) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    signed = {**call, "extra_content": {"google": {"thought_signature": "x"}}}
    thought = {**call, "extra_content": {"anthropic": {"thinking_blocks": []}}}
    both = {**call, "extra_content": {**signed["extra_content"], **thought["extra_content"]}}
    calls = [signed, thought, both, {**call, "extra_content": 5}, call]
    turns = (Message(role="user", content="q"), Message(role="assistant", tool_calls=calls))
    wire = ChatCompletions(ORIGIN, model="m", dialect=dialect_of(host))
    said = json.loads(wire.encode(Request(messages=turns, params={})))["messages"]
    assert said == [
        {"role": "user", "content": "q"},
        {
            "role": "assistant",
            "tool_calls": [signed, call, signed, call, call] if "google" in host else [call] * 5,
        },
    ]


def test_a_stream_asks_for_its_usage() -> None:
    body = encoded(stream=True)
    assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True})
    assert "stream" not in encoded()


@pytest.mark.parametrize("name", ["model", "messages", "stream", "stream_options", "n"])
def test_params_cannot_set_what_the_router_owns(name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"params may not set {name}"):
        WIRE.encode(Request(messages=(), params={name: 1}))


@pytest.mark.parametrize("value", [object(), {1: object()}, "\ud800"])
def test_params_that_are_not_json_are_an_invalid_request(value: object) -> None:
    with pytest.raises(InvalidRequest):
        encoded(user=value)


@pytest.mark.parametrize(
    ("model", "host", "sent"),
    [
        ("gpt-4o-mini", "api.openai.com", "max_tokens"),
        ("gpt-4.1", "api.openai.com", "max_tokens"),
        ("o1", "api.openai.com", "max_completion_tokens"),
        ("o3-mini", "api.openai.com", "max_completion_tokens"),
        ("o4-mini-2025-04-16", "api.openai.com", "max_completion_tokens"),
        ("gpt-5", "api.openai.com", "max_completion_tokens"),
        ("gpt-5.2-pro", "api.openai.com", "max_completion_tokens"),
        ("gpt-6.1", "api.openai.com", "max_completion_tokens"),
        ("ft:gpt-5-mini:org", "api.openai.com", "max_completion_tokens"),
        ("gpt-5", "llm.example", "max_tokens"),
        ("o1", "llm.example", "max_tokens"),
    ],
)
def test_thinking_models_at_openai_get_the_newer_name_of_the_cap(model: str, host: str, sent: str) -> None:
    asked = encoded(ChatCompletions(ORIGIN, model=model, dialect=dialect_of(host)), max_tokens=9)
    assert {name: asked[name] for name in asked if "max" in name} == {sent: 9}
    bounded = encoded(ChatCompletions(ORIGIN, model=model, dialect=dialect_of(host), max_output_tokens=50))
    assert {name: bounded[name] for name in bounded if "max" in name} == {sent: 50}


@pytest.mark.parametrize(
    ("params", "sent"),
    [
        ({}, {"max_tokens": 50}),
        ({"max_tokens": None}, {"max_tokens": 50}),
        ({"max_tokens": 40}, {"max_tokens": 40}),
        ({"max_tokens": 60}, {"max_tokens": 50}),
        ({"max_completion_tokens": 60}, {"max_tokens": 50}),
        ({"max_tokens": 60, "max_completion_tokens": 7}, {"max_tokens": 7}),
        ({"max_tokens": "many"}, {"max_tokens": "many"}),
    ],
)
def test_the_configured_cap_is_the_most_that_is_asked_for(params: Any, sent: Any) -> None:
    body = encoded(ChatCompletions(ORIGIN, model="m", max_output_tokens=50), **params)
    assert {name: body[name] for name in body if "max" in name} == sent


@pytest.mark.parametrize(
    ("content", "output"),
    [
        ("hello", "hello"),
        ("", ""),
        (None, ""),
        ("a\0b", "a\ufffdb"),
        ("\U0001f600", "\U0001f600"),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab"),
        ([{"type": "thinking", "thinking": [{"text": "x"}]}, {"type": "text", "text": "b"}], "b"),
        ([7, {"type": "text"}, {"text": 5}], ""),
    ],
)
def test_content_becomes_text(content: Any, output: str) -> None:
    assert decoded(says(content)).output == output


@pytest.mark.parametrize(
    ("told", "finish"),
    [
        ("stop", "stop"),
        ("eos", "stop"),
        ("length", "length"),
        ("model_length", "length"),
        ("tool_calls", "tool_calls"),
        ("function_call", "tool_calls"),
        ("", "other"),
        (None, "other"),
        ("bored", "other"),
    ],
)
def test_finish_reasons_are_mapped(told: Any, finish: str) -> None:
    assert decoded(says(finish=told)).finish_reason == finish


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        (CALL, CALL),
        ({**CALL, "index": 0, "extra_content": {"sig": "x"}}, {**CALL, "extra_content": {"sig": "x"}}),
        ({"id": "c1", "function": {"name": "f", "arguments": {"a": 1}}}, CALL),
        (
            {"id": "", "function": {"name": "f"}},
            {"id": "call_0", "type": "function", "function": {"name": "f", "arguments": "{}"}},
        ),
    ],
)
def test_tool_calls_are_kept_in_openais_form(told: Any, kept: Any) -> None:
    completion = decoded(says(None, "stop", tool_calls=[told]))
    assert completion.finish_reason == "tool_calls"
    assert completion.tool_calls is not None
    assert json.loads(bytes(completion.tool_calls)) == [kept]


def test_the_older_function_call_becomes_a_tool_call() -> None:
    completion = decoded(says(None, "function_call", function_call={"name": "f", "arguments": "{}"}))
    assert completion.tool_calls is not None
    assert json.loads(bytes(completion.tool_calls))[0]["function"] == {"name": "f", "arguments": "{}"}


@pytest.mark.parametrize("calls", [[{}], [{"function": 7}], [{"function": {"name": 1}}]])
def test_unreadable_tool_calls_are_garbage(calls: Any) -> None:
    error = failure(says(None, tool_calls=calls))
    assert (type(error), error.failure) == (ProviderUnavailable, FailureClass.MAYBE)


USAGES: list[Any] = [
    (
        {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
        Usage(prompt_tokens=5, completion_tokens=2),
    ),
    (
        {
            "prompt_tokens": 50,
            "completion_tokens": 20,
            "total_tokens": 70,
            "prompt_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 4},
            "completion_tokens_details": {"reasoning_tokens": 15},
        },
        Usage(
            prompt_tokens=50,
            completion_tokens=20,
            cached_tokens=30,
            cache_write_tokens=4,
            reasoning_tokens=15,
        ),
    ),
    (  # xAI: the total tells that reasoning comes on top
        {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "total_tokens": 115,
            "completion_tokens_details": {"reasoning_tokens": 100},
        },
        Usage(prompt_tokens=10, completion_tokens=105, reasoning_tokens=100),
    ),
    (  # gateways: more reasoning than completion, though the total is without it
        {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "total_tokens": 15,
            "completion_tokens_details": {"reasoning_tokens": 9},
        },
        Usage(prompt_tokens=10, completion_tokens=5, reasoning_tokens=5),
    ),
    (  # DeepSeek
        {"prompt_tokens": 9, "completion_tokens": 1, "prompt_cache_hit_tokens": 8},
        Usage(prompt_tokens=9, completion_tokens=1, cached_tokens=8),
    ),
    (  # Mistral
        {"prompt_tokens": 9, "completion_tokens": 1, "num_cached_tokens": 3},
        Usage(prompt_tokens=9, completion_tokens=1, cached_tokens=3),
    ),
    ({"prompt_tokens": 9, "completion_tokens": None}, Usage(prompt_tokens=9)),
    (
        {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": None},
        Usage(prompt_tokens=5, completion_tokens=2),
    ),
    ({"prompt_tokens": 0, "completion_tokens": 0}, None),
    ({"prompt_tokens": -5, "completion_tokens": "7"}, None),
    ({"prompt_tokens": 1 << 62, "completion_tokens": 10**30}, None),
    ({}, None),
    (None, None),
    ("many", None),
    ([1], None),
]


@pytest.mark.parametrize(("told", "usage"), USAGES)
def test_usage_is_read_as_billed_or_not_at_all(told: Any, usage: Usage | None) -> None:
    assert decoded(says(), usage=told).usage == usage


def test_calls_of_custom_tools_are_kept() -> None:
    call = {"id": "c1", "type": "custom", "custom": {"name": "sql", "input": "SELECT"}}
    completion = decoded(says(None, "tool_calls", tool_calls=[call]))
    assert completion.tool_calls is not None
    assert json.loads(bytes(completion.tool_calls)) == [call]


def test_no_usage_is_none() -> None:
    assert decoded(says()).usage is None


def test_the_providers_own_id_is_kept_if_it_can_be_printed() -> None:
    assert decoded(says(), id="c1").provider_request_id == "c1"
    assert decoded(says(), id="c1", headers={"x-request-id": "r1"}).provider_request_id == "r1"
    assert decoded(says(), id="x" * 129).provider_request_id is None
    assert decoded(says(), id="a\nb").provider_request_id is None
    assert decoded(says(), id=7).provider_request_id is None


@pytest.mark.parametrize(
    "choice",
    [
        says("half", "content_filter"),
        says(None, "stop", refusal="I'm sorry, I can't help with that."),
        says("", "content_filter"),
    ],
)
def test_what_was_withheld_is_content_filtered_with_its_usage(choice: Any) -> None:
    error = failure(choice, usage={"prompt_tokens": 5, "completion_tokens": 2})
    assert isinstance(error, ContentFiltered)
    assert error.usage == Usage(prompt_tokens=5, completion_tokens=2)


@pytest.mark.parametrize("finish", ["error", "abort", "insufficient_system_resource"])
def test_an_answer_that_was_broken_off_is_garbage(finish: str) -> None:
    error = failure(says("half", finish))
    assert (type(error), error.failure) == (ProviderUnavailable, FailureClass.MAYBE)


@pytest.mark.parametrize("more", [{}, {"choices": None}, {"choices": [{}]}, {"choices": [{"message": None}]}])
def test_an_answer_without_a_message_is_garbage(more: Any) -> None:
    error = failure(**more)
    assert (type(error), error.failure) == (ProviderUnavailable, FailureClass.MAYBE)


@pytest.mark.parametrize(
    ("told", "leaf", "class_", "text"),
    [
        (
            {"message": "Provider returned error", "code": 502},
            ProviderUnavailable,
            FailureClass.SERVER,
            "HTTP 502: Provider returned error (retryable: True, provider: openai)",
        ),
        (
            {"message": "slow", "code": 429, "metadata": {"raw": "too busy"}},
            RateLimited,
            FailureClass.RATE_LIMITED,
            "HTTP 429: slow: too busy (retryable: True, provider: openai)",
        ),
        (
            {"message": "x", "type": "insufficient_quota"},
            ProviderQuotaExhausted,
            FailureClass.CREDENTIAL,
            "x (retryable: False, provider: openai)",
        ),
        (
            {"message": "maximum context length is 5 tokens"},
            ContextLengthExceeded,
            FailureClass.CALLER,
            "maximum context length is 5 tokens (retryable: False, provider: openai)",
        ),
        ("odd", ProviderUnavailable, FailureClass.MAYBE, "odd (retryable: True, provider: openai)"),
        (
            {"code": "server_error"},
            ProviderUnavailable,
            FailureClass.MAYBE,
            "server_error (retryable: True, provider: openai)",
        ),
    ],
)
def test_an_error_inside_a_200_is_an_error(
    told: Any, leaf: type[UpstreamError], class_: FailureClass, text: str
) -> None:
    error = failure(error=told)
    assert (type(error), error.failure, str(error)) == (leaf, class_, text)


def test_an_error_in_a_choice_may_have_been_billed() -> None:
    error = failure({**says("half", "error"), "error": {"message": "died", "code": 502}})
    assert (type(error), error.failure) == (ProviderUnavailable, FailureClass.MAYBE)


NAMES = [
    "choices",
    "message",
    "content",
    "usage",
    "error",
    "code",
    "type",
    "tool_calls",
    "function",
    "id",
    "finish_reason",
    "delta",
    "text",
    "index",
    "arguments",
    "name",
    "refusal",
    "x_groq",
    "details",
    "status",
]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
    max_leaves=20,
)


@given(JSON)
def test_any_json_is_a_completion_or_an_upstream_error(answer: Any) -> None:
    try:
        completion = WIRE.decode({}, json.dumps(answer).encode())
    except UpstreamError as error:
        str(error).encode()
    else:
        completion.output.encode()


@given(st.binary(max_size=200))
def test_any_bytes_are_a_completion_or_an_upstream_error(body: bytes) -> None:
    with pytest.raises(UpstreamError):
        WIRE.decode({}, body)
