"""OpenAI's Responses format: reasoning that comes with tool calls and goes back with them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from formats import WEATHER, any_json, assembled, calling, decoded, encoded, result, survives, told
from hypothesis import given
from ugly_server import Behaviour, Exchange, ugly_server

from theo_workers.clock import SystemClock
from theo_workers.errors import InvalidRequest
from theo_workers.messages import Completion, Message, Request
from theo_workers.model_spec import ModelSpec
from theo_workers.upstreams.anthropic_messages import AnthropicMessages
from theo_workers.upstreams.chat_completions import ChatCompletions
from theo_workers.upstreams.chat_dialects import dialect_of
from theo_workers.upstreams.openai_responses import OpenAIResponsesUpstream
from theo_workers.upstreams.origin import Origin
from theo_workers.upstreams.params import MOST_KEPT_BYTES
from theo_workers.upstreams.responses import Responses

CLOCK = SystemClock()
SEALED = "reasoning.encrypted_content"
TOOLS = [{"type": "function", "function": WEATHER}]
SUMMARY = [{"type": "summary_text", "text": "I think"}]


def at(host: str, model: str = "gpt-5") -> Responses:
    return Responses(Origin(provider="openai_responses"), model=model, host=host)


WIRE = at("api.openai.com")


def reasoning(
    identity: Any = "rs_1", sealed: Any = "gAAA", summary: Any = SUMMARY, **more: Any
) -> dict[str, Any]:
    item = {"type": "reasoning", "id": identity, "summary": summary, "encrypted_content": sealed}
    return {**item, "status": "completed", "content": None, **more}


def sent(identity: str, sealed: str = "gAAA") -> dict[str, Any]:
    return {"type": "reasoning", "summary": SUMMARY, "id": identity, "encrypted_content": sealed}


def call(identity: str, name: str = "weather") -> dict[str, Any]:
    return {
        "type": "function_call",
        "id": f"fc_{identity}",
        "call_id": identity,
        "name": name,
        "arguments": "{}",
    }


CUSTOM = {"type": "custom_tool_call", "id": "ct_1", "call_id": "c3", "name": "sql", "input": "SELECT"}
TEXT = {
    "type": "message",
    "id": "msg_1",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "wait"}],
}


def response(*output: Any) -> dict[str, Any]:
    return {"id": "resp_1", "object": "response", "status": "completed", "output": [*output]}


def plain(wire: Responses, *output: Any) -> Completion:
    return decoded(wire, response(*output))


def streamed(wire: Responses, *output: Any) -> Completion:
    return assembled(wire, *dones(output), {"type": "response.completed", "response": response(*output)})[1]


def streamed_in_items(wire: Responses, *output: Any) -> Completion:
    """As from servers whose last event does not tell the output once more."""
    return assembled(wire, *dones(output), {"type": "response.completed", "response": response()})[1]


def dones(output: Any) -> list[Any]:
    said = [{"type": "response.output_text.delta", "delta": "wait"}] if TEXT in output else []
    return said + [
        {"type": "response.output_item.done", "output_index": n, "item": i} for n, i in enumerate(output)
    ]


def told_calls(completion: Completion) -> list[dict[str, Any]]:
    assert completion.tool_calls is not None
    calls: list[dict[str, Any]] = json.loads(bytes(completion.tool_calls))
    return calls


ANSWERS = [plain, streamed, streamed_in_items]


@pytest.mark.parametrize(
    ("host", "model", "params", "include"),
    [
        ("api.openai.com", "gpt-5", {"tools": TOOLS}, [SEALED]),
        ("api.openai.com", "o4-mini", {"tools": TOOLS, "store": False}, [SEALED]),
        ("my.openai.azure.com", "gpt-5.1-codex", {"tools": TOOLS}, [SEALED]),
        ("api.openai.com", "ft:o4-mini:acme", {"tools": TOOLS, "include": ["x"]}, ["x", SEALED]),
        (
            "api.openai.com",
            "gpt-5",
            {"tools": TOOLS, "logprobs": True},
            ["message.output_text.logprobs", SEALED],
        ),
        ("api.openai.com", "gpt-5", {"tools": TOOLS, "include": [SEALED]}, [SEALED]),
        # not where there are no calls, where it is stored, or where an odd `include` was asked for
        ("api.openai.com", "gpt-5", {}, None),
        ("api.openai.com", "gpt-5", {"tools": []}, None),
        ("api.openai.com", "gpt-5", {"tools": TOOLS, "store": True}, None),
        ("api.openai.com", "gpt-5", {"tools": TOOLS, "include": "x"}, "x"),
        # not of models that do not think, nor of others' servers
        ("api.openai.com", "gpt-4.1", {"tools": TOOLS}, None),
        ("api.openai.com", "gpt-5-chat-latest", {"tools": TOOLS}, None),
        ("openrouter.ai", "gpt-5", {"tools": TOOLS}, None),
        ("127.0.0.1", "gpt-5", {"tools": TOOLS}, None),
        ("", "gpt-5", {"tools": TOOLS}, None),
    ],
)
def test_sealed_reasoning_is_asked_for_where_it_can_go_back_with_calls(
    host: str, model: str, params: dict[str, Any], include: Any
) -> None:
    assert encoded(at(host, model), **params).get("include") == include


@pytest.mark.parametrize("answer", ANSWERS)
def test_reasoning_goes_back_in_front_of_the_calls_that_it_led_to(answer: Any) -> None:
    output = (reasoning("rs_1"), reasoning("rs_2"), TEXT, call("c1"), reasoning("rs_3"), CUSTOM, call("c4"))
    completion = answer(WIRE, *output)
    calls = told_calls(completion)
    assert [one["id"] for one in calls] == ["c1", "c3", "c4"]
    assert ["extra_content" in one for one in calls] == [True, True, False]
    turn = Message(role="assistant", content=completion.output, tool_calls=calls)
    rest = [
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "wait"}]},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "c3", "name": "sql", "input": "SELECT"},
        {"type": "function_call", "call_id": "c4", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
    ]
    items = encoded(WIRE, turn, result("c1", "sunny"))["input"]
    assert items == [sent("rs_1"), sent("rs_2"), *rest[:2], sent("rs_3"), *rest[2:]]
    others = (at("api.openai.com", "gpt-5-mini"), at("my.openai.azure.com"), at("openrouter.ai"), at(""))
    assert all(encoded(other, turn, result("c1", "sunny"))["input"] == rest for other in others)


def test_no_other_format_sees_the_reasoning() -> None:
    calls = told_calls(plain(WIRE, reasoning(), call("c1")))
    assert b"gAAA" in json.dumps(calls).encode()
    asked = Request(messages=(Message(role="assistant", tool_calls=calls), result("c1", "x")), params={})
    origin = Origin(provider="x")
    chats = [
        ChatCompletions(origin, model="gpt-5", dialect=dialect_of(host)) for host in ("", "openrouter.ai")
    ]
    for wire in (*chats, ChatCompletions(origin, model="gpt-5"), AnthropicMessages(origin, model="claude-x")):
        assert b"gAAA" not in wire.encode(asked)


def test_what_clients_get_does_not_name_the_host() -> None:
    (one,) = told_calls(plain(at("secret-name.openai.azure.com"), reasoning(), call("c1")))
    assert one["extra_content"]["openai"]["reasoning_items"] == [sent("rs_1")]
    assert "secret" not in json.dumps(one)


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize(
    ("wire", "output"),
    [
        (at(""), [reasoning(), call("c1")]),
        (WIRE, [call("c1")]),
        (WIRE, [call("c1"), reasoning()]),
        (WIRE, [reasoning(sealed=None), call("c1")]),
        (WIRE, [reasoning(sealed=""), call("c1")]),  # llama.cpp
        (WIRE, [reasoning(sealed={"a": 1}), call("c1")]),
        (WIRE, [reasoning(sealed="x" * MOST_KEPT_BYTES), call("c1")]),
    ],
    ids=["no host", "none", "after the call", "not sealed", "empty", "odd", "too large"],
)
def test_what_cannot_go_back_is_not_kept(answer: Any, wire: Responses, output: list[Any]) -> None:
    (one,) = told_calls(answer(wire, *output))
    assert "extra_content" not in one


def test_as_much_as_is_kept_goes_back_and_one_byte_more_is_refused_by_who_would_get_it() -> None:
    around = len(json.dumps([[sent("rs_1", "")]], separators=(",", ":")))
    item = reasoning(sealed="x" * (MOST_KEPT_BYTES - around))
    calls = told_calls(plain(WIRE, item, call("c1"), call("c2")))
    turn = Message(role="assistant", tool_calls=calls)
    assert len(encoded(WIRE, turn)["input"][0]["encrypted_content"]) == MOST_KEPT_BYTES - around
    (kept,) = calls[0]["extra_content"]["openai"]["reasoning_items"]
    kept["encrypted_content"] += "x"
    with pytest.raises(InvalidRequest, match="reasoning_items cannot be sent: above 1048576 bytes of JSON"):
        encoded(WIRE, turn)
    for other in (at("api.openai.com", "gpt-5.1"), at("elsewhere"), at("")):
        assert "encrypted_content" not in json.dumps(encoded(other, turn))


def test_items_spread_over_the_calls_of_a_message_count_together() -> None:
    calls = told_calls(plain(WIRE, reasoning(), call("c1"), reasoning("rs_2"), call("c2")))
    for one in calls:
        (kept,) = one["extra_content"]["openai"]["reasoning_items"]
        kept["encrypted_content"] = "x" * (MOST_KEPT_BYTES // 2)
    with pytest.raises(InvalidRequest, match="reasoning_items"):
        encoded(WIRE, Message(role="assistant", tool_calls=calls))


@pytest.mark.parametrize(
    ("item", "back"),
    [
        (
            reasoning(summary=None),
            {"type": "reasoning", "summary": [], "id": "rs_1", "encrypted_content": "gAAA"},
        ),
        (reasoning(identity=None), {"type": "reasoning", "summary": SUMMARY, "encrypted_content": "gAAA"}),
    ],
)
def test_items_that_lack_something_are_completed_as_far_as_requests_demand(item: Any, back: Any) -> None:
    calls = told_calls(plain(WIRE, item, call("c1")))
    assert encoded(WIRE, Message(role="assistant", tool_calls=calls))["input"][0] == back


@given(any_json("openai of reasoning_items type reasoning id summary encrypted_content function_call name"))
def test_no_reasoning_is_too_odd_to_be_read_or_sent(value: Any) -> None:
    survives(
        WIRE, response({"type": "reasoning", "id": value, "encrypted_content": value}, call("c1"), value)
    )
    survives(WIRE, {"type": "response.output_item.done", "item": value})
    (kept,) = told_calls(plain(WIRE, reasoning(), call("c1")))
    mark = kept["extra_content"]["openai"]["of"]
    for extra in (value, {"openai": value}, {"openai": {"of": mark, "reasoning_items": value}}):
        *items, last = encoded(WIRE, calling(("c1", "f", "{}"), extra=extra))["input"]
        assert last == {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
        assert all(item["type"] == "reasoning" for item in items)


NOT_KNOWN = {
    "message": "Encrypted content is not supported with this model.",
    "type": "invalid_request_error",
    "param": "include",
    "code": None,
}


def test_a_model_that_does_not_know_it_is_not_asked_again() -> None:
    wire = at("api.openai.com")
    refused = told(wire, 400, {"error": NOT_KNOWN})
    assert [wire.amend(refused) for _ in range(2)] == [True, True]  # calls that ran together
    assert "include" not in encoded(wire, tools=TOOLS)
    assert encoded(wire, tools=TOOLS, include=[SEALED])["include"] == [SEALED]
    assert not at("llm.example").amend(refused)
    assert not wire.amend(told(wire, 400, {"error": {**NOT_KNOWN, "param": "tools"}}))


REFUSALS: list[tuple[int, dict[str, Any]]] = [
    (
        400,
        {
            "message": "The encrypted content gAAA...Q== could not be verified.",
            "type": "invalid_request_error",
            "param": None,
            "code": "invalid_encrypted_content",
        },
    ),
    (400, {**NOT_KNOWN, "param": "input"}),
    (
        400,
        {
            "message": "Item 'rs_1' of type 'reasoning' was provided without its required following item.",
            "type": "invalid_request_error",
            "param": "input",
        },
    ),
    (
        404,
        {
            "message": "Item with id 'rs_1' not found. Items are not persisted when `store` is set to false.",
            "type": "invalid_request_error",
            "param": "input",
        },
    ),
    (
        400,
        {"message": "Reasoning input items can only be provided to a reasoning model", "param": "input"},
    ),
]


def refusing(status: int, error: Any, *, always: bool = False) -> Behaviour:
    """A server that refuses reasoning, or everything."""

    async def behave(exchange: Exchange) -> None:
        if always or any(item.get("type") == "reasoning" for item in exchange.json["input"]):
            await exchange.answer(json.dumps({"error": error}).encode(), status=status)
        else:
            await exchange.answer(json.dumps(response(TEXT)).encode())

    return behave


async def ask(behave: Behaviour, *, thinking: bool = True) -> tuple[str, list[Any], int]:
    """The answer or the error's code, the types of the items that were sent each time, and what was sent again."""
    async with ugly_server(behave) as server:
        spec = ModelSpec(name="m", provider="openai_responses", model="gpt-5", base_url=server.url)
        upstream = OpenAIResponsesUpstream(spec, CLOCK)
        before = [reasoning()] if thinking else []
        calls = told_calls(plain(at("127.0.0.1"), *before, call("c1")))
        messages = (Message(role="assistant", tool_calls=calls), result("c1", "sunny"))
        try:
            answer = await upstream.generate(
                Request(messages=messages, params={}), deadline=CLOCK.monotonic() + 5, on_delta=None
            )
            outcome = str(answer.output)
        except InvalidRequest as error:
            outcome = error.code
        await upstream.close()
        sent_items = [[item["type"] for item in request.json["input"]] for request in server.requests]
        return outcome, sent_items, upstream.amendments


