"""OpenAI's Responses format: what is sent, and what is read from answers, streams and refusals."""

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
from ugly_server import Exchange, ugly_server

from theo_workers.clock import SystemClock
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
from theo_workers.messages import Completion, Message, Request, Usage
from theo_workers.model_spec import ModelSpec
from theo_workers.upstreams.openai_responses import OpenAIResponsesUpstream
from theo_workers.upstreams.origin import Origin
from theo_workers.upstreams.responses import Responses

CLOCK = SystemClock()
WIRE = Responses(Origin(provider="openai_responses"), model="gpt-5")
USAGE = {
    "input_tokens": 100,
    "input_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 4},
    "output_tokens": 20,
    "output_tokens_details": {"reasoning_tokens": 15},
    "total_tokens": 120,
}
AS_BILLED = Usage(
    prompt_tokens=100, completion_tokens=20, cached_tokens=30, cache_write_tokens=4, reasoning_tokens=15
)


def message(*texts: str) -> dict[str, Any]:
    parts = [{"type": "output_text", "text": text, "annotations": []} for text in texts]
    return {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": parts}


def function_call(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    return {"type": "function_call", "id": "fc_1", "call_id": call_id, "name": name, "arguments": arguments}


def response(*output: Any, status: str = "completed", **more: Any) -> dict[str, Any]:
    about = {"object": "response", "error": None, "incomplete_details": None}
    return {"id": "resp_1", **about, "status": status, "output": [*output], "usage": USAGE, **more}


# Requests

CONVERSATIONS: list[tuple[str, list[Message], list[Any]]] = [
    ("a prompt", [Message(role="user", content="hi")], [{"role": "user", "content": "hi"}]),
    (
        "roles and turns keep their places",
        [
            Message(role="system", content="s"),
            Message(role="user", content="q"),
            Message(role="assistant", content="a"),
            Message(role="developer", content="d"),
            Message(role="user", content="q2"),
        ],
        [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "q"},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]},
            {"role": "developer", "content": "d"},
            {"role": "user", "content": "q2"},
        ],
    ),
    (
        "parts",
        [
            Message(
                role="user",
                content=[
                    {"type": "text", "text": "look", "prompt_cache_breakpoint": {"mode": "explicit"}},
                    picture(PNG),
                    picture(JPEG, detail="low"),
                    {"type": "file", "file": {"file_data": PDF, "filename": "a.pdf"}},
                    {"type": "file", "file": {"file_id": "file-1"}},
                ],
            ),
            Message(role="assistant", content=[{"type": "text", "text": "seen"}]),
            Message(role="assistant", content=[{"type": "refusal", "refusal": "no"}]),
        ],
        [
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "look", "prompt_cache_breakpoint": {"mode": "explicit"}},
                    {"type": "input_image", "image_url": PNG, "detail": "auto"},
                    {"type": "input_image", "image_url": JPEG, "detail": "low"},
                    {"type": "input_file", "file_data": PDF, "filename": "a.pdf"},
                    {"type": "input_file", "file_id": "file-1"},
                ],
            },
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "seen"}]},
            {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        ],
    ),
    (
        "parallel calls and their results",
        [
            calling(("c1", "weather", '{"city":"Rome"}'), ("c2", "time", ""), content="wait"),
            result("c1", "sunny"),
            result("c2", [{"type": "text", "text": "noon"}, picture(PNG)]),
        ],
        [
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "wait"}]},
            {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city":"Rome"}'},
            {"type": "function_call", "call_id": "c2", "name": "time", "arguments": ""},
            {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
            {
                "type": "function_call_output",
                "call_id": "c2",
                "output": [
                    {"type": "input_text", "text": "noon"},
                    {"type": "input_image", "image_url": PNG, "detail": "auto"},
                ],
            },
        ],
    ),
    (
        "calls of custom tools",
        [
            Message(
                role="assistant",
                tool_calls=[{"id": "c1", "type": "custom", "custom": {"name": "sql", "input": "SELECT"}}],
            ),
            result("c1", "1"),
        ],
        [
            {"type": "custom_tool_call", "call_id": "c1", "name": "sql", "input": "SELECT"},
            {"type": "custom_tool_call_output", "call_id": "c1", "output": "1"},
        ],
    ),
]


