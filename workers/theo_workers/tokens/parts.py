"""What of a request becomes prompt tokens: texts, images, calls, definitions; and what has no bound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import UNSET, Struct

from theo_workers.messages import Message
from theo_workers.tokens.families import is_agent

# Work of the provider's own, state it keeps, or another price list: the prompt alone does not bound the bill.
_OPEN_ENDED = frozenset(
    {
        "audio",
        "best_of",
        "cached_content",
        "cachedContent",
        "container",
        "context_management",
        "conversation",
        "inference_geo",
        "mcp_servers",
        "modalities",
        "models",
        "plugins",
        "prediction",
        "previous_response_id",
        "prompt",
        "search_parameters",
        "search_settings",
        "speed",
        "web_search_options",
    }
)
_STANDARD_TIERS = frozenset({"auto", "default", "flex", "on_demand", "standard", "standard_only"})


def open_ended(params: Mapping[str, Any], model: str) -> str | None:
    """What keeps the cost from being known beforehand: the name of a parameter or the model; or None."""
    if is_agent(model):
        return model
    if not params:
        return None
    for name in _OPEN_ENDED & params.keys():
        if params[name]:
            return name
    if params.get("service_tier") not in _STANDARD_TIERS | {None}:
        return "service_tier"
    tools = params.get("tools")
    if isinstance(tools, list) and any(not isinstance(t, dict) or t.get("type") != "function" for t in tools):
        return "tools"
    return None


class Content(Struct, frozen=True):
    """A message's content, sorted. `others` counts what is neither text nor image: audio, files, video."""

    text: str
    images: tuple[Mapping[str, Any], ...] = ()
    others: int = 0


_EMPTY = Content("")


def content_of(message: Message) -> Content:
    """Text parts are joined without a separator, as providers do."""
    content = message.content
    if content is None:
        return _EMPTY
    if isinstance(content, str):
        return Content(content)
    texts, images, others = [], [], 0
    for part in content:
        if isinstance(text := part.get("text", part.get("refusal")), str):
            texts.append(text)
        elif part.get("type") in ("thinking", "reasoning"):
            texts.append(encode(part).decode())
        elif isinstance(image := part.get("image_url"), Mapping):
            images.append(image)
        elif isinstance(image, str):
            images.append({"url": image})
        else:
            others += 1
    return Content("".join(texts), tuple(images), others)


class Call(Struct, frozen=True):
    """One tool call of an assistant message in the history; `arguments` is JSON text."""

    name: str
    arguments: str


def calls_of(message: Message) -> list[Call]:
    """The message's tool calls; what is not in OpenAI's form counts by its JSON."""
    if message.tool_calls is UNSET:
        return []
    calls = []
    for call in message.tool_calls:
        function = call.get("function")
        if isinstance(function, Mapping):
            calls.append(Call(str(function.get("name", "")), str(function.get("arguments", ""))))
        else:
            calls.append(Call("", encode(call).decode()))
    return calls


def returned_bytes(message: Message) -> int:
    """Bytes of the JSON that a provider gave us with its answer: reasoning and signatures, which go back to it.

    Only that provider gets them. Whether the one that is asked is that one, its host tells, which is not known here.
    """
    given: list[Any] = [message.reasoning_content, message.reasoning_details]
    if message.tool_calls is not UNSET:
        given += [call.get("extra_content") for call in message.tool_calls]
    return sum(len(encode(one)) for one in given if one is not UNSET and one)


def functions_of(params: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The `function` objects of the function tools, as they came."""
    tools, functions = params.get("tools"), params.get("functions")  # functions: the form before tools
    found = (
        [tool.get("function") for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []
    )
    found += functions if isinstance(functions, list) else []
    return [function for function in found if isinstance(function, dict)]


def output_schema_of(params: Mapping[str, Any]) -> dict[str, Any] | None:
    """The `json_schema` object of `response_format`."""
    format_ = params.get("response_format")
    schema = format_.get("json_schema") if isinstance(format_, Mapping) else None
    return schema if isinstance(schema, dict) else None


def thinking_of(params: Mapping[str, Any]) -> float:
    """The share of a family's thinking instructions: 1 when on, less when the model decides, 0 when off."""
    match params.get("thinking"):
        case {"type": "enabled"}:
            return 1.0
        case {"type": "adaptive"}:
            return 0.6
    reasoning = params.get("reasoning")
    return 1.0 if isinstance(reasoning, Mapping) and reasoning.get("effort") != "none" else 0.0


def has_task_budget(params: Mapping[str, Any]) -> bool:
    """Is the model told how many tokens its task may take? Claude is, in its prompt."""
    output = params.get("output_config")
    return isinstance(output, Mapping) and bool(output.get("task_budget"))


def call_is_forced(params: Mapping[str, Any]) -> bool:
    """Must the model call a tool?"""
    return params.get("tool_choice") not in (None, "auto", "none")


encode = msgspec.json.Encoder().encode
