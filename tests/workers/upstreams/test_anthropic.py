"""Anthropic's Messages format: what is sent, and what is read from answers, streams and refusals."""

from __future__ import annotations

import json
from typing import Any

import pytest
from formats import (
    JPEG,
    PDF,
    PNG,
    SCHEMA,
    WEATHER,
    any_json,
    assembled,
    broken,
    calling,
    calls_of,
    decoded,
    encoded,
    failure,
    fed,
    is_sent_or_refused,
    picture,
    refused,
    result,
    survives,
    told,
)
from hypothesis import given

from theo_workers.errors import (
    AuthenticationFailed,
    ContentFiltered,
    ContextLengthExceeded,
    InvalidRequest,
    ProviderQuotaExhausted,
    ProviderUnavailable,
    RateLimited,
    UpstreamError,
)
from theo_workers.failures import FailureClass
from theo_workers.messages import Message, Usage
from theo_workers.upstreams.anthropic_messages import AnthropicMessages
from theo_workers.upstreams.origin import Origin

ORIGIN = Origin(provider="anthropic")
WIRE = AnthropicMessages(ORIGIN, model="claude-sonnet-4-5")
NEWER = AnthropicMessages(ORIGIN, model="claude-opus-4-8")
OLDER = AnthropicMessages(ORIGIN, model="claude-3-5-sonnet-latest")
USAGE = {
    "input_tokens": 60,
    "cache_creation_input_tokens": 10,
    "cache_read_input_tokens": 30,
    "output_tokens": 20,
    "output_tokens_details": {"thinking_tokens": 15},
}
AS_BILLED = Usage(
    prompt_tokens=100, completion_tokens=20, cached_tokens=30, cache_write_tokens=10, reasoning_tokens=15
)
THINKING = {"type": "thinking", "thinking": "Hm.", "signature": "sig=="}
HIDDEN = {"type": "redacted_thinking", "data": "xyz"}


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **more}


def tool_use(identity: str, name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": identity, "name": name, "input": arguments}


def answer(*content: Any, stop: Any = "end_turn", **more: Any) -> dict[str, Any]:
    about = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude"}
    return {
        **about,
        "content": [*content],
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": USAGE,
        **more,
    }


# Requests

CONVERSATIONS: list[tuple[str, list[Message], dict[str, Any]]] = [
    ("a prompt", [Message(role="user", content="hi")], {"messages": [{"role": "user", "content": "hi"}]}),
    (
        "a system prompt has its own place",
        [Message(role="system", content="s"), Message(role="user", content="hi")],
        {"system": "s", "messages": [{"role": "user", "content": "hi"}]},
    ),
    (
        "all system messages go to the top, each a block of its own",
        [
            Message(role="system", content=[text("s", cache_control={"type": "ephemeral"})]),
            Message(role="user", content="q"),
            Message(role="developer", content="d"),
            Message(role="assistant", content="a"),
            Message(role="user", content="q2"),
        ],
        {
            "system": [text("s", cache_control={"type": "ephemeral"}), text("d")],
            "messages": [
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": [text("a")]},
                {"role": "user", "content": "q2"},
            ],
        },
    ),
    (
        "parts",
        [
            Message(
                role="user",
                content=[
                    text("look", cache_control={"type": "ephemeral"}),
                    picture(PNG, detail="high"),
                    picture(JPEG),
                    {"type": "file", "file": {"file_data": PDF, "filename": "a.pdf"}},
                ],
            )
        ],
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        text("look", cache_control={"type": "ephemeral"}),
                        {
                            "type": "image",
                            "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="},
                        },
                        {"type": "image", "source": {"type": "url", "url": JPEG}},
                        {
                            "type": "document",
                            "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="},
                            "title": "a.pdf",
                        },
                    ],
                }
            ]
        },
    ),
    (
        "results of parallel calls and what the user says then are one turn",
        [
            Message(role="user", content="q"),
            calling(("c1", "weather", '{"city":"Rome"}'), ("functions.time:1", "time", " "), content="wait"),
            result("c1", "sunny"),
            result("functions.time:1", [text("noon"), picture(PNG)]),
            Message(role="user", content="and?"),
        ],
        {
            "messages": [
                {"role": "user", "content": "q"},
                {
                    "role": "assistant",
                    "content": [
                        text("wait"),
                        tool_use("c1", "weather", city="Rome"),
                        tool_use("functions_time_1", "time"),
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "c1", "content": "sunny"},
                        {
                            "type": "tool_result",
                            "tool_use_id": "functions_time_1",
                            "content": [
                                text("noon"),
                                {
                                    "type": "image",
                                    "source": {
                                        "type": "base64",
                                        "media_type": "image/png",
                                        "data": "iVBORw0KGgo=",
                                    },
                                },
                            ],
                        },
                        text("and?"),
                    ],
                },
            ]
        },
    ),
    (
        "turns in a row",
        [Message(role="user", content="a"), Message(role="user", content="b")],
        {"messages": [{"role": "user", "content": [text("a"), text("b")]}]},
    ),
    (
        "thinking comes back in front of the calls that it led to",
        [
            calling(
                ("c1", "f", "{}"),
                content="",
                extra={
                    "anthropic": {"thinking_blocks": [THINKING, HIDDEN]},
                    "google": {"thought_signature": "x"},
                },
            )
        ],
        {"messages": [{"role": "assistant", "content": [THINKING, HIDDEN, tool_use("c1", "f")]}]},
    ),
]


