"""What is asked of every server in every format, plain and streamed, and what must come back."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.providers.stand_ins import KEY
from theo_workers.clock import SystemClock
from theo_workers.errors import UpstreamError
from theo_workers.messages import Completion, Message, Request
from theo_workers.model_spec import ModelSpec
from theo_workers.secret import Secret
from theo_workers.upstreams.build import build_upstream

CLOCK = SystemClock()
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "of a city", "parameters": CITY},
}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "place", "schema": CITY, "strict": True}}

Outcome = Completion | UpstreamError
Expected = Callable[[Outcome, str], bool]
"""The outcome, and the deltas joined."""


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One thing to ask, and how to know that it was done."""

    name: str
    messages: tuple[Message, ...]
    expected: Expected
    params: dict[str, Any] = field(default_factory=dict)
    key: str = KEY
    fixture: dict[str, Any] | None = None  # what makes aimock answer so
    only: tuple[str, ...] = ()  # where the server knows it in these formats alone


def says(text: str, finish: str = "stop") -> Expected:
    return lambda outcome, _: (
        isinstance(outcome, Completion) and (outcome.output, outcome.finish_reason) == (text, finish)
    )


def fails(code: str, *, status: int | None = None, waits: bool = False) -> Expected:
    return lambda outcome, _: (
        isinstance(outcome, UpstreamError)
        and outcome.code == code
        and status in (None, outcome.status_code)
        and (not waits or (outcome.retry_after_s or 0) > 0)
    )


def calls(*wanted: tuple[str, dict[str, Any]]) -> Expected:
    def judge(outcome: Outcome, _: str) -> bool:
        if not isinstance(outcome, Completion) or outcome.tool_calls is None:
            return False
        made = json.loads(bytes(outcome.tool_calls))
        found = [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in made]
        distinct = len({call["id"] for call in made}) == len(made)
        return outcome.finish_reason == "tool_calls" and distinct and found == list(wanted)

    return judge


def user(text: str) -> Message:
    return Message(role="user", content=text)


def result(text: str, identity: str = "call_1") -> Message:
    return Message(role="tool", content=text, tool_call_id=identity)