@pytest.mark.parametrize(
    ("messages", "items"), [case[1:] for case in CONVERSATIONS], ids=[c[0] for c in CONVERSATIONS]
)
def test_a_conversation_becomes_items(messages: list[Message], items: list[Any]) -> None:
    assert encoded(WIRE, *messages)["input"] == items


PARAMS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    (
        {"temperature": 0.5, "top_p": 0.9, "user": "u", "seed": None},
        {"temperature": 0.5, "top_p": 0.9, "user": "u"},
    ),
    ({"max_tokens": 50}, {"max_output_tokens": 50}),
    ({"max_completion_tokens": 50, "max_tokens": 70}, {"max_output_tokens": 50}),
    ({"reasoning_effort": "low"}, {"reasoning": {"effort": "low"}}),
    (
        {"reasoning_effort": "low", "reasoning": {"summary": "auto"}},
        {"reasoning": {"effort": "low", "summary": "auto"}},
    ),
    ({"verbosity": "low"}, {"text": {"verbosity": "low"}}),
    ({"response_format": {"type": "json_object"}}, {"text": {"format": {"type": "json_object"}}}),
    (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "a", "schema": SCHEMA, "strict": True},
            }
        },
        {"text": {"format": {"type": "json_schema", "name": "a", "schema": SCHEMA, "strict": True}}},
    ),
    # What is not said is strict here and is not in the chat format.
    (
        {"tools": [{"type": "function", "function": WEATHER}]},
        {"tools": [{"type": "function", "strict": False, **WEATHER}]},
    ),
    (
        {"tools": [{"type": "function", "function": {"name": "f", "strict": True}}, {"type": "web_search"}]},
        {
            "tools": [
                {"type": "function", "name": "f", "parameters": None, "strict": True},
                {"type": "web_search"},
            ]
        },
    ),
    (
        {"tools": [{"type": "custom", "custom": {"name": "sql", "description": "d"}}]},
        {"tools": [{"type": "custom", "name": "sql", "description": "d"}]},
    ),
    ({"tool_choice": "required"}, {"tool_choice": "required"}),
    (
        {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"tool_choice": {"type": "function", "name": "f"}},
    ),
    (
        {
            "tool_choice": {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "f"}}]},
            }
        },
        {
            "tool_choice": {
                "type": "allowed_tools",
                "mode": "auto",
                "tools": [{"type": "function", "name": "f"}],
            }
        },
    ),
    ({"parallel_tool_calls": False, "store": True}, {"parallel_tool_calls": False, "store": True}),
    ({"logprobs": True, "top_logprobs": 2}, {"include": ["message.output_text.logprobs"], "top_logprobs": 2}),
    ({"logprobs": True, "include": ["x"]}, {"include": ["x", "message.output_text.logprobs"]}),
    ({"stop": [], "presence_penalty": 0, "logit_bias": {}, "frequency_penalty": 0.0}, {}),
    ({"some_new_one": {"a": [1]}}, {"some_new_one": {"a": [1]}}),
]


@pytest.mark.parametrize(("params", "sent"), PARAMS, ids=[str(index) for index in range(len(PARAMS))])
def test_params_are_translated_and_unknown_ones_pass(params: dict[str, Any], sent: dict[str, Any]) -> None:
    body = encoded(WIRE, **params)
    assert body == {"model": "gpt-5", "input": [{"role": "user", "content": "hi"}], "store": False, **sent}


def test_a_stream_is_asked_for_in_the_body() -> None:
    assert encoded(WIRE, stream=True)["stream"] is True


