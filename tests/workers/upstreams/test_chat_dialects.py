"""What is sent otherwise to this host or that, and what is sent once more under another name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from formats import (
    USER,
    any_json,
    assembled,
    calling,
    decoded,
    encoded,
    result,
    survives,
    told,
)
from hypothesis import given
from hypothesis import strategies as st
from ugly_server import ANSWER, Behaviour, Exchange, ugly_server

from theo_workers.clock import SystemClock
from theo_workers.errors import InvalidRequest
from theo_workers.messages import Message, Request
from theo_workers.model_spec import ModelSpec
from theo_workers.upstreams.chat_completions import ChatCompletions
from theo_workers.upstreams.chat_dialects import dialect_of
from theo_workers.upstreams.complaint import complaint_of
from theo_workers.upstreams.openai import OpenAIUpstream
from theo_workers.upstreams.origin import Origin
from theo_workers.upstreams.params import MOST_KEPT_BYTES

CLOCK = SystemClock()
ORIGIN = Origin(provider="openai")


def at(host: str, model: str = "m", **fields: Any) -> ChatCompletions:
    return ChatCompletions(ORIGIN, model=model, dialect=dialect_of(host), **fields)


@pytest.mark.parametrize(
    ("host", "sent"),
    [
        ("api.openai.com", {"max_completion_tokens": 5}),
        ("my.openai.azure.com", {"max_completion_tokens": 5}),
        ("openrouter.ai", {"max_completion_tokens": 5}),
        ("api.groq.com", {"max_completion_tokens": 5}),
        ("api.deepseek.com", {"max_tokens": 5}),
        ("api.mistral.ai", {"max_tokens": 5}),
        ("127.0.0.1", {"max_tokens": 5}),
        ("notopenai.com", {"max_tokens": 5}),
        ("", {"max_tokens": 5}),
    ],
)
def test_the_cap_has_the_name_that_the_host_knows(host: str, sent: dict[str, int]) -> None:
    body = encoded(at(host), max_completion_tokens=5)
    assert {name: value for name, value in body.items() if "max" in name} == sent


@pytest.mark.parametrize(
    ("host", "role"),
    [("api.openai.com", "developer"), ("API.MISTRAL.AI.", "system"), ("localhost", "system")],
)
def test_developer_messages_are_system_messages_where_the_role_is_not_known(host: str, role: str) -> None:
    body = encoded(at(host), Message(role="developer", content="be brief"), USER)
    assert body["messages"] == [{"role": role, "content": "be brief"}, {"role": "user", "content": "hi"}]


def test_mistral_has_its_own_name_for_the_seed() -> None:
    assert encoded(at("api.mistral.ai"), seed=4)["random_seed"] == 4
    assert "seed" not in encoded(at("api.mistral.ai"), seed=4)
    assert encoded(at("api.openai.com"), seed=4)["seed"] == 4


def test_mistral_gets_ids_of_nine_characters_that_still_belong_together() -> None:
    turns = calling(("call_abcdef0123456789", "f", "{}"), ("9ab8CD7ef", "f", "{}"))
    body = encoded(
        at("api.mistral.ai"), turns, result("call_abcdef0123456789", "1"), result("9ab8CD7ef", "2")
    )
    long, short = (call["id"] for call in body["messages"][0]["tool_calls"])
    assert (len(long), long.isalnum(), short) == (9, True, "9ab8CD7ef")
    assert [message["tool_call_id"] for message in body["messages"][1:]] == [long, short]


CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def test_deepseek_gets_the_reasoning_back_that_led_to_its_calls() -> None:
    message = {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [CALL, CALL]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    completion = decoded(at("api.deepseek.com"), {"choices": [choice]})
    assert completion.tool_calls is not None
    calls = json.loads(bytes(completion.tool_calls))
    assert [call.get("extra_content") for call in calls] == [{"deepseek": {"reasoning_content": "hm"}}, None]
    turn = Message(role="assistant", content="", tool_calls=calls)
    returned = encoded(at("api.deepseek.com"), turn, result("c", "1"))["messages"][0]
    assert returned == {
        "role": "assistant",
        "content": "",
        "reasoning_content": "hm",
        "tool_calls": [CALL, CALL],
    }
    elsewhere = encoded(at("api.openai.com"), turn, result("c", "1"))["messages"][0]
    assert elsewhere == {"role": "assistant", "content": "", "tool_calls": [CALL, CALL]}
    answered = decoded(at("api.openai.com"), {"choices": [choice]})
    assert answered.tool_calls is not None
    assert b"hm" not in bytes(answered.tool_calls)


def test_streamed_reasoning_comes_with_the_calls_as_well() -> None:
    deltas: list[dict[str, Any]] = [
        {"reasoning_content": "h"},
        {"reasoning_content": "m", "content": None},
        {"tool_calls": [{"index": 0, **CALL}]},
    ]
    events = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}
    _, completion = assembled(at("api.deepseek.com"), *events, end)
    assert completion.tool_calls is not None
    (call,) = json.loads(bytes(completion.tool_calls))
    assert call["extra_content"] == {"deepseek": {"reasoning_content": "hm"}}


SIGNED = {
    "type": "reasoning.text",
    "text": "hm",
    "format": "anthropic-claude-v1",
    "index": 0,
    "signature": "s",
}
SEALED = {"type": "reasoning.encrypted", "data": "ab", "id": "c", "format": "google-gemini-v1", "index": 0}


def thoughtful(details: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": None, "tool_calls": [CALL, CALL], "reasoning_details": details}
    return {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}


def test_openrouter_gets_the_details_of_reasoning_back_as_they_were() -> None:
    details = [SIGNED, {**SEALED, "some_new_one": {"a": [None]}}]
    completion = decoded(at("openrouter.ai"), thoughtful(details))
    assert completion.tool_calls is not None
    calls = json.loads(bytes(completion.tool_calls))
    kept = {"openrouter": {"reasoning_details": details}}
    assert [call.get("extra_content") for call in calls] == [kept, None]
    turn = Message(role="assistant", content=None, tool_calls=calls)
    returned = encoded(at("openrouter.ai"), USER, turn, result("c", "1"))["messages"]
    assert returned[1] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [CALL, CALL],
        "reasoning_details": details,
    }
    assert [set(message) for message in (returned[0], returned[2])] == [
        {"role", "content"},
        {"role", "content", "tool_call_id"},
    ]
    for host in ("api.openai.com", "api.deepseek.com", "127.0.0.1"):
        assert encoded(at(host), turn)["messages"][0]["tool_calls"] == [CALL, CALL]
        assert "reasoning_details" not in encoded(at(host), turn)["messages"][0]
        answered = decoded(at(host), thoughtful(details)).tool_calls
        assert answered is not None
        assert b"extra_content" not in bytes(answered)


@pytest.mark.parametrize(
    "details",
    [None, [], "hm", {}, 5, ["hm"], [SIGNED, 7]],
    ids=["none", "empty", "text", "object", "number", "texts", "mixed"],
)
def test_details_that_cannot_be_sent_back_are_not_kept_and_not_sent(details: Any) -> None:
    completion = decoded(at("openrouter.ai"), thoughtful(details))
    assert completion.tool_calls is not None
    assert json.loads(bytes(completion.tool_calls)) == [CALL, CALL]
    turn = calling(("c", "f", "{}"), content="wait", extra={"openrouter": {"reasoning_details": details}})
    assert encoded(at("openrouter.ai"), turn)["messages"] == [
        {"role": "assistant", "content": "wait", "tool_calls": [CALL]}
    ]


TOO_LARGE = [{**SIGNED, "text": "x" * MOST_KEPT_BYTES}]


def test_details_that_are_too_large_are_not_kept() -> None:
    completion = decoded(at("openrouter.ai"), thoughtful(TOO_LARGE))
    assert completion.tool_calls is not None
    assert json.loads(bytes(completion.tool_calls)) == [CALL, CALL]


@pytest.mark.parametrize(
    "fields",
    [
        {"reasoning_details": TOO_LARGE},
        {"reasoning_details": TOO_LARGE, "tool_calls": [CALL]},
        {"tool_calls": [{**CALL, "extra_content": {"openrouter": {"reasoning_details": TOO_LARGE}}}]},
    ],
    ids=["the message's", "the message's, with calls", "a call's"],
)
def test_details_that_are_too_large_are_refused_by_who_would_get_them(fields: dict[str, Any]) -> None:
    turn = Message(role="assistant", content="a", **fields)
    with pytest.raises(InvalidRequest, match="reasoning_details cannot be sent: above 1048576 bytes of JSON"):
        encoded(at("openrouter.ai"), turn)
    for host in ("api.openai.com", "api.deepseek.com"):
        assert len(json.dumps(encoded(at(host), turn))) < 1_000


def test_as_much_as_is_kept_is_sent_back() -> None:
    detail = {"type": "reasoning.text", "text": ""}
    detail["text"] = "x" * (MOST_KEPT_BYTES - len(json.dumps([detail], separators=(",", ":"))))
    completion = decoded(at("openrouter.ai"), thoughtful([detail]))
    assert completion.tool_calls is not None
    turn = Message(role="assistant", tool_calls=json.loads(bytes(completion.tool_calls)))
    assert encoded(at("openrouter.ai"), turn)["messages"][0]["reasoning_details"] == [detail]


BARE_TURN = {"role": "assistant", "content": "a"}
CALLING = {**BARE_TURN, "tool_calls": [CALL]}
KEPT = {"openrouter": {"reasoning_details": [SEALED]}, "deepseek": {"reasoning_content": "kept"}}


@pytest.mark.parametrize(
    ("host", "fields", "returned"),
    [
        ("openrouter.ai", {}, {**BARE_TURN, "reasoning_details": [SIGNED]}),
        ("openrouter.ai", {"tool_calls": [CALL]}, {**CALLING, "reasoning_details": [SIGNED]}),
        # what we kept ourselves is certainly unchanged
        (
            "openrouter.ai",
            {"tool_calls": [{**CALL, "extra_content": KEPT}]},
            {**CALLING, "reasoning_details": [SEALED]},
        ),
        ("api.deepseek.com", {}, BARE_TURN),
        ("api.deepseek.com", {"tool_calls": [CALL]}, {**CALLING, "reasoning_content": "hm"}),
        (
            "api.deepseek.com",
            {"tool_calls": [{**CALL, "extra_content": KEPT}]},
            {**CALLING, "reasoning_content": "kept"},
        ),
        ("api.openai.com", {}, BARE_TURN),
        ("api.openai.com", {"tool_calls": [CALL]}, CALLING),
        ("api.mistral.ai", {"tool_calls": [{**CALL, "id": "123456789"}]}, None),
        ("127.0.0.1", {}, BARE_TURN),
    ],
)
def test_reasoning_that_the_job_itself_tells_goes_to_who_wants_it(
    host: str, fields: dict[str, Any], returned: dict[str, Any] | None
) -> None:
    turn = Message(
        role="assistant", content="a", reasoning_content="hm", reasoning_details=[SIGNED], **fields
    )
    sent = encoded(at(host), USER, turn, USER)["messages"]
    assert sent[1] == (returned or {**CALLING, **fields})
    assert sent[0] == sent[2] == {"role": "user", "content": "hi"}


TEXT = {"type": "reasoning.text", "format": "anthropic-claude-v1", "index": 0}
BARE = {"type": "reasoning.summary"}
PIECES: list[tuple[str, list[Any], Any]] = [
    (
        "a text and the signature after it",
        [[{**TEXT, "text": "h", "signature": None}], [{**TEXT, "text": "m"}], [{**TEXT, "signature": "s"}]],
        [{**TEXT, "text": "hm", "signature": "s"}],
    ),
    (
        "several texts, the later one first",
        [[{**TEXT, "index": 1, "text": "b"}, {**TEXT, "text": "a"}], [{**TEXT, "index": 1, "text": "c"}]],
        [{**TEXT, "text": "a"}, {**TEXT, "index": 1, "text": "bc"}],
    ),
    (
        "a summary and what is sealed under the same index",
        [
            [{"type": "reasoning.summary", "summary": "I ", "id": "rs", "index": 0}],
            [{"type": "reasoning.summary", "summary": "think", "index": 0}],
            [{"type": "reasoning.encrypted", "data": "ab", "id": "rs", "index": 0}],
        ],
        [
            {"type": "reasoning.summary", "summary": "I think", "id": "rs", "index": 0},
            {"type": "reasoning.encrypted", "data": "ab", "id": "rs", "index": 0},
        ],
    ),
    ("signatures of parallel calls", [[SEALED], [{**SEALED, "id": "d"}]], [SEALED, {**SEALED, "id": "d"}]),
    (
        "sealed in pieces, its id told late",
        [[{**SEALED, "id": None}], [{**SEALED, "data": "cd"}]],
        [{**SEALED, "data": "abcd"}],
    ),
    (
        "without an index",
        [[{**BARE, "summary": "a"}, {**BARE, "summary": "b"}], [SIGNED], [{**BARE, "summary": "c"}]],
        [{**BARE, "summary": "ab"}, SIGNED, {**BARE, "summary": "c"}],
    ),
    (
        "without an index, what is signed is whole",
        [
            [
                {"type": "reasoning.text", "text": "a", "signature": "s"},
                {"type": "reasoning.text", "text": "b"},
            ]
        ],
        [{"type": "reasoning.text", "text": "a", "signature": "s"}, {"type": "reasoning.text", "text": "b"}],
    ),
    (
        "an empty signature is none yet",
        [
            [{**TEXT, "text": "hm", "signature": ""}],
            [{**TEXT, "signature": "s"}],
            [{**TEXT, "signature": ""}],
        ],
        [{**TEXT, "text": "hm", "signature": "s"}],
    ),
    (
        "as many as can be",
        [[{**TEXT, "index": n} for n in range(512)]],
        [{**TEXT, "index": n} for n in range(512)],
    ),
    ("too many", [[{**TEXT, "index": n} for n in range(600)]], None),
    ("odd ones are passed over", ["x", None, [7, None, SIGNED], {"a": 1}], [SIGNED]),
    ("a long one", [[{**TEXT, "text": "x" * 70_000}]] * 2, [{**TEXT, "text": "x" * 140_000}]),
    ("too long a one", [[{**TEXT, "text": "x" * 70_000}]] * 16, None),
    ("none", [[], None], None),
]


@pytest.mark.parametrize(("pieces", "whole"), [case[1:] for case in PIECES], ids=[case[0] for case in PIECES])
def test_streamed_details_are_put_together_as_a_plain_answer_has_them(pieces: list[Any], whole: Any) -> None:
    deltas: list[dict[str, Any]] = [{"content": "", "reasoning_details": piece} for piece in pieces]
    deltas.append({"tool_calls": [{"index": 0, **CALL}, {"index": 1, **CALL, "id": "d"}]})
    events = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}
    _, completion = assembled(at("openrouter.ai"), *events, end)
    assert completion.tool_calls is not None
    first, second = json.loads(bytes(completion.tool_calls))
    kept = {"openrouter": {"reasoning_details": whole}} if whole else None
    assert (first.get("extra_content"), second.get("extra_content")) == (kept, None)


@given(
    any_json("reasoning_details reasoning.text type text index id data signature openrouter extra_content")
)
def test_no_details_are_too_odd_to_be_read_or_sent(told_of_it: Any) -> None:
    wire = at("openrouter.ai")
    survives(wire, thoughtful(told_of_it))
    delta = {"reasoning_details": told_of_it, "tool_calls": [CALL]}
    survives(wire, {"choices": [{"index": 0, "delta": delta, "finish_reason": "tool_calls"}]})
    for extra in (told_of_it, {"openrouter": told_of_it}, {"openrouter": {"reasoning_details": told_of_it}}):
        (message,) = encoded(wire, calling(("c", "f", "{}"), extra=extra))["messages"]
        assert message["tool_calls"] == [CALL]
        assert all(isinstance(detail, dict) for detail in message.get("reasoning_details", ()))


REFUSED: list[Any] = [
    # OpenAI
    (
        {
            "error": {
                "message": "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
                "'max_completion_tokens' instead.",
                "type": "invalid_request_error",
                "param": "max_tokens",
                "code": "unsupported_parameter",
            }
        },
        "max_tokens",
    ),
    # an older version of Azure's interface
    ({"error": {"message": "Unrecognized request argument supplied: stream_options"}}, "stream_options"),
    # FastAPI, as at Mistral and vLLM
    (
        {
            "object": "error",
            "message": {
                "detail": [
                    {"type": "extra_forbidden", "loc": ["body", "max_completion_tokens"], "msg": "Extra"}
                ]
            },
        },
        None,
    ),
    (
        {
            "detail": [
                {"type": "extra_forbidden", "loc": ["body", "max_completion_tokens"], "msg": "Extra inputs"}
            ]
        },
        "max_completion_tokens",
    ),
    # Groq
    ({"error": {"message": "property 'stream_options' is unsupported", "param": None}}, "stream_options"),
    # about a value, not about the name
    (
        {
            "error": {
                "message": "max_tokens is too large: 5000. This model supports at most 4096 completion tokens.",
                "type": "invalid_request_error",
                "param": "max_tokens",
                "code": None,
            }
        },
        None,
    ),
    ({"error": {"message": "no good", "param": "max_tokens", "code": "invalid_value"}}, None),
    ({"detail": [{"type": "missing", "loc": ["body", "messages"], "msg": "Field required"}]}, None),
    ({"detail": [7, {"type": "extra_forbidden", "loc": 7}]}, None),
]


@pytest.mark.parametrize(("body", "name"), REFUSED)
def test_the_parameter_that_an_endpoint_does_not_know_is_found(body: Any, name: str | None) -> None:
    error = told(at("llm.example"), 400, body)
    assert isinstance(error, InvalidRequest)
    assert error.parameter == name
    assert told(at("llm.example"), 429, body).parameter is None


@given(
    st.recursive(
        st.none()
        | st.text(max_size=8)
        | st.sampled_from(["extra_forbidden", "max_tokens", "unknown field a_b"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["detail", "loc", "type", "param", "code", "message"]), inner)
        ),
    )
)
def test_no_complaint_is_too_odd_to_look_for_a_parameter(body: Any) -> None:
    assert isinstance(complaint_of(body).parameter, str | None)


def knowing(*names: str) -> Behaviour:
    """A server that refuses every body with another of these words than `names`."""
    words = {"max_tokens", "max_completion_tokens", "stream_options"}

    async def behave(exchange: Exchange) -> None:
        unknown = sorted((words - set(names)) & exchange.json.keys())
        if unknown:
            fault = {"message": f"Unsupported parameter: '{unknown[0]}'", "param": unknown[0]}
            await exchange.answer(json.dumps({"error": fault}).encode(), status=400)
        else:
            await exchange.answer(json.dumps(ANSWER).encode())

    return behave


async def ask(
    behave: Behaviour, *params: dict[str, Any], stream: bool = False
) -> tuple[list[Any], list[Any], int]:
    """What came of one request after another, the bodies that were sent, and how many were sent again."""
    async with ugly_server(behave) as server:
        spec = ModelSpec(name="m", provider="openai", model="m", base_url=server.url)
        upstream = OpenAIUpstream(spec, CLOCK)
        outcomes: list[Any] = []
        for asked in params:
            request = Request(messages=(USER,), params=asked, stream=stream)
            try:
                answer = await upstream.generate(
                    request, deadline=CLOCK.monotonic() + 5, on_delta=[].append if stream else None
                )
                outcomes.append(answer.output)
            except InvalidRequest as error:
                outcomes.append(error.parameter)
        await upstream.close()
        return outcomes, [request.json for request in server.requests], upstream.amendments


async def test_a_cap_refused_for_its_name_is_sent_again_under_the_other_and_remembered() -> None:
    outcomes, bodies, amendments = await ask(
        knowing("max_completion_tokens"), {"max_tokens": 9}, {"max_tokens": 8}
    )
    assert outcomes == ["hello", "hello"]
    caps = [{name: value for name, value in body.items() if "max" in name} for body in bodies]
    assert caps == [{"max_tokens": 9}, {"max_completion_tokens": 9}, {"max_completion_tokens": 8}]
    assert amendments == 1


async def test_a_server_without_any_cap_is_asked_twice_and_then_its_refusal_is_believed() -> None:
    outcomes, bodies, amendments = await ask(knowing(), *[{"max_tokens": 9}] * 3)
    assert outcomes == ["max_completion_tokens", "max_tokens", "max_tokens"]
    assert (len(bodies), amendments) == (5, 2)


async def test_usage_is_not_asked_for_where_that_is_refused() -> None:
    outcomes, bodies, amendments = await ask(knowing("max_tokens"), {}, {"max_tokens": 4}, stream=True)
    assert outcomes == ["hello", "hello"]
    assert ["stream_options" in body for body in bodies] == [True, False, False]
    assert amendments == 1


async def test_what_the_job_asked_for_is_never_left_out() -> None:
    async def behave(exchange: Exchange) -> None:
        fault = {"message": "Unsupported parameter: 'temperature'", "param": "temperature"}
        await exchange.answer(json.dumps({"error": fault}).encode(), status=400)

    outcomes, bodies, amendments = await ask(behave, {"temperature": 1})
    assert (outcomes, len(bodies), amendments) == (["temperature"], 1, 0)


def test_calls_that_ran_together_are_all_sent_again() -> None:
    wire = at("llm.example")
    refused = told(wire, 400, {"error": {"message": "Unsupported parameter", "param": "max_tokens"}})
    assert [wire.amend(refused) for _ in range(3)] == [True, True, True]
    assert "max_completion_tokens" in encoded(wire, max_tokens=1)
