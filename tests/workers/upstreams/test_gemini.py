"""Gemini's generateContent: what is sent, and what is read from answers, streams and refusals."""

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
from theo_workers.upstreams.generate_content import GenerateContent
from theo_workers.upstreams.origin import Origin

ORIGIN = Origin(provider="gemini")
WIRE = GenerateContent(ORIGIN, model="gemini-2.5-flash")
NEWER = GenerateContent(ORIGIN, model="gemini-3-flash-preview")
USAGE = {
    "promptTokenCount": 80,
    "toolUsePromptTokenCount": 20,
    "candidatesTokenCount": 5,
    "thoughtsTokenCount": 15,
    "cachedContentTokenCount": 30,
    "totalTokenCount": 120,
}
AS_BILLED = Usage(prompt_tokens=100, completion_tokens=20, cached_tokens=30, reasoning_tokens=15)


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "parts": [*parts]}


def model(*parts: Any) -> dict[str, Any]:
    return {"role": "model", "parts": [*parts]}


def call(name: str, identity: str | None = None, **arguments: Any) -> dict[str, Any]:
    return {"functionCall": {**({"id": identity} if identity else {}), "name": name, "args": arguments}}


def answer(*parts: Any, finish: Any = "STOP", **more: Any) -> dict[str, Any]:
    reason = {"finishReason": finish} if finish else {}
    candidate = {"content": {"role": "model", "parts": [*parts]}, "index": 0, **reason}
    return {
        "candidates": [candidate],
        "usageMetadata": USAGE,
        "responseId": "r1",
        "modelVersion": "g",
        **more,
    }


# Requests

CONVERSATIONS: list[tuple[str, list[Message], dict[str, Any]]] = [
    ("a prompt", [Message(role="user", content="hi")], {"contents": [user({"text": "hi"})]}),
    (
        "all system messages go to the top",
        [
            Message(role="system", content="s"),
            Message(role="user", content="q"),
            Message(role="developer", content=[{"type": "text", "text": "d"}]),
            Message(role="assistant", content="a"),
            Message(role="user", content="q2"),
            Message(role="user", content="q3"),
        ],
        {
            "systemInstruction": {"parts": [{"text": "s"}, {"text": "d"}]},
            "contents": [user({"text": "q"}), model({"text": "a"}), user({"text": "q2"}, {"text": "q3"})],
        },
    ),
    (
        "parts",
        [
            Message(
                role="user",
                content=[
                    {"type": "text", "text": "look"},
                    picture(PNG),
                    picture(f"{JPEG}?size=9", detail="auto"),
                    {"type": "file", "file": {"file_data": PDF, "filename": "a.pdf"}},
                    {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
                ],
            )
        ],
        {
            "contents": [
                user(
                    {"text": "look"},
                    {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}},
                    {"fileData": {"fileUri": f"{JPEG}?size=9", "mimeType": "image/jpeg"}},
                    {"inlineData": {"mimeType": "application/pdf", "data": "JVBERi0="}},
                    {"inlineData": {"mimeType": "audio/wav", "data": "UklGRg=="}},
                )
            ]
        },
    ),
    (
        "results of parallel calls are one turn, under the names of their functions",
        [
            calling(("c1", "weather", '{"city":"Rome"}'), ("c2", "time", ""), content="wait"),
            result("c1", '{"sky": "blue"}'),
            result("c2", "noon"),
        ],
        {
            "contents": [
                model({"text": "wait"}, call("weather", "c1", city="Rome"), call("time", "c2")),
                user(
                    {"functionResponse": {"id": "c1", "name": "weather", "response": {"sky": "blue"}}},
                    {"functionResponse": {"id": "c2", "name": "time", "response": {"output": "noon"}}},
                ),
            ]
        },
    ),
    (
        "a result whose call is not told may name its function",
        [Message(role="tool", tool_call_id="c1", name="time", content=[{"type": "text", "text": "[1]"}])],
        {
            "contents": [
                user({"functionResponse": {"id": "c1", "name": "time", "response": {"output": "[1]"}}})
            ]
        },
    ),
]