@pytest.mark.parametrize(
    ("params", "cap"),
    [({}, 90), ({"max_tokens": 60}, 60), ({"max_tokens": 100}, 90), ({"max_output_tokens": 500}, 90)],
)
def test_the_configured_cap_is_the_most_that_is_asked_for(params: dict[str, Any], cap: int) -> None:
    bounded = Responses(Origin(provider="x"), model="m", max_output_tokens=90)
    assert encoded(bounded, **params)["max_output_tokens"] == cap


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"stop": "END"}, "params.stop cannot be sent: the Responses format has none"),
        ({"seed": 0}, "params.seed cannot be sent"),
        ({"presence_penalty": 1}, "params.presence_penalty cannot be sent"),
        ({"frequency_penalty": -0.5}, "params.frequency_penalty cannot be sent"),
        ({"logit_bias": {"1": 5}}, "params.logit_bias cannot be sent"),
        ({"prediction": {"type": "content"}}, "params.prediction cannot be sent"),
        ({"modalities": ["audio"]}, "params.modalities cannot be sent"),
        ({"functions": [{}]}, "use tools"),
        ({"function_call": "auto"}, "use tool_choice"),
        ({"web_search_options": {}}, "use a tool"),
        ({"response_format": {"type": "grammar"}}, "params.response_format must be"),
        ({"response_format": {"type": "json_schema"}}, "params.response_format must be"),
        ({"tools": [{"type": "function", "function": {}}]}, "params.tools"),
        ({"tools": ["f"]}, "params.tools must be a list of objects"),
        ({"reasoning": 5, "reasoning_effort": "low"}, "params.reasoning must be an object"),
        ({"background": True}, "params may not set background"),
        ({"input": "x", "n": 2}, "params may not set input, n"),
        ({"instructions": "x"}, "params may not set instructions"),
        ({"user": object()}, "params or messages cannot be read"),
    ],
)
def test_what_the_format_cannot_say_is_refused_with_the_reason(params: dict[str, Any], reason: str) -> None:
    assert reason in refused(WIRE, **params)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (Message(role="user", content="hi", name="Ada"), "a message's name cannot be sent"),
        (
            Message(role="user", content=[{"type": "input_audio", "input_audio": {}}]),
            "type input_audio cannot",
        ),
        (Message(role="user", content=[picture(PNG, detail="tiny")]), "detail tiny is not to be had"),
        (Message(role="user", content=[{"type": "image_url", "image_url": {}}]), "it has no image_url.url"),
        (Message(role="assistant", content=[picture(PNG)]), "type image_url cannot be sent"),
        (Message(role="tool", content="x"), "must have a tool_call_id"),
        (Message(role="tool", content="x", tool_call_id=""), "must have a tool_call_id"),
        (Message(role="assistant", tool_calls=[{"id": "1"}]), "a tool call must have an id"),
    ],
)
def test_messages_that_cannot_be_said_are_refused_with_the_reason(message: Message, reason: str) -> None:
    assert reason in refused(WIRE, message)


# Answers


def test_the_text_of_all_messages_is_the_output() -> None:
    reasoning = {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "?"}],
    }
    answer = decoded(
        WIRE, response(reasoning, message("Hel", "lo"), {"type": "web_search_call"}, message(" you"))
    )
    assert (answer.output, answer.finish_reason, answer.tool_calls) == ("Hello you", "stop", None)
    assert answer.usage == AS_BILLED
    assert answer.provider_request_id == "resp_1"
    assert decoded(WIRE, response(), {"x-request-id": "req_1"}).provider_request_id == "req_1"


def test_only_messages_speak() -> None:
    item = {**message("aside"), "type": "mcp_call"}
    assert decoded(WIRE, response(item, {"type": "message", "content": "odd"}, message("hi"))).output == "hi"


def test_parallel_calls_are_in_the_chat_form() -> None:
    first, second = function_call("c1", "weather", '{"city":"Rome"}'), function_call("c2", "time", "")
    answer = decoded(WIRE, response(message("wait"), first, second))
    assert calls_of(answer) == [("c1", "weather", {"city": "Rome"}), ("c2", "time", {})]
    assert answer.output == "wait"


def test_a_call_of_a_custom_tool_is_in_the_chat_form() -> None:
    call = {"type": "custom_tool_call", "id": "ct_1", "call_id": "c1", "name": "sql", "input": "SELECT"}
    answer = decoded(WIRE, response(call))
    assert answer.tool_calls is not None
    assert json.loads(bytes(answer.tool_calls)) == [
        {"id": "c1", "type": "custom", "custom": {"name": "sql", "input": "SELECT"}}
    ]


@pytest.mark.parametrize(
    ("status", "details", "finish"),
    [
        ("completed", None, "stop"),
        ("incomplete", {"reason": "max_output_tokens"}, "length"),
        ("incomplete", {"reason": "something_new"}, "other"),
        ("incomplete", None, "length"),
    ],
)
def test_the_reason_to_finish(status: str, details: Any, finish: str) -> None:
    answer = decoded(WIRE, response(message("half"), status=status, incomplete_details=details))
    assert (answer.output, answer.finish_reason) == ("half", finish)