BARE = ["function_call", "function_call_output"]


@pytest.mark.parametrize(("status", "error"), REFUSALS)
async def test_reasoning_that_a_server_refuses_is_left_out_and_the_job_is_answered(
    status: int, error: dict[str, Any]
) -> None:
    assert await ask(refusing(status, error)) == ("wait", [["reasoning", *BARE], BARE], 1)


async def test_a_request_is_sent_without_reasoning_once() -> None:
    outcome = await ask(refusing(*REFUSALS[0], always=True))
    assert outcome == ("invalid_request", [["reasoning", *BARE], BARE], 1)


async def test_a_request_without_reasoning_is_not_sent_again_for_it() -> None:
    assert await ask(refusing(*REFUSALS[0], always=True), thinking=False) == ("invalid_request", [BARE], 0)


async def test_a_refusal_within_an_answer_is_not_sent_again() -> None:
    async def behave(exchange: Exchange) -> None:
        error = {"code": "invalid_prompt", "message": "Item 'rs_1' of type 'reasoning' is odd."}
        await exchange.answer(json.dumps({**response(), "status": "failed", "error": error}).encode())

    assert await ask(behave) == ("invalid_request", [["reasoning", *BARE]], 0)


async def test_another_refusal_is_believed() -> None:
    error = {"message": "Invalid value: 'x'.", "param": "input", "code": "invalid_value"}
    assert await ask(refusing(400, error)) == ("invalid_request", [["reasoning", *BARE]], 0)