@pytest.mark.parametrize(
    ("messages", "sent"), [case[1:] for case in CONVERSATIONS], ids=[c[0] for c in CONVERSATIONS]
)
def test_a_conversation_becomes_contents(messages: list[Message], sent: dict[str, Any]) -> None:
    assert encoded(WIRE, *messages) == sent


def test_an_id_used_twice_means_the_latest_call() -> None:
    turns = (
        calling(("c", "first", "{}")),
        result("c", "1"),
        calling(("c", "second", "{}")),
        result("c", "2"),
    )
    responses = [
        part["functionResponse"]["name"]
        for turn in encoded(WIRE, *turns)["contents"][1::2]
        for part in turn["parts"]
    ]
    assert responses == ["first", "second"]


def test_calls_carry_the_signature_that_gemini_gave_or_newer_models_the_documented_word() -> None:
    signed = calling(("c1", "f", "{}"), extra={"google": {"thought_signature": "c2ln"}})
    unsigned = calling(("c1", "f", "{}"), ("c2", "g", "{}"))
    for wire, turn, signatures in (
        (WIRE, signed, ["c2ln"]),
        (NEWER, signed, ["c2ln"]),
        (WIRE, unsigned, [None, None]),
        (NEWER, unsigned, ["c2tpcF90aG91Z2h0X3NpZ25hdHVyZV92YWxpZGF0b3I=", None]),
    ):
        parts = encoded(wire, turn)["contents"][0]["parts"]
        assert [part.get("thoughtSignature") for part in parts] == signatures


FUNCTION = {"type": "function", "function": WEATHER}
DECLARED = {
    "functionDeclarations": [{"name": "weather", "description": "of a city", "parametersJsonSchema": SCHEMA}]
}
ONLY_WEATHER = [{"type": "function", "function": {"name": "weather"}}]


def calling_config(mode: str, *names: str) -> dict[str, Any]:
    allowed = {"allowedFunctionNames": [*names]} if names else {}
    return {"toolConfig": {"functionCallingConfig": {"mode": mode, **allowed}}}


PARAMS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    (
        {
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 5,
            "seed": 0,
            "presence_penalty": 0.1,
            "frequency_penalty": 0.2,
        },
        {
            "generationConfig": {
                "temperature": 0.5,
                "topP": 0.9,
                "topK": 5,
                "seed": 0,
                "presencePenalty": 0.1,
                "frequencyPenalty": 0.2,
            }
        },
    ),
    ({"logprobs": True, "top_logprobs": 2}, {"generationConfig": {"responseLogprobs": True, "logprobs": 2}}),
    ({"max_tokens": 50}, {"generationConfig": {"maxOutputTokens": 50}}),
    ({"max_completion_tokens": 50, "max_tokens": 70}, {"generationConfig": {"maxOutputTokens": 50}}),
    ({"stop": "END"}, {"generationConfig": {"stopSequences": ["END"]}}),
    (
        {"response_format": {"type": "json_object"}},
        {"generationConfig": {"responseMimeType": "application/json"}},
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}},
        {"generationConfig": {"responseMimeType": "application/json", "responseJsonSchema": SCHEMA}},
    ),
    (
        {
            "generationConfig": {"maxOutputTokens": 9, "mediaResolution": "LOW"},
            "temperature": 1,
            "max_tokens": 20,
        },
        {"generationConfig": {"maxOutputTokens": 9, "mediaResolution": "LOW", "temperature": 1}},
    ),
    ({"tools": [FUNCTION]}, {"tools": [DECLARED]}),
    (
        {"tools": [{"googleSearch": {}}, FUNCTION, {"type": "function", "function": {"name": "f"}}]},
        {
            "tools": [
                {
                    "functionDeclarations": [
                        *DECLARED["functionDeclarations"],
                        {"name": "f", "description": ""},
                    ]
                },
                {"googleSearch": {}},
            ]
        },
    ),
    ({"tool_choice": "auto"}, calling_config("AUTO")),
    ({"tool_choice": "required"}, calling_config("ANY")),
    ({"tool_choice": "none"}, calling_config("NONE")),
    ({"tool_choice": ONLY_WEATHER[0]}, calling_config("ANY", "weather")),
    (
        {
            "tool_choice": {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "required", "tools": ONLY_WEATHER},
            }
        },
        calling_config("ANY", "weather"),
    ),
    (
        {"tools": [{"type": "function", "function": {**WEATHER, "strict": True}}]},
        {"tools": [DECLARED], **calling_config("VALIDATED")},
    ),
    (
        {"tool_choice": "required", "toolConfig": {"includeServerSideToolInvocations": True}},
        {"toolConfig": {"includeServerSideToolInvocations": True, "functionCallingConfig": {"mode": "ANY"}}},
    ),
    (
        {"store": False, "parallel_tool_calls": True, "logit_bias": {}, "user": None, "modalities": ["text"]},
        {},
    ),
    ({"safetySettings": [{}], "labels": {"a": "b"}}, {"safetySettings": [{}], "labels": {"a": "b"}}),
]