CALLED = Message(
    role="assistant",
    tool_calls=[
        {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bonn"}'}}
    ],
)
ONE, TWO = ("weather", {"city": "Bonn"}), ("weather", {"city": "Köln"})


def answering(match: dict[str, Any], response: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"match": match, "response": response, **more}


def called(*wanted: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    return {"toolCalls": [{"name": name, "arguments": arguments} for name, arguments in wanted]}


def refusing(word: str, status: int, kind: str, **more: Any) -> dict[str, Any]:
    return {
        "match": {"userMessage": word},
        "response": {"error": {"message": word, "type": kind}, "status": status},
        **more,
    }


AIMOCK: list[Feature] = [
    Feature(
        name="text",
        messages=(user("say hello"),),
        expected=says("Hello, Wörld! 👋"),
        fixture=answering({"userMessage": "say hello"}, {"content": "Hello, Wörld! 👋"}),
    ),
    Feature(
        name="system, multi-turn",
        messages=(
            Message(role="system", content="speak like a pirate"),
            user("who goes there?"),
            Message(role="assistant", content="Arr."),
            user("again"),
        ),
        expected=says("Arr, again."),
        fixture=answering(
            {"userMessage": "again", "systemMessage": "pirate", "turnIndex": 1}, {"content": "Arr, again."}
        ),
    ),
    Feature(
        name="image part",
        messages=(
            Message(
                role="user",
                content=[
                    {"type": "text", "text": "what is on it?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
                ],
            ),
        ),
        expected=says("A pixel."),
        fixture=answering({"userMessage": "what is on it"}, {"content": "A pixel."}),
    ),
    Feature(
        name="length",
        messages=(user("tell all"),),
        params={"max_tokens": 16},
        expected=says("It was", "length"),
        fixture=answering({"userMessage": "tell all"}, {"content": "It was", "finishReason": "length"}),
    ),
    Feature(
        name="tool call",
        messages=(user("weather in Bonn"),),
        params={"tools": [WEATHER]},
        expected=calls(ONE),
        fixture=answering({"userMessage": "weather in Bonn", "hasToolResult": False}, called(ONE)),
    ),
    Feature(
        name="parallel calls",
        messages=(user("both cities"),),
        params={"tools": [WEATHER], "tool_choice": "required"},
        expected=calls(ONE, TWO),
        fixture=answering({"userMessage": "both cities"}, called(ONE, TWO)),
    ),
    Feature(
        name="tool result",
        messages=(user("and now?"), CALLED, result("12 °C")),
        params={"tools": [WEATHER]},
        expected=says("Twelve degrees."),
        fixture=answering({"userMessage": "and now?", "hasToolResult": True}, {"content": "Twelve degrees."}),
    ),
    Feature(
        name="structured output",
        messages=(user("a place"),),
        params={"response_format": SCHEMA},
        expected=says('{"city":"Bonn"}'),
        fixture=answering({"userMessage": "a place"}, {"content": '{"city":"Bonn"}'}),
    ),
    Feature(
        name="429",
        messages=(user("too fast"),),
        expected=fails("rate_limited", status=429),
        fixture=refusing("too fast", 429, "rate_limit_error"),
    ),
    Feature(
        name="401",
        messages=(user("say hello"),),
        key="sk-wrong-key",
        expected=fails("authentication_failed", status=401),
    ),
    Feature(
        name="400",
        messages=(user("nonsense"),),
        expected=fails("invalid_request", status=400),
        fixture=refusing("nonsense", 400, "invalid_request_error"),
    ),
    Feature(
        name="500",
        messages=(user("break"),),
        expected=fails("provider_unavailable", status=500),
        fixture=refusing("break", 500, "api_error"),
    ),
    Feature(
        name="529",
        messages=(user("busy"),),
        expected=fails("provider_unavailable", status=529),
        fixture=refusing("busy", 529, "overloaded_error"),
    ),
    Feature(
        name="dropped",
        messages=(user("drop it"),),
        expected=fails("provider_unavailable"),
        fixture=answering({"userMessage": "drop it"}, {"content": "x"}, chaos={"dropRate": 1.0}),
    ),
    Feature(
        name="malformed",
        messages=(user("garble"),),
        expected=fails("provider_unavailable"),
        fixture=answering({"userMessage": "garble"}, {"content": "x"}, chaos={"malformedRate": 1.0}),
    ),
    Feature(
        name="disconnected",
        messages=(user("hang up"),),
        expected=fails("provider_unavailable"),
        fixture=answering({"userMessage": "hang up"}, {"content": "x"}, chaos={"disconnectRate": 1.0}),
    ),
]


def _some_text(outcome: Outcome, _: str) -> bool:
    return isinstance(outcome, Completion) and bool(outcome.output) and outcome.usage is not None


def _cut(outcome: Outcome, _: str) -> bool:
    return isinstance(outcome, Completion) and outcome.finish_reason == "length"


def _is_a_place(outcome: Outcome, _: str) -> bool:
    if not isinstance(outcome, Completion):
        return False
    try:
        return isinstance(json.loads(outcome.output)["city"], str)
    except (ValueError, TypeError, KeyError):
        return False


LLAMA: list[Feature] = [
    Feature(
        name="text",
        messages=(user("Say hi."),),
        params={"max_tokens": 64, "temperature": 0},
        expected=_some_text,
    ),
    Feature(
        name="system, multi-turn",
        messages=(
            Message(role="system", content="Be brief."),
            user("My name is Ada."),
            Message(role="assistant", content="Hello Ada."),
            user("What is my name?"),
        ),
        params={"max_tokens": 48, "temperature": 0},
        expected=_some_text,
    ),
    Feature(
        name="length",
        messages=(user("Tell a long story."),),
        params={"max_tokens": 16},
        expected=_cut,
    ),
    Feature(
        name="structured output",
        messages=(user("Name a city as JSON."),),
        params={"response_format": SCHEMA, "max_tokens": 64, "temperature": 0},
        expected=_is_a_place,
        only=("openai",),  # in the other two it ignores the schema
    ),
    Feature(
        name="tool result",
        messages=(user("What is the weather in Bonn?"), CALLED, result("12 degrees")),
        params={"tools": [WEATHER], "max_tokens": 48, "temperature": 0},
        expected=lambda outcome, _: isinstance(outcome, Completion),
    ),
    Feature(
        name="400",
        messages=(user("hi"),),
        params={"temperature": "warm"},
        expected=fails("invalid_request", status=400),
    ),
    Feature(
        name="context too long",
        messages=(user("word " * 20_000),),
        params={"max_tokens": 4},
        expected=fails("context_length_exceeded"),
    ),
]


async def ask(
    provider: str, base_url: str, feature: Feature, *, model: str, stream: bool
) -> tuple[Outcome, str]:
    """What became of it, and what was delivered of it piece by piece."""
    spec = ModelSpec(name="m", provider=provider, model=model, base_url=base_url, api_key=Secret(feature.key))
    upstream = build_upstream(spec, CLOCK, random.Random(1))
    deltas: list[str] = []
    request = Request(messages=feature.messages, params=feature.params, stream=stream)
    outcome: Outcome
    try:
        outcome = await upstream.generate(
            request, deadline=CLOCK.monotonic() + 60, on_delta=deltas.append if stream else None
        )
    except UpstreamError as error:
        outcome = error
    finally:
        await upstream.close()
    return outcome, "".join(deltas)