@pytest.mark.parametrize(
    "answer",
    [
        response(message("half"), status="incomplete", incomplete_details={"reason": "content_filter"}),
        response({"type": "message", "content": [{"type": "refusal", "refusal": "I can't."}]}),
    ],
)
def test_what_was_withheld_is_content_filtered_with_its_usage(answer: Any) -> None:
    error = failure(WIRE, answer)
    assert (type(error), error.usage) == (ContentFiltered, AS_BILLED)


@pytest.mark.parametrize(
    "answer",
    [
        response(status="queued"),
        response(status="in_progress"),
        response(status="failed"),
        response(message("half"), status="cancelled"),
        response(function_call("c1", "f", "{}") | {"name": None}),
        {"id": "resp_1", "status": "completed"},
        {},
        [],
        "hello",
    ],
)
def test_an_answer_that_is_none_may_have_been_billed(answer: Any) -> None:
    error = failure(WIRE, answer)
    assert (type(error), error.failure) == (ProviderUnavailable, FailureClass.MAYBE)


@pytest.mark.parametrize("usage", [None, {}, "many", {"input_tokens": -1}, {"output_tokens_details": 7}])
def test_odd_usage_is_none_and_spoils_nothing(usage: Any) -> None:
    answer = decoded(WIRE, response(message("hi"), usage=usage))
    assert (answer.output, answer.usage) == ("hi", None)


@pytest.mark.parametrize(
    ("usage", "billed"),
    [
        ({"input_tokens": 5}, Usage(prompt_tokens=5)),
        ({"output_tokens": 5, "output_tokens_details": None}, Usage(completion_tokens=5)),
    ],
)
def test_usage_is_read_as_far_as_it_goes(usage: Any, billed: Usage) -> None:
    assert decoded(WIRE, response(message("hi"), usage=usage)).usage == billed


FAILED: list[tuple[dict[str, Any], type[UpstreamError], FailureClass]] = [
    ({"code": "server_error", "message": "x"}, ProviderUnavailable, FailureClass.MAYBE),
    ({"code": "rate_limit_exceeded", "message": "x"}, RateLimited, FailureClass.RATE_LIMITED),
    ({"code": "insufficient_quota", "message": "x"}, ProviderQuotaExhausted, FailureClass.CREDENTIAL),
    ({"code": "invalid_prompt", "message": "x"}, InvalidRequest, FailureClass.CALLER),
    (
        {"code": "invalid_prompt", "message": "violating our usage policy"},
        ContentFiltered,
        FailureClass.CALLER,
    ),
    ({"code": "image_too_large", "message": "x"}, InvalidRequest, FailureClass.CALLER),
    ({"code": "image_content_policy_violation", "message": "x"}, ContentFiltered, FailureClass.CALLER),
    ({"code": "context_length_exceeded", "message": "x"}, ContextLengthExceeded, FailureClass.CALLER),
    ({"code": "something_new", "message": "x"}, ProviderUnavailable, FailureClass.MAYBE),
]


@pytest.mark.parametrize(("error", "leaf", "class_"), FAILED)
def test_a_failed_response_is_an_error(
    error: dict[str, Any], leaf: type[UpstreamError], class_: FailureClass
) -> None:
    whole = response(status="failed", error=error, usage=None)
    for caught in (
        failure(WIRE, whole),
        broken(WIRE, CREATED, {"type": "response.failed", "response": whole}),
    ):
        assert (type(caught), caught.failure, caught.provider_code) == (leaf, class_, error["code"])


def test_a_failure_after_work_may_have_been_billed() -> None:
    caught = failure(WIRE, response(status="failed", error={"code": "rate_limit_exceeded", "message": "x"}))
    assert (type(caught), caught.failure, caught.usage) == (RateLimited, FailureClass.MAYBE, AS_BILLED)


# Streams

CREATED = {"type": "response.created", "response": response(status="in_progress", usage=None)}


def delta(text: Any) -> dict[str, Any]:
    return {"type": "response.output_text.delta", "item_id": "msg_1", "output_index": 0, "delta": text}


def item_done(item: dict[str, Any], index: int = 0) -> dict[str, Any]:
    return {"type": "response.output_item.done", "output_index": index, "item": item}


def ends(*output: Any, kind: str = "completed", **more: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}", "response": response(*output, status=kind, **more)}