@pytest.mark.parametrize(("params", "sent"), PARAMS, ids=[str(index) for index in range(len(PARAMS))])
def test_params_are_translated_and_unknown_ones_pass(params: dict[str, Any], sent: dict[str, Any]) -> None:
    assert encoded(WIRE, **params) == {"contents": [user({"text": "hi"})], **sent}


@pytest.mark.parametrize(
    ("name", "effort", "thinking"),
    [
        ("gemini-2.5-flash", "none", {"thinkingBudget": 0}),
        ("gemini-2.5-flash-lite", "minimal", {"thinkingBudget": 1024}),
        ("gemini-2.5-pro", "low", {"thinkingBudget": 1024}),
        ("gemini-2.5-pro", "medium", {"thinkingBudget": 8192}),
        ("gemini-2.5-flash", "high", {"thinkingBudget": 24576}),
        ("gemini-3-pro-preview", "low", {"thinkingLevel": "low"}),
        ("gemini-3.6-flash", "minimal", {"thinkingLevel": "minimal"}),
        ("gemini-flash-latest", "high", {"thinkingLevel": "high"}),
        ("gemini-2.5-pro", "none", None),
        ("gemini-2.5-flash", "xhigh", None),
        ("gemini-3-flash", "none", None),
        ("gemini-3-flash", "xhigh", None),
        ("gemini-2.0-flash", "low", None),
        ("gemini-3-flash", ["low"], None),
    ],
)
def test_effort_is_a_budget_or_a_level_by_the_models_generation(
    name: str, effort: Any, thinking: Any
) -> None:
    wire = GenerateContent(ORIGIN, model=name)
    if thinking is None:
        assert refused(wire, reasoning_effort=effort).startswith(f"params.reasoning_effort: {name} cannot")
    else:
        assert encoded(wire, reasoning_effort=effort)["generationConfig"] == {"thinkingConfig": thinking}


@pytest.mark.parametrize(
    ("params", "cap"),
    [
        ({}, 90),
        ({"max_tokens": 60}, 60),
        ({"max_tokens": 100}, 90),
        ({"generationConfig": {"maxOutputTokens": 500}}, 90),
        ({"generationConfig": {"max_output_tokens": 500}, "max_tokens": 95}, 90),
        ({"max_tokens": "many"}, "many"),
    ],
)
def test_the_configured_cap_is_the_most_that_is_asked_for(params: dict[str, Any], cap: Any) -> None:
    wire = GenerateContent(ORIGIN, model="m", max_output_tokens=90)
    assert encoded(wire, **params)["generationConfig"]["maxOutputTokens"] == cap