@pytest.mark.parametrize(
    ("messages", "sent"), [case[1:] for case in CONVERSATIONS], ids=[c[0] for c in CONVERSATIONS]
)
def test_a_conversation_becomes_turns(messages: list[Message], sent: dict[str, Any]) -> None:
    assert encoded(WIRE, *messages) == {"model": "claude-sonnet-4-5", "max_tokens": 4096, **sent}


TOOL = {"name": "weather", "description": "of a city", "input_schema": SCHEMA}
FUNCTION = {"type": "function", "function": WEATHER}
PARAMS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"temperature": 0.5, "top_p": 0.9, "top_k": 5}, {"temperature": 0.5, "top_p": 0.9, "top_k": 5}),
    ({"max_tokens": 50}, {"max_tokens": 50}),
    ({"max_completion_tokens": 50, "max_tokens": 70}, {"max_tokens": 50}),
    ({"stop": "END"}, {"stop_sequences": ["END"]}),
    ({"stop": ["a", "b"]}, {"stop_sequences": ["a", "b"]}),
    ({"user": "u"}, {"metadata": {"user_id": "u"}}),
    ({"metadata": {"user_id": "u"}}, {"metadata": {"user_id": "u"}}),
    ({"tools": [FUNCTION]}, {"tools": [TOOL]}),
    (
        {
            "tools": [
                {
                    "type": "function",
                    "function": {"name": "f", "strict": True},
                    "cache_control": {"type": "ephemeral"},
                }
            ]
        },
        {
            "tools": [
                {
                    "name": "f",
                    "strict": True,
                    "cache_control": {"type": "ephemeral"},
                    "input_schema": {"type": "object", "properties": {}},
                }
            ]
        },
    ),
    (
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
    ),
    ({"tools": [FUNCTION], "tool_choice": "auto"}, {"tools": [TOOL], "tool_choice": {"type": "auto"}}),
    ({"tools": [FUNCTION], "tool_choice": "required"}, {"tools": [TOOL], "tool_choice": {"type": "any"}}),
    ({"tools": [FUNCTION], "tool_choice": "none"}, {"tools": [TOOL], "tool_choice": {"type": "none"}}),
    (
        {"tools": [FUNCTION], "tool_choice": {"type": "function", "function": {"name": "weather"}}},
        {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "weather"}},
    ),
    (
        {"tools": [FUNCTION], "parallel_tool_calls": False},
        {"tools": [TOOL], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
    ),
    (
        {"tools": [FUNCTION], "tool_choice": "required", "parallel_tool_calls": False},
        {"tools": [TOOL], "tool_choice": {"type": "any", "disable_parallel_tool_use": True}},
    ),
    ({"tools": [FUNCTION], "parallel_tool_calls": True}, {"tools": [TOOL]}),
    ({"parallel_tool_calls": False}, {}),
    ({"response_format": {"type": "text"}}, {}),
    (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "a", "schema": SCHEMA, "description": "d"},
            }
        },
        {"output_config": {"format": {"type": "json_schema", "schema": {"description": "d", **SCHEMA}}}},
    ),
    ({"seed": None, "presence_penalty": 0, "logprobs": False, "store": False, "verbosity": "medium"}, {}),
    (
        {"thinking": {"type": "adaptive"}, "some_new_one": [1]},
        {"thinking": {"type": "adaptive"}, "some_new_one": [1]},
    ),
]