def test_text_comes_piece_by_piece_and_the_last_event_has_the_usage() -> None:
    events = (CREATED, delta("Hel"), delta("lo"), item_done(message("Hello")), ends(message("Hello")))
    deltas, answer = assembled(WIRE, *events)
    assert deltas == ["Hel", "lo"]
    assert (answer.finish_reason, answer.usage, answer.provider_request_id) == ("stop", AS_BILLED, "resp_1")
    assert fed(WIRE, *events)[1].done


@pytest.mark.parametrize("repeated", [True, False])
def test_streamed_calls_are_whole(repeated: bool) -> None:
    calls = [function_call("c1", "weather", '{"city":"Rome"}'), function_call("c2", "time", "{}")]
    pieces = [
        {"type": "response.function_call_arguments.delta", "delta": piece}
        for piece in ('{"city"', ':"Rome"}')
    ]
    last = ends(*calls) if repeated else ends()  # some servers leave the last event's output empty
    answer = assembled(WIRE, CREATED, *pieces, item_done(calls[0]), item_done(calls[1], 1), last)[1]
    assert calls_of(answer) == [("c1", "weather", {"city": "Rome"}), ("c2", "time", {})]


def test_a_stream_that_reached_the_cap_ends_in_length() -> None:
    last = ends(message("half"), kind="incomplete", incomplete_details={"reason": "max_output_tokens"})
    assert assembled(WIRE, CREATED, delta("half"), last)[1].finish_reason == "length"


def test_a_withheld_stream_is_content_filtered() -> None:
    last = ends(message("half"), kind="incomplete", incomplete_details={"reason": "content_filter"})
    assert isinstance(broken(WIRE, CREATED, delta("half"), last), ContentFiltered)
    refusal = {"type": "message", "content": [{"type": "refusal", "refusal": "I can't."}]}
    assert isinstance(broken(WIRE, CREATED, item_done(refusal), ends()), ContentFiltered)


@pytest.mark.parametrize(
    "events",
    [
        [],
        [CREATED],
        [CREATED, delta("Hel")],
        [CREATED, delta("Hello"), item_done(message("Hello"))],
        [CREATED, delta("Hello"), {"type": "response.completed"}],
    ],
)
def test_a_stream_without_its_last_event_is_not_an_answer(events: list[Any]) -> None:
    assert not fed(WIRE, *events)[1].sufficient
    error = broken(WIRE, *events)
    assert (type(error), error.failure) == (ProviderUnavailable, FailureClass.MAYBE)


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize(
    ("begun", "class_"), [(False, FailureClass.RATE_LIMITED), (True, FailureClass.MAYBE)]
)
def test_an_error_event_ends_the_stream(nested: bool, begun: bool, class_: FailureClass) -> None:
    error = {"code": "rate_limit_exceeded", "message": "try again in 1.5s", "param": None}
    event = {"type": "error", "error": error} if nested else {"type": "error", **error}
    caught = broken(WIRE, CREATED, *([delta("Hel")] if begun else []), event)
    assert (type(caught), caught.failure, caught.retry_after_s) == (RateLimited, class_, 1.5)


def test_events_of_unknown_kinds_are_passed_over() -> None:
    odd = [
        {"type": "response.new_thing.delta", "delta": {"a": 1}},
        delta(""),
        delta({"a": 1}),
        {"type": "keepalive"},
        {},
    ]
    assert assembled(WIRE, CREATED, *odd, delta("hi"), ends(message("hi")))[0] == ["hi"]


# Refusals

REFUSALS: list[tuple[int, dict[str, Any], type[UpstreamError], FailureClass]] = [
    (401, {"code": "invalid_api_key"}, AuthenticationFailed, FailureClass.CREDENTIAL),
    (403, {"code": None}, AuthenticationFailed, FailureClass.CREDENTIAL),
    (400, {"code": "model_not_found", "param": "model"}, InvalidRequest, FailureClass.MODEL_UNKNOWN),
    (400, {"code": "context_length_exceeded", "param": "input"}, ContextLengthExceeded, FailureClass.CALLER),
    (400, {"code": "unsupported_value", "param": "temperature"}, InvalidRequest, FailureClass.CALLER),
    (429, {"code": "insufficient_quota"}, ProviderQuotaExhausted, FailureClass.CREDENTIAL),
    (429, {"code": "rate_limit_exceeded"}, RateLimited, FailureClass.RATE_LIMITED),
    (429, {"code": "slow_down"}, RateLimited, FailureClass.RATE_LIMITED),
    (500, {"code": "server_error"}, ProviderUnavailable, FailureClass.SERVER),
    (503, {"code": "server_is_overloaded"}, ProviderUnavailable, FailureClass.SERVER),
]