def test_whether_to_stream_is_not_in_the_body() -> None:
    assert encoded(WIRE, stream=True) == encoded(WIRE)


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"logit_bias": {"1": 5}}, "params.logit_bias cannot be sent: Gemini has none"),
        ({"parallel_tool_calls": False}, "params.parallel_tool_calls cannot be sent"),
        ({"user": "u"}, "params.user cannot be sent"),
        ({"metadata": {"a": "b"}}, "params.metadata cannot be sent"),
        ({"store": True}, "params.store cannot be sent"),
        ({"verbosity": "low"}, "params.verbosity cannot be sent"),
        ({"modalities": ["audio"]}, "params.modalities cannot be sent"),
        ({"prediction": {}}, "params.prediction cannot be sent"),
        ({"functions": [{}]}, "use tools"),
        ({"web_search_options": {}}, "use the tool googleSearch"),
        ({"response_format": {"type": "grammar"}}, "params.response_format must be"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "a tool of type custom"),
        ({"tool_choice": {"type": "custom"}}, "Gemini has no such choice"),
        (
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": ["f"]}}},
            "only functions can be allowed",
        ),
        ({"generationConfig": {"candidateCount": 2}}, "may not set candidateCount"),
        ({"generation_config": {}}, "params may not set generation_config"),
        ({"generationConfig": 5}, "params.generationConfig must be an object"),
        ({"contents": [], "systemInstruction": {}}, "params may not set contents, systemInstruction"),
    ],
)
def test_what_the_format_cannot_say_is_refused_with_the_reason(params: dict[str, Any], reason: str) -> None:
    assert reason in refused(WIRE, **params)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (Message(role="user", content="hi", name="Ada"), "a message's name cannot be sent"),
        (Message(role="user", content=[{"type": "video"}]), "type video cannot be sent"),
        (
            Message(role="user", content=[{"type": "input_audio", "input_audio": {}}]),
            "it has no data and format",
        ),
        (Message(role="user", content=[picture(PNG, detail="low")]), "detail low is not to be had"),
        (Message(role="user", content=[picture("https://a.example/cat")]), "does not tell the media type"),
        (
            Message(role="user", content=[{"type": "file", "file": {"file_id": "x"}}]),
            "does not tell the media type",
        ),
        (Message(role="user", content=[{"type": "file", "file": {"file_data": "x"}}]), "only file_data"),
        (Message(role="system", content=[picture(PNG)]), "a system message can only be text"),
        (Message(role="assistant", content=[picture(PNG)]), "an assistant's turn can only be text"),
        (calling(("c1", "f", "[1]")), "the arguments of tool call c1 are not a JSON object"),
        (result("c9", "x"), "no call before it has the tool_call_id c9"),
        (
            Message(role="tool", tool_call_id="c", name="f", content=[picture(PNG)]),
            "a tool's result can only be text",
        ),
    ],
)
def test_messages_that_cannot_be_said_are_refused_with_the_reason(message: Message, reason: str) -> None:
    assert reason in refused(WIRE, message)


# Answers


def test_text_parts_are_joined_without_the_thoughts() -> None:
    code = {"executableCode": {"language": "PYTHON", "code": "1"}}
    read = decoded(
        WIRE,
        answer(
            {"text": "Hm.", "thought": True}, {"text": "Hel"}, code, {"text": "lo", "thoughtSignature": "x"}
        ),
    )
    assert (read.output, read.finish_reason, read.tool_calls) == ("Hello", "stop", None)
    assert (read.usage, read.provider_request_id) == (AS_BILLED, "r1")


def test_parallel_calls_are_in_the_chat_form_though_the_reason_is_stop() -> None:
    read = decoded(
        WIRE, answer({"text": "wait"}, call("weather", "id1", city="Rome"), call("time"), call("time"))
    )
    assert calls_of(read) == [
        ("id1", "weather", {"city": "Rome"}),
        ("call_r1_1", "time", {}),
        ("call_r1_2", "time", {}),
    ]


def test_a_call_without_arguments_has_an_empty_object() -> None:
    assert calls_of(decoded(WIRE, answer({"functionCall": {"name": "f"}}))) == [("call_r1_0", "f", {})]


def test_signatures_go_to_the_client_and_come_back_as_they_were() -> None:
    read = decoded(NEWER, answer({**call("f", "c1", a=1), "thoughtSignature": "c2ln"}, call("g", "c2")))
    assert read.tool_calls is not None
    turn = Message(role="assistant", tool_calls=json.loads(bytes(read.tool_calls)))
    parts = encoded(NEWER, turn)["contents"][0]["parts"]
    assert parts == [{**call("f", "c1", a=1), "thoughtSignature": "c2ln"}, call("g", "c2")]


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("MALFORMED_FUNCTION_CALL", "other"),
        ("UNEXPECTED_TOOL_CALL", "other"),
        ("LANGUAGE", "other"),
        ("OTHER", "other"),
        ("SOMETHING_NEW", "other"),
        (None, "other"),
    ],
)
def test_the_reason_to_finish(reason: Any, finish: str) -> None:
    assert decoded(WIRE, answer({"text": "hi"}, finish=reason)).finish_reason == finish