@pytest.mark.parametrize(("params", "sent"), PARAMS, ids=[str(index) for index in range(len(PARAMS))])
def test_params_are_translated_and_unknown_ones_pass(params: dict[str, Any], sent: dict[str, Any]) -> None:
    plain = {
        "model": "claude-sonnet-4-5",
        "max_tokens": 4096,
        "messages": [{"role": "user", "content": "hi"}],
    }
    assert encoded(WIRE, **params) == {**plain, **sent}


EFFORTS: list[tuple[AnthropicMessages, dict[str, Any], dict[str, Any]]] = [
    (WIRE, {"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}),
    (WIRE, {"reasoning_effort": "minimal"}, {"thinking": {"type": "enabled", "budget_tokens": 1024}}),
    (WIRE, {"reasoning_effort": "medium"}, {"thinking": {"type": "enabled", "budget_tokens": 2048}}),
    (
        WIRE,
        {"reasoning_effort": "high", "max_tokens": 100_000},
        {"max_tokens": 100_000, "thinking": {"type": "enabled", "budget_tokens": 32_000}},
    ),
    (NEWER, {"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}),
    (
        NEWER,
        {"reasoning_effort": "minimal"},
        {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}},
    ),
    (
        NEWER,
        {"reasoning_effort": "xhigh"},
        {"thinking": {"type": "adaptive"}, "output_config": {"effort": "xhigh"}},
    ),
    (OLDER, {"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}),
]


@pytest.mark.parametrize(("wire", "params", "sent"), EFFORTS)
def test_effort_is_a_budget_or_a_level_by_the_models_generation(
    wire: AnthropicMessages, params: dict[str, Any], sent: dict[str, Any]
) -> None:
    body = encoded(wire, **params)
    assert {name: body[name] for name in body if name not in ("model", "messages")} == {
        "max_tokens": 4096,
        **sent,
    }


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("claude-3-7-sonnet-latest", "enabled"),
        ("claude-sonnet-4-0", "enabled"),
        ("claude-sonnet-4-20250514", "enabled"),
        ("claude-opus-4-1-20250805", "enabled"),
        ("claude-haiku-4-5@20251001", "enabled"),
        ("claude-opus-4-6", "adaptive"),
        ("claude-sonnet-4-6", "adaptive"),
        ("claude-sonnet-5", "adaptive"),
        ("claude-fable-5", "adaptive"),
    ],
)
def test_which_models_think_within_a_budget(model: str, kind: str) -> None:
    assert encoded(AnthropicMessages(ORIGIN, model=model), reasoning_effort="low")["thinking"]["type"] == kind


@pytest.mark.parametrize(
    ("configured", "params", "cap"),
    [
        (None, {}, 4096),
        (8192, {}, 8192),
        (8192, {"max_tokens": 100}, 100),
        (8192, {"max_tokens": 9000}, 8192),
        (None, {"max_tokens": 9000}, 9000),
    ],
)
def test_the_cap_is_the_jobs_then_the_models_then_4096(configured: Any, params: Any, cap: int) -> None:
    wire = AnthropicMessages(ORIGIN, model="m", max_output_tokens=configured)
    assert encoded(wire, **params)["max_tokens"] == cap


def test_a_stream_is_asked_for_in_the_body() -> None:
    assert encoded(WIRE, stream=True)["stream"] is True
    assert "stream" not in encoded(WIRE)


@pytest.mark.parametrize(
    ("wire", "params", "reason"),
    [
        (WIRE, {"seed": 0}, "params.seed cannot be sent: Anthropic has none"),
        (WIRE, {"presence_penalty": 1}, "params.presence_penalty cannot be sent"),
        (WIRE, {"frequency_penalty": 1}, "params.frequency_penalty cannot be sent"),
        (WIRE, {"logit_bias": {"1": 5}}, "params.logit_bias cannot be sent"),
        (WIRE, {"logprobs": True}, "params.logprobs cannot be sent"),
        (WIRE, {"top_logprobs": 2}, "params.top_logprobs cannot be sent"),
        (WIRE, {"store": True}, "params.store cannot be sent"),
        (WIRE, {"verbosity": "low"}, "params.verbosity cannot be sent"),
        (WIRE, {"modalities": ["audio"]}, "params.modalities cannot be sent"),
        (WIRE, {"functions": [{}]}, "use tools"),
        (WIRE, {"web_search_options": {}}, "Anthropic's own"),
        (WIRE, {"response_format": {"type": "json_object"}}, "Anthropic has no json_object"),
        (WIRE, {"response_format": {"type": "grammar"}}, "params.response_format must be"),
        (WIRE, {"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "a tool of type custom"),
        (WIRE, {"tool_choice": {"type": "allowed_tools"}}, "Anthropic has no such choice"),
        (WIRE, {"reasoning_effort": "huge"}, "params.reasoning_effort must be one of none, minimal"),
        (WIRE, {"reasoning_effort": "low", "max_tokens": 1024}, "needs max_tokens above 1024"),
        (OLDER, {"reasoning_effort": "low"}, "claude-3-5-sonnet-latest does not reason"),
        (WIRE, {"metadata": "x", "user": "u"}, "params.metadata must be an object"),
        (WIRE, {"system": "x"}, "params may not set system"),
        (WIRE, {"stream_options": {}, "n": 2}, "params may not set n, stream_options"),
    ],
)
def test_what_the_format_cannot_say_is_refused_with_the_reason(
    wire: AnthropicMessages, params: dict[str, Any], reason: str
) -> None:
    assert reason in refused(wire, **params)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (Message(role="user", content="hi", name="Ada"), "a message's name cannot be sent"),
        (
            Message(role="user", content=[{"type": "input_audio", "input_audio": {}}]),
            "type input_audio cannot",
        ),
        (Message(role="user", content=[picture(PNG, detail="low")]), "detail low is not to be had"),
        (Message(role="user", content=[picture("data:image/png,raw")]), "a data: URL must have"),
        (Message(role="user", content=[picture("data:image/png;base64")]), "a data: URL must have"),
        (Message(role="user", content=[picture("data:;base64,AAAA")]), "a data: URL must have"),
        (Message(role="user", content=[{"type": "file", "file": {"file_id": "file-1"}}]), "only file_data"),
        (Message(role="user", content=[{"type": "file", "file": {"file_data": JPEG}}]), "only file_data"),
        (Message(role="system", content=[picture(PNG)]), "a system message can only be text"),
        (Message(role="assistant", content=[picture(PNG)]), "an assistant's turn can only be text"),
        (calling(("c1", "f", "[1]")), "the arguments of tool call c1 are not a JSON object"),
        (calling(("c1", "f", "{")), "the arguments of tool call c1 are not a JSON object"),
        (
            Message(
                role="assistant",
                tool_calls=[{"id": "1", "type": "custom", "custom": {"name": "f", "input": ""}}],
            ),
            "a call of a custom tool cannot be sent",
        ),
    ],
)
def test_messages_that_cannot_be_said_are_refused_with_the_reason(message: Message, reason: str) -> None:
    assert reason in refused(WIRE, message)


# Answers


def test_text_blocks_are_joined_without_a_separator() -> None:
    search = {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "x"}}
    found = {
        "type": "web_search_tool_result",
        "tool_use_id": "s1",
        "content": [{"type": "web_search_result"}],
    }
    read = decoded(WIRE, answer(THINKING, text("Hel"), search, found, text("lo", citations=[])))
    assert (read.output, read.finish_reason, read.tool_calls) == ("Hello", "stop", None)
    assert (read.usage, read.provider_request_id) == (AS_BILLED, "msg_1")
    assert decoded(WIRE, answer(), {"request-id": "req_1"}).provider_request_id == "req_1"


def test_parallel_calls_are_in_the_chat_form() -> None:
    read = decoded(
        WIRE,
        answer(text("wait"), tool_use("t1", "weather", city="Rome"), tool_use("t2", "time"), stop="tool_use"),
    )
    assert calls_of(read) == [("t1", "weather", {"city": "Rome"}), ("t2", "time", {})]
    assert read.output == "wait"


def test_the_thinking_before_calls_goes_to_the_client_and_comes_back_as_it_was() -> None:
    blocks = [THINKING, HIDDEN, tool_use("t1", "f", a=1)]
    read = decoded(WIRE, answer(*blocks, stop="tool_use"))
    assert read.tool_calls is not None
    turn = Message(role="assistant", tool_calls=json.loads(bytes(read.tool_calls)))
    assert encoded(WIRE, turn)["messages"] == [{"role": "assistant", "content": blocks}]


@pytest.mark.parametrize(
    ("stop", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("pause_turn", "other"),
        ("something_new", "other"),
        (None, "other"),
    ],
)
def test_the_reason_to_finish(stop: Any, finish: str) -> None:
    assert decoded(WIRE, answer(text("hi"), stop=stop)).finish_reason == finish


def test_a_refusal_is_content_filtered_with_its_usage() -> None:
    error = failure(WIRE, answer(text("I"), stop="refusal"))
    assert (type(error), error.usage, error.provider_code) == (ContentFiltered, AS_BILLED, "refusal")


@pytest.mark.parametrize(
    ("usage", "billed"),
    [
        ({"input_tokens": 9, "output_tokens": 1}, Usage(prompt_tokens=9, completion_tokens=1)),
        ({"input_tokens": 9}, Usage(prompt_tokens=9)),
        ({"output_tokens": 9}, Usage(completion_tokens=9)),
        (
            {
                "input_tokens": 9,
                "output_tokens": 5,
                "cache_creation_input_tokens": None,
                "cache_read_input_tokens": 3,
            },
            Usage(prompt_tokens=12, completion_tokens=5, cached_tokens=3),
        ),
        (None, None),
        ("many", None),
        ({"output_tokens_details": 7}, None),
        ({"input_tokens": -1}, None),
    ],
)
def test_usage_is_read_as_billed_or_not_at_all(usage: Any, billed: Usage | None) -> None:
    assert decoded(WIRE, answer(text("hi"), usage=usage)).usage == billed


@pytest.mark.parametrize(
    "told",
    [{}, [], "hi", {"content": None}, {"content": "hi"}, answer({"type": "tool_use", "id": "t", "name": 5})],
)
def test_an_answer_that_is_none_may_have_been_billed(told: Any) -> None:
    error = failure(WIRE, told)
    assert (type(error), error.failure) == (ProviderUnavailable, FailureClass.MAYBE)


def test_an_error_inside_a_200_is_an_error() -> None:
    error = failure(WIRE, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})
    assert (type(error), error.failure, error.detail) == (
        ProviderUnavailable,
        FailureClass.SERVER,
        "Overloaded",
    )


# Streams

START = {
    "type": "message_start",
    "message": {
        **answer(stop=None),
        "usage": {"input_tokens": 60, "cache_read_input_tokens": 30, "output_tokens": 1},
    },
}
STOP = {"type": "message_stop"}


def begins(index: int, block: dict[str, Any]) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(index: int, kind: str, **content: str) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": f"{kind}_delta", **content}}


def stopping(reason: str = "end_turn", **usage: Any) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": usage}


WORDS = [
    begins(0, text("")),
    {"type": "ping"},
    delta(0, "text", text="Hel"),
    delta(0, "text", text="lo"),
    {"type": "content_block_stop", "index": 0},
]


def test_text_comes_piece_by_piece() -> None:
    events = (START, *WORDS, stopping(output_tokens=20), STOP)
    deltas, read = assembled(WIRE, *events)
    assert deltas == ["Hel", "lo"]
    assert (read.finish_reason, read.provider_request_id) == ("stop", "msg_1")
    assert fed(WIRE, *events)[1].done


@pytest.mark.parametrize(
    ("usage", "billed"),
    [
        ({"output_tokens": 20}, Usage(prompt_tokens=90, completion_tokens=20, cached_tokens=30)),
        (  # server tools: the last input counts
            {"input_tokens": 500, "cache_read_input_tokens": 30, "output_tokens": 20},
            Usage(prompt_tokens=530, completion_tokens=20, cached_tokens=30),
        ),
        (USAGE, AS_BILLED),
        ({}, Usage(prompt_tokens=90, completion_tokens=1, cached_tokens=30)),
    ],
)
def test_the_last_usage_counts_as_far_as_it_goes(usage: Any, billed: Usage) -> None:
    assert assembled(WIRE, START, *WORDS, stopping(**usage), STOP)[1].usage == billed


def test_streamed_calls_are_whole() -> None:
    read = assembled(
        WIRE,
        START,
        *WORDS,
        begins(1, tool_use("t1", "weather")),
        delta(1, "input_json", partial_json=""),
        delta(1, "input_json", partial_json='{"city"'),
        begins(2, tool_use("t2", "time")),  # blocks may interleave
        delta(1, "input_json", partial_json=':"Rome"}'),
        begins(3, tool_use("t3", "zone", at="start")),
        begins(4, {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}),
        delta(4, "input_json", partial_json='{"query":"x"}'),
        stopping("tool_use", output_tokens=20),
        STOP,
    )[1]
    assert calls_of(read) == [
        ("t1", "weather", {"city": "Rome"}),
        ("t2", "time", {}),
        ("t3", "zone", {"at": "start"}),
    ]
    assert read.output == "Hello"


def test_streamed_thinking_is_kept_for_its_calls_and_is_no_text() -> None:
    deltas, read = assembled(
        WIRE,
        START,
        begins(0, {"type": "thinking", "thinking": "", "signature": ""}),
        delta(0, "thinking", thinking="H"),
        delta(0, "thinking", thinking="m."),
        delta(0, "signature", signature="sig=="),
        begins(1, HIDDEN),
        begins(2, tool_use("t1", "f")),
        stopping("tool_use", output_tokens=20),
        STOP,
    )
    assert deltas == []
    assert read.tool_calls is not None
    kept = json.loads(bytes(read.tool_calls))[0]["extra_content"]
    assert kept == {"anthropic": {"thinking_blocks": [THINKING, HIDDEN]}}


def test_blocks_may_begin_with_content() -> None:
    deltas, read = assembled(
        WIRE,
        START,
        begins(0, {"type": "thinking", "thinking": "H", "signature": "sig=="}),
        delta(0, "thinking", thinking="m."),
        begins(1, text("Hel")),
        delta(1, "text", text="lo"),
        begins(2, {"type": "document", "text": "not the answer"}),
        begins(3, tool_use("t1", "f")),
        stopping("tool_use"),
        STOP,
    )
    assert deltas == ["Hel", "lo"]
    assert read.tool_calls is not None
    assert json.loads(bytes(read.tool_calls))[0]["extra_content"]["anthropic"]["thinking_blocks"] == [
        THINKING
    ]


def test_the_reason_to_stop_makes_a_stream_whole_even_if_its_last_event_is_lost() -> None:
    assert (
        assembled(WIRE, START, *WORDS, stopping("max_tokens", output_tokens=2))[1].finish_reason == "length"
    )


@pytest.mark.parametrize("events", [[], [START], [START, *WORDS], [START, {"type": "ping"}]])
def test_a_stream_that_breaks_off_is_not_an_answer(events: list[Any]) -> None:
    assert not fed(WIRE, *events)[1].sufficient
    error = broken(WIRE, *events)
    assert (type(error), error.failure) == (ProviderUnavailable, FailureClass.MAYBE)
    assert error.usage == (Usage(prompt_tokens=90, completion_tokens=1, cached_tokens=30) if events else None)


def test_a_piece_of_a_block_that_never_began_is_garbage() -> None:
    assert broken(WIRE, START, delta(0, "text", text="x")).failure is FailureClass.MAYBE


def test_a_streamed_refusal_is_content_filtered() -> None:
    error = broken(WIRE, START, *WORDS, stopping("refusal", output_tokens=20), STOP)
    assert isinstance(error, ContentFiltered)
    assert error.usage is not None
    assert error.usage.completion_tokens == 20


IN_STREAM: list[tuple[str, str, bool, type[UpstreamError], FailureClass]] = [
    ("overloaded_error", "Overloaded", False, ProviderUnavailable, FailureClass.SERVER),
    ("overloaded_error", "Overloaded", True, ProviderUnavailable, FailureClass.MAYBE),
    ("rate_limit_error", "slow", False, RateLimited, FailureClass.RATE_LIMITED),
    ("api_error", "Internal server error", False, ProviderUnavailable, FailureClass.MAYBE),
    ("timeout_error", "late", True, ProviderUnavailable, FailureClass.MAYBE),
    (
        "invalid_request_error",
        "prompt is too long: 9 tokens > 8 maximum",
        False,
        ContextLengthExceeded,
        FailureClass.CALLER,
    ),
    ("authentication_error", "x", False, AuthenticationFailed, FailureClass.CREDENTIAL),
    ("billing_error", "x", False, ProviderQuotaExhausted, FailureClass.CREDENTIAL),
    ("not_found_error", "model: x", False, InvalidRequest, FailureClass.MODEL_UNKNOWN),
]


@pytest.mark.parametrize(("kind", "message", "begun", "leaf", "class_"), IN_STREAM)
def test_an_error_event_ends_the_stream(
    kind: str, message: str, begun: bool, leaf: type[UpstreamError], class_: FailureClass
) -> None:
    event = {"type": "error", "error": {"type": kind, "message": message, "details": None}}
    error = broken(WIRE, START, *(WORDS if begun else []), event)
    assert (type(error), error.failure, error.provider_code) == (leaf, class_, kind)
    assert error.usage is not None


def test_events_and_deltas_of_unknown_kinds_are_passed_over() -> None:
    odd = [{"type": "new_event", "x": 1}, {}, delta(0, "citations"), delta(0, "new", thing="x")]
    assert assembled(WIRE, START, *WORDS, *odd, stopping(), STOP)[0] == ["Hel", "lo"]


# Refusals

Case = tuple[int, str, str, type[UpstreamError], FailureClass]
REFUSALS: list[Case] = [
    (401, "authentication_error", "invalid x-api-key", AuthenticationFailed, FailureClass.CREDENTIAL),
    (403, "permission_error", "x", AuthenticationFailed, FailureClass.CREDENTIAL),
    (404, "not_found_error", "model: claude-x", InvalidRequest, FailureClass.MODEL_UNKNOWN),
    (402, "billing_error", "x", ProviderQuotaExhausted, FailureClass.CREDENTIAL),
    (
        400,
        "invalid_request_error",
        "Your credit balance is too low to access the Anthropic API.",
        ProviderQuotaExhausted,
        FailureClass.CREDENTIAL,
    ),
    (
        400,
        "invalid_request_error",
        "You have reached your specified API usage limits.",
        ProviderQuotaExhausted,
        FailureClass.CREDENTIAL,
    ),
    (
        400,
        "invalid_request_error",
        "prompt is too long: 9 tokens > 8",
        ContextLengthExceeded,
        FailureClass.CALLER,
    ),
    (
        400,
        "invalid_request_error",
        "input length and `max_tokens` exceed context limit: 9 + 9 > 10",
        ContextLengthExceeded,
        FailureClass.CALLER,
    ),
    (400, "invalid_request_error", "temperature: range: 0..1", InvalidRequest, FailureClass.CALLER),
    (413, "request_too_large", "Request exceeds the maximum size", InvalidRequest, FailureClass.CALLER),
    (429, "rate_limit_error", "x", RateLimited, FailureClass.RATE_LIMITED),
    (500, "api_error", "x", ProviderUnavailable, FailureClass.SERVER),
    (504, "timeout_error", "x", ProviderUnavailable, FailureClass.SERVER),
    (529, "overloaded_error", "Overloaded", ProviderUnavailable, FailureClass.SERVER),
]


@pytest.mark.parametrize(("status", "kind", "message", "leaf", "class_"), REFUSALS)
def test_a_refusal_is_the_leaf_of_its_kind(
    status: int, kind: str, message: str, leaf: type[UpstreamError], class_: FailureClass
) -> None:
    body = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_2"}
    error = told(WIRE, status, body, retry_after="7", request_id="req_1")
    assert (type(error), error.failure, error.status_code) == (leaf, class_, status)
    assert (error.provider_code, error.retry_after_s, error.provider_request_id) == (kind, 7.0, "req_1")


def test_a_429_that_means_no_money_is_not_waited_for() -> None:
    details = {"error_code": "enforced_spend_limit_reached"}
    body = {"type": "error", "error": {"type": "rate_limit_error", "message": "x", "details": details}}
    error = told(WIRE, 429, body)
    assert (type(error), error.provider_code) == (ProviderQuotaExhausted, "rate_limit_error")


ANSWER_WORDS = """type message_start message_delta message_stop content_block_start content_block_delta error message
content text tool_use input id name usage input_tokens stop_reason delta partial_json index content_block thinking
signature"""


@given(any_json(ANSWER_WORDS))
def test_any_json_is_a_completion_or_an_upstream_error(answer: Any) -> None:
    survives(WIRE, answer)


@given(
    any_json(
        "type text image_url url file file_data function name id extra_content anthropic thinking_blocks refusal"
    )
)
def test_any_content_and_params_are_sent_or_refused(value: Any) -> None:
    is_sent_or_refused(WIRE, value)