@pytest.mark.parametrize(("status", "error", "leaf", "class_"), REFUSALS)
def test_a_refusal_is_the_leaf_of_its_kind(
    status: int, error: dict[str, Any], leaf: type[UpstreamError], class_: FailureClass
) -> None:
    caught = told(WIRE, status, {"error": {"message": "so", "type": "t", **error}}, retry_after="2")
    assert (type(caught), caught.failure, caught.status_code) == (leaf, class_, status)
    assert (caught.detail, caught.retry_after_s) == ("so", 2.0)


ANSWER_WORDS = """type response response.completed response.output_text.delta response.output_item.done error
delta output item message content output_text text function_call arguments name call_id status completed usage code
incomplete_details reason id"""


@given(any_json(ANSWER_WORDS))
def test_any_json_is_a_completion_or_an_upstream_error(answer: Any) -> None:
    survives(WIRE, answer)


@given(any_json("type text image_url url file function name id custom refusal json_schema schema"))
def test_any_content_and_params_are_sent_or_refused(value: Any) -> None:
    is_sent_or_refused(WIRE, value)


def ended(
    told: str, *, tokens: int | None, host: str = "127.0.0.1", most: int | None = None, **params: Any
) -> str:
    """How an answer of so many tokens counts as having ended."""
    wire = Responses(Origin(provider="openai_responses"), model="m", max_output_tokens=most, host=host)
    usage = None if tokens is None else Usage(prompt_tokens=9, completion_tokens=tokens)
    answer = Completion(output="o", finish_reason=told, usage=usage)  # type: ignore[arg-type]
    return wire.ended(Request(messages=(), params=params), answer).finish_reason


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ({"tokens": 16, "max_tokens": 16}, "length"),
        ({"tokens": 17, "max_completion_tokens": 16}, "length"),
        ({"tokens": 16, "max_output_tokens": 16}, "length"),
        ({"tokens": 16, "max_tokens": 32, "most": 16}, "length"),
        ({"tokens": 16, "most": 16}, "length"),
        ({"tokens": 16, "max_tokens": 16, "host": "llama.example"}, "length"),
        ({"tokens": 15, "max_tokens": 16}, "stop"),
        ({"tokens": 16}, "stop"),
        ({"tokens": None, "max_tokens": 16}, "stop"),
        ({"tokens": 16, "max_tokens": "16"}, "stop"),
        ({"tokens": 16, "max_tokens": 16, "host": "api.openai.com"}, "stop"),
        ({"tokens": 16, "max_tokens": 16, "host": "mine.openai.azure.com"}, "stop"),
        ({"tokens": 16, "max_tokens": 16, "host": "openrouter.ai"}, "stop"),
    ],
)
def test_who_calls_a_cut_answer_completed_is_told_by_its_tokens(case: dict[str, Any], expected: str) -> None:
    assert ended("stop", **case) == expected


def test_calls_stay_the_reason_to_finish_however_many_tokens_they_took() -> None:
    assert ended("tool_calls", tokens=16, max_tokens=16) == "tool_calls"
    assert ended("other", tokens=16, max_tokens=16) == "other"


@pytest.mark.parametrize(("cap", "expected"), [(USAGE["output_tokens"], "length"), (21, "stop")])
async def test_a_server_of_ones_own_that_cuts_is_found_out(cap: int, expected: str) -> None:
    async def behave(exchange: Exchange) -> None:
        await exchange.answer(json.dumps(response(message("half"))).encode())

    async with ugly_server(behave) as server:
        spec = ModelSpec(name="m", provider="openai_responses", model="m", base_url=server.url)
        upstream = OpenAIResponsesUpstream(spec, CLOCK)
        asked = Request(messages=(Message(role="user", content="hi"),), params={"max_tokens": cap})
        completion = await upstream.generate(asked, deadline=CLOCK.monotonic() + 5, on_delta=None)
        await upstream.close()
    assert completion.finish_reason == expected