@pytest.mark.parametrize(
    "content", [{}, {"content": {}}, {"content": {"role": "model"}}, {"content": {"parts": None}}]
)
def test_thinking_can_use_up_the_whole_cap(content: Any) -> None:
    read = decoded(WIRE, {"candidates": [{**content, "finishReason": "MAX_TOKENS"}], "usageMetadata": USAGE})
    assert (read.output, read.finish_reason) == ("", "length")


WITHHELD = ["SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MODEL_ARMOR", "IMAGE_SAFETY"]


@pytest.mark.parametrize("reason", WITHHELD)
def test_what_was_withheld_is_content_filtered_with_its_usage(reason: str) -> None:
    whole = answer({"text": "half"}, finish=reason)
    for error in (failure(WIRE, whole), broken(WIRE, answer({"text": "ha"}, finish=None), whole)):
        assert (type(error), error.usage, error.provider_code) == (ContentFiltered, AS_BILLED, reason)


def test_a_blocked_prompt_is_content_filtered() -> None:
    whole = {
        "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"},
        "usageMetadata": {"promptTokenCount": 9},
    }
    for error in (failure(WIRE, whole), broken(WIRE, whole)):
        assert (type(error), error.usage) == (ContentFiltered, Usage(prompt_tokens=9))
        assert error.detail == "the prompt was blocked (PROHIBITED_CONTENT)"


@pytest.mark.parametrize(
    ("usage", "billed"),
    [
        (USAGE, AS_BILLED),
        ({"promptTokenCount": 9, "totalTokenCount": 9}, Usage(prompt_tokens=9)),
        ({"trafficType": "ON_DEMAND"}, None),
        (None, None),
        ("many", None),
        ([1], None),
        ({"promptTokenCount": 1 << 60}, None),
    ],
)
def test_usage_is_read_as_billed_or_not_at_all(usage: Any, billed: Usage | None) -> None:
    assert decoded(WIRE, answer({"text": "hi"}, usageMetadata=usage)).usage == billed


@pytest.mark.parametrize("told", [{}, [], "hi", {"candidates": []}, answer({"functionCall": {"name": None}})])
def test_an_answer_that_is_none_may_have_been_billed(told: Any) -> None:
    error = failure(WIRE, told)
    assert (type(error), error.failure) == (ProviderUnavailable, FailureClass.MAYBE)


# Streams


def piece(*parts: Any, finish: Any = None, **usage: int) -> dict[str, Any]:
    return {**answer(*parts, finish=finish), "usageMetadata": usage}


def test_text_comes_piece_by_piece_and_usage_grows() -> None:
    deltas, read = assembled(
        WIRE,
        piece({"text": "Hm.", "thought": True}, promptTokenCount=9, thoughtsTokenCount=3),
        piece({"text": "Hel"}, promptTokenCount=9, thoughtsTokenCount=3, candidatesTokenCount=1),
        piece({"text": "lo"}, promptTokenCount=9, thoughtsTokenCount=3, candidatesTokenCount=2),
        piece(
            {"text": ""}, finish="STOP", promptTokenCount=11, thoughtsTokenCount=3
        ),  # not all is said again
    )
    assert deltas == ["Hel", "lo"]
    assert (read.finish_reason, read.provider_request_id) == ("stop", "r1")
    assert read.usage == Usage(prompt_tokens=11, completion_tokens=5, reasoning_tokens=3)


def test_streamed_calls_are_gathered_over_the_events() -> None:
    signed = {**call("weather", city="Rome"), "thoughtSignature": "c2ln"}
    read = assembled(WIRE, piece(signed), piece(call("time", "id2")), piece(finish="STOP"))[1]
    assert calls_of(read) == [("call_r1_0", "weather", {"city": "Rome"}), ("id2", "time", {})]


def test_events_without_candidates_are_passed_over() -> None:
    events = (
        {"usageMetadata": {"promptTokenCount": 9}},
        piece({"text": "hi"}, finish="STOP"),
        {"modelVersion": "g"},
    )
    assert assembled(WIRE, *events)[0] == ["hi"]


