"""From a request in OpenAI's chat form to a body of Anthropic's Messages format. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from theo_workers.messages import Message, Request
from theo_workers.upstreams.chat_form import (
    answered_call,
    arguments_of,
    calls_of,
    data_url,
    file_of,
    function_of,
    image_url_of,
    no_name,
    no_such_part,
    parts_of,
    rest_of,
    schema_of,
    text_part,
)
from theo_workers.upstreams.params import (
    OWNED,
    Params,
    UntranslatableError,
    params_of,
    refuse,
    take_cap,
    take_dict,
    take_schema,
    take_stops,
)
from theo_workers.upstreams.thinking import anthropic_thinking

DEFAULT_MAX_TOKENS = 4_096  # the format demands a cap; this one where neither job nor model has any

_OWNED = OWNED | frozenset({"system"})
_NONE_HERE = "Anthropic has none"
_IMPOSSIBLE = {
    "audio": "Anthropic answers in text only",
    "frequency_penalty": _NONE_HERE,
    "function_call": "use tool_choice",
    "functions": "use tools",
    "logit_bias": _NONE_HERE,
    "logprobs": _NONE_HERE,
    "modalities": "Anthropic answers in text only",
    "prediction": _NONE_HERE,
    "presence_penalty": _NONE_HERE,
    "seed": _NONE_HERE,
    "store": "Anthropic stores no answers",
    "top_logprobs": _NONE_HERE,
    "verbosity": _NONE_HERE,
    "web_search_options": "use a tool of Anthropic's own",
}
_CHOICES = {"auto": {"type": "auto"}, "required": {"type": "any"}, "none": {"type": "none"}}
_NOT_IN_IDS = re.compile(r"[^A-Za-z0-9_-]")
_NO_PARAMETERS = {"type": "object", "properties": {}}


def anthropic_body(request: Request, *, model: str, max_output_tokens: int | None) -> dict[str, Any]:
    """The body to post. Raises UntranslatableError.

    All system messages go to the top, where the format has its place for them.
    """
    left = params_of(request.params, _OWNED)
    cap = take_cap(left, max_output_tokens)
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": DEFAULT_MAX_TOKENS if cap is None else cap,
        "messages": _turns(request.messages),
    }
    if system := _system(request.messages):
        body["system"] = system
    if left:
        body.update(_settings(left, body["max_tokens"], model))
    if request.stream:
        body["stream"] = True
    return body


def _settings(left: Params, cap: Any, model: str) -> dict[str, Any]:
    refuse(left, _IMPOSSIBLE)
    settings: dict[str, Any] = {}
    if stops := take_stops(left):
        settings["stop_sequences"] = stops
    if user := left.pop("user", None):
        settings["metadata"] = {**take_dict(left, "metadata"), "user_id": user}
    output = take_dict(left, "output_config")
    if effort := left.pop("reasoning_effort", None):
        thinking, level = anthropic_thinking(model, effort, cap)
        settings["thinking"] = thinking
        output = {**level, **output}
    kind, described = take_schema(left)
    if kind == "json_object":
        raise UntranslatableError("params.response_format: Anthropic has no json_object, only json_schema")
    if kind == "json_schema":
        output["format"] = {"type": "json_schema", "schema": schema_of(described)}
    if output:
        settings["output_config"] = output
    if tools := left.pop("tools", None):
        settings["tools"] = [_tool(tool) for tool in tools]
    if choice := _tool_choice(left, bool(tools)):
        settings["tool_choice"] = choice
    return {**settings, **left}


def _tool(tool: Any) -> dict[str, Any]:
    function = function_of(tool)
    if function is None:
        return dict(tool)
    function["input_schema"] = function.pop("parameters", None) or _NO_PARAMETERS
    return {name: value for name, value in function.items() if value is not None}


def _tool_choice(left: Params, tools: bool) -> dict[str, Any]:
    asked, parallel = left.pop("tool_choice", None), left.pop("parallel_tool_calls", True)
    choice: dict[str, Any]
    match asked:
        case None:
            choice = {"type": "auto"} if tools and not parallel else {}
        case "auto" | "required" | "none":
            choice = dict(_CHOICES[asked])
        case {"type": "function", "function": {"name": str(name)}}:
            choice = {"type": "tool", "name": name}
        case {"type": "auto" | "any" | "tool" | "none"}:
            choice = dict(asked)
        case _:
            raise UntranslatableError("params.tool_choice: Anthropic has no such choice")
    if choice and not parallel and choice["type"] != "none":
        choice["disable_parallel_tool_use"] = True
    return choice


def _system(messages: tuple[Message, ...]) -> str | list[dict[str, Any]]:
    said = [message for message in messages if message.role in ("system", "developer")]
    if len(said) == 1 and isinstance(said[0].content, str):
        return said[0].content
    return [_text(part, "a system message") for message in said for part in parts_of(message.content)]


def _turns(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """The conversation. What follows one another in one role becomes one turn, as tool results must."""
    turns: list[dict[str, Any]] = []
    for message in messages:
        no_name(message)
        if message.role in ("system", "developer"):
            continue
        role = "assistant" if message.role == "assistant" else "user"
        content: str | list[dict[str, Any]]
        if isinstance(message.content, str) and message.role == "user":
            content = message.content
        elif message.role == "tool":
            content = [_result(message)]
        elif message.role == "user":
            content = [_heard(part) for part in parts_of(message.content)]
        else:
            content = _said(message)
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] = [*_blocks(turns[-1]["content"]), *_blocks(content)]
        else:
            turns.append({"role": role, "content": content})
    return turns


def _blocks(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _said(message: Message) -> list[dict[str, Any]]:
    """An assistant's turn: the thinking that led to calls, where it was Anthropic's, text, and the calls."""
    calls = calls_of(message)
    blocks = _thoughts(calls[0].extra) if calls else []
    blocks += [_text(part, "an assistant's turn") for part in parts_of(message.content)]
    return blocks + [
        {"type": "tool_use", "id": _identity(call.id), "name": call.name, "input": arguments_of(call)}
        for call in calls
    ]


def _thoughts(extra: Mapping[str, Any]) -> list[dict[str, Any]]:
    match extra.get("anthropic"):
        case {"thinking_blocks": [*blocks]}:
            return [block for block in blocks if isinstance(block, dict)]
        case _:
            return []


def _result(message: Message) -> dict[str, Any]:
    content = message.content
    return {
        "type": "tool_result",
        "tool_use_id": _identity(answered_call(message)),
        "content": content or "" if not isinstance(content, list) else [_heard(p) for p in parts_of(content)],
    }


def _heard(part: dict[str, Any]) -> dict[str, Any]:
    """A part that the model reads."""
    match part.get("type"):
        case "text":
            return _text(part, "this part")
        case "image_url":
            url = image_url_of(part, details=("auto", "high"))
            return {"type": "image", "source": _source(url), **rest_of(part, "type", "image_url")}
        case "file":
            held, name = file_of(part)
            source = {"type": "base64", "media_type": held.media_type, "data": held.data}
            title = {"title": name} if name else {}
            return {"type": "document", "source": source, **title, **rest_of(part, "type", "file")}
        case "image" | "document" | "search_result":
            return part  # in Anthropic's own form
        case _:
            raise no_such_part(part, "Anthropic reads text, images and documents")


def _source(url: str) -> dict[str, Any]:
    held = data_url(url)
    if held is None:
        return {"type": "url", "url": url}
    return {"type": "base64", "media_type": held.media_type, "data": held.data}


def _text(part: dict[str, Any], where: str) -> dict[str, Any]:
    """A text block; what Anthropic knows of it beyond OpenAI (`cache_control`) stays."""
    return {
        **{k: v for k, v in part.items() if k != "refusal"},
        "type": "text",
        "text": text_part(part, where),
    }


def _identity(call_id: str) -> str:
    """Anthropic refuses characters that ids of other providers have."""
    return _NOT_IN_IDS.sub("_", call_id)