def test_a_reason_to_finish_in_every_event_does_not_end_the_stream_early() -> None:
    events = (piece({"text": "Hel"}, finish="STOP"), piece({"text": "lo"}, finish="MAX_TOKENS"))
    deltas, read = assembled(WIRE, *events)
    assert (deltas, read.finish_reason) == (["Hel", "lo"], "length")
    stream = fed(WIRE, *events)[1]
    assert (stream.sufficient, stream.done) == (True, False)


def test_a_blocked_prompt_is_all_that_a_stream_has_to_say() -> None:
    assert fed(WIRE, {"promptFeedback": {"blockReason": "OTHER"}})[1].sufficient


@pytest.mark.parametrize(
    "events", [[], [{"usageMetadata": {}}], [piece({"text": "Hel"}, promptTokenCount=9)]]
)
def test_a_stream_without_a_reason_to_finish_is_not_an_answer(events: list[Any]) -> None:
    assert not fed(WIRE, *events)[1].sufficient
    error = broken(WIRE, *events)
    assert (type(error), error.failure) == (ProviderUnavailable, FailureClass.MAYBE)


@pytest.mark.parametrize(
    ("status", "name", "begun", "leaf", "class_"),
    [
        (503, "UNAVAILABLE", False, ProviderUnavailable, FailureClass.SERVER),
        (503, "UNAVAILABLE", True, ProviderUnavailable, FailureClass.MAYBE),
        (429, "RESOURCE_EXHAUSTED", False, RateLimited, FailureClass.RATE_LIMITED),
        (400, "INVALID_ARGUMENT", False, InvalidRequest, FailureClass.CALLER),
    ],
)
def test_an_error_event_ends_the_stream(
    status: int, name: str, begun: bool, leaf: type[UpstreamError], class_: FailureClass
) -> None:
    event = {"error": {"code": status, "message": "x", "status": name}}
    error = broken(WIRE, *([piece({"text": "Hel"}, promptTokenCount=9)] if begun else []), event)
    assert (type(error), error.failure, error.provider_code) == (leaf, class_, name)
    assert error.usage == (Usage(prompt_tokens=9) if begun else None)
    assert type(failure(WIRE, event)) is leaf


# Refusals

INFO, RETRY, QUOTA = (
    f"type.googleapis.com/google.rpc.{name}" for name in ("ErrorInfo", "RetryInfo", "QuotaFailure")
)


def quota(*ids: str) -> dict[str, Any]:
    return {"@type": QUOTA, "violations": [{"quotaMetric": "m", "quotaId": name} for name in ids]}


Case = tuple[int, str, str, list[Any], type[UpstreamError], FailureClass, float | None]
REFUSALS: list[Case] = [
    (
        400,
        "INVALID_ARGUMENT",
        "API key not valid. Please pass a valid API key.",
        [{"@type": INFO, "reason": "API_KEY_INVALID"}],
        AuthenticationFailed,
        FailureClass.CREDENTIAL,
        None,
    ),
    (
        400,
        "INVALID_ARGUMENT",
        "API key expired. Please renew the API key.",
        [{"@type": INFO, "reason": "API_KEY_INVALID"}],
        AuthenticationFailed,
        FailureClass.CREDENTIAL,
        None,
    ),
    (
        400,
        "FAILED_PRECONDITION",
        "User location is not supported for the API use.",
        [],
        AuthenticationFailed,
        FailureClass.CREDENTIAL,
        None,
    ),
    (401, "UNAUTHENTICATED", "x", [], AuthenticationFailed, FailureClass.CREDENTIAL, None),
    (403, "PERMISSION_DENIED", "x", [], AuthenticationFailed, FailureClass.CREDENTIAL, None),
    (402, "x", "x", [], ProviderQuotaExhausted, FailureClass.CREDENTIAL, None),
    (404, "NOT_FOUND", "models/x is not found", [], InvalidRequest, FailureClass.MODEL_UNKNOWN, None),
    (400, "INVALID_ARGUMENT", "Invalid value at 'x'", [], InvalidRequest, FailureClass.CALLER, None),
    (
        400,
        "INVALID_ARGUMENT",
        "The input token count (9) exceeds the maximum number of tokens allowed (8).",
        [],
        ContextLengthExceeded,
        FailureClass.CALLER,
        None,
    ),
    (
        429,
        "RESOURCE_EXHAUSTED",
        "x",
        [quota("GenerateRequestsPerMinutePerProjectPerModel"), {"@type": RETRY, "retryDelay": "34.07s"}],
        RateLimited,
        FailureClass.RATE_LIMITED,
        34.07,
    ),
    (429, "RESOURCE_EXHAUSTED", "Please retry in 48.9s.", [], RateLimited, FailureClass.RATE_LIMITED, 48.9),
    (
        429,
        "RESOURCE_EXHAUSTED",
        "Please retry in 1.5s.",
        [{"@type": RETRY, "retryDelay": "34s"}],
        RateLimited,
        FailureClass.RATE_LIMITED,
        34.0,
    ),
    (
        429,
        "RESOURCE_EXHAUSTED",
        "x",
        [{"@type": RETRY, "retryDelay": "999999999s"}],
        RateLimited,
        FailureClass.RATE_LIMITED,
        3600.0,
    ),
    (
        429,
        "RESOURCE_EXHAUSTED",
        "x",
        [
            {"@type": RETRY, "retryDelay": "-5s"},
            {"@type": RETRY, "retryDelay": 7},
            "x",
            {"violations": ["x"]},
        ],
        RateLimited,
        FailureClass.RATE_LIMITED,
        None,
    ),
    (
        429,
        "RESOURCE_EXHAUSTED",
        "x",
        [quota("GenerateRequestsPerMinutePerProject", "GenerateRequestsPerDayPerProjectPerModel-FreeTier")],
        ProviderQuotaExhausted,
        FailureClass.CREDENTIAL,
        None,
    ),
    (500, "INTERNAL", "x", [], ProviderUnavailable, FailureClass.SERVER, None),
    (503, "UNAVAILABLE", "The model is overloaded.", [], ProviderUnavailable, FailureClass.SERVER, None),
    (504, "DEADLINE_EXCEEDED", "x", [], ProviderUnavailable, FailureClass.SERVER, None),
]


@pytest.mark.parametrize(("status", "name", "message", "details", "leaf", "class_", "wait_s"), REFUSALS)
@pytest.mark.parametrize("listed", [False, True])
def test_a_refusal_is_the_leaf_of_its_kind(
    status: int,
    name: str,
    message: str,
    details: list[Any],
    leaf: type[UpstreamError],
    class_: FailureClass,
    wait_s: float | None,
    listed: bool,
) -> None:
    body = {"error": {"code": status, "message": message, "status": name, "details": details}}
    error = told(WIRE, status, [body] if listed else body)
    assert (type(error), error.failure, error.status_code) == (leaf, class_, status)
    assert (error.provider_code, error.retry_after_s) == (name, wait_s)


ANSWER_WORDS = """candidates content parts text thought functionCall name args finishReason STOP usageMetadata error
code promptTokenCount promptFeedback blockReason responseId thoughtSignature id status details message"""


@given(any_json(ANSWER_WORDS))
def test_any_json_is_a_completion_or_an_upstream_error(answer: Any) -> None:
    survives(WIRE, answer)


@given(
    any_json(
        "type text image_url url input_audio data format file function name id extra_content google refusal"
    )
)
def test_any_content_and_params_are_sent_or_refused(value: Any) -> None:
    is_sent_or_refused(NEWER, value)


def test_what_gemini_fetches_itself_has_a_type_by_its_url_or_as_told() -> None:
    parts = [
        picture("https://a.example/cat", format="image/webp"),
        picture("https://a.example/cat.png?size=2"),
        {"type": "file", "file": {"file_id": "gs://bucket/film", "format": "video/mp4"}},
    ]
    body = encoded(WIRE, Message(role="user", content=parts))
    assert body["contents"][0]["parts"] == [
        {"fileData": {"fileUri": "https://a.example/cat", "mimeType": "image/webp"}},
        {"fileData": {"fileUri": "https://a.example/cat.png?size=2", "mimeType": "image/png"}},
        {"fileData": {"fileUri": "gs://bucket/film", "mimeType": "video/mp4"}},
    ]
