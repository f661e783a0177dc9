"""From a request in OpenAI's chat form to a body of OpenAI's Responses format. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from theo_workers.messages import Message, Request
from theo_workers.upstreams.chat_form import (
    answered_call,
    calls_of,
    function_of,
    image_url_of,
    no_name,
    no_such_part,
    parts_of,
    rest_of,
)
from theo_workers.upstreams.params import (
    OWNED,
    Params,
    params_of,
    refuse,
    take_cap,
    take_dict,
    take_schema,
)
from theo_workers.upstreams.responses_reasoning import returned

_OWNED = OWNED | frozenset({"input", "instructions"})
_NONE_HERE = "the Responses format has none"
_IMPOSSIBLE = {
    "audio": _NONE_HERE,
    "frequency_penalty": _NONE_HERE,
    "function_call": "use tool_choice",
    "functions": "use tools",
    "logit_bias": _NONE_HERE,
    "modalities": "it answers in text only",
    "prediction": _NONE_HERE,
    "presence_penalty": _NONE_HERE,
    "seed": _NONE_HERE,
    "stop": _NONE_HERE,
    "web_search_options": "use a tool of type web_search",
}
CAP = "max_output_tokens"
_LOGPROBS = "message.output_text.logprobs"


def responses_body(
    request: Request, *, model: str, max_output_tokens: int | None, mark: str | None = None
) -> dict[str, Any]:
    """The body to post. Raises UntranslatableError.

    Nothing is to be kept at the provider (`store`), as in the chat format, unless `params` say so.
    `mark` is whose reasoning goes back.
    """
    body: dict[str, Any] = {"model": model, "input": [*_items(request.messages, mark)], "store": False}
    if request.params or max_output_tokens is not None:
        body.update(_settings(request.params, max_output_tokens))
    if request.stream:
        body["stream"] = True
    return body


def _settings(given: Any, most: int | None) -> dict[str, Any]:
    left = params_of(given, _OWNED)
    cap = take_cap(left, most, CAP)
    refuse(left, _IMPOSSIBLE)
    settings: dict[str, Any] = {} if cap is None else {CAP: cap}
    if effort := left.pop("reasoning_effort", None):
        settings["reasoning"] = {**take_dict(left, "reasoning"), "effort": effort}
    if text := _text(left):
        settings["text"] = text
    if "tools" in left:
        settings["tools"] = [_tool(tool) for tool in left.pop("tools")]
    if "tool_choice" in left:
        settings["tool_choice"] = _tool_choice(left.pop("tool_choice"))
    if left.pop("logprobs", False):
        settings["include"] = [*left.pop("include", ()), _LOGPROBS]
    return {**settings, **left}


def _text(left: Params) -> dict[str, Any]:
    """`text` says here what the answer looks like: its format and its verbosity."""
    text = take_dict(left, "text")
    if "response_format" in left:
        kind, described = take_schema(left)
        text["format"] = {**described, "type": kind}
    if "verbosity" in left:
        text["verbosity"] = left.pop("verbosity")
    return text


def _tool(tool: Any) -> dict[str, Any]:
    if isinstance(tool, dict) and tool.get("type") == "custom" and isinstance(tool.get("custom"), dict):
        return {"type": "custom", **tool["custom"]}
    function = function_of(tool)
    if function is None:
        return dict(tool)
    # Not said, a function is strict here and is not strict in the chat format.
    return {"type": "function", "parameters": None, "strict": False, **function}


def _tool_choice(choice: Any) -> Any:
    match choice:
        case {"type": "function" | "custom" | "allowed_tools" as kind} if isinstance(choice.get(kind), dict):
            chosen = {"type": kind, **choice[kind]}
            if kind == "allowed_tools":
                chosen["tools"] = [_tool_choice(tool) for tool in chosen.get("tools") or ()]
            return chosen
        case _:
            return choice


def _items(messages: tuple[Message, ...], mark: str | None) -> Iterator[dict[str, Any]]:
    customs: set[str] = set()
    for message in messages:
        no_name(message)
        if message.role == "tool":
            call_id, content = answered_call(message), message.content
            kind = "custom_tool_call_output" if call_id in customs else "function_call_output"
            output = (
                content or "" if not isinstance(content, list) else [_heard(p) for p in parts_of(content)]
            )
            yield {"type": kind, "call_id": call_id, "output": output}
            continue
        if message.role != "assistant":
            content = message.content
            said = content or "" if not isinstance(content, list) else [_heard(p) for p in parts_of(content)]
            yield {"role": message.role, "content": said}
            continue
        calls = calls_of(message)
        thoughts = returned([call.extra for call in calls], mark)
        if calls:  # before what was said: in that order it came
            yield from thoughts[0]
        if said := [_said(part) for part in parts_of(message.content)]:
            # In full: llama.cpp knows no shorter form of what an assistant said.
            yield {"type": "message", "role": "assistant", "content": said}
        for number, call in enumerate(calls):
            if number:
                yield from thoughts[number]
            named = {"call_id": call.id, "name": call.name}
            if call.custom:
                customs.add(call.id)
                yield {"type": "custom_tool_call", **named, "input": call.arguments}
            else:
                yield {"type": "function_call", **named, "arguments": call.arguments}


def _heard(part: dict[str, Any]) -> dict[str, Any]:
    """A part that the model reads."""
    match part:
        case {"type": "text", "text": str()}:
            return {**part, "type": "input_text"}
        case {"type": "image_url", "image_url": dict(image)}:
            url = image_url_of(part, details=("auto", "low", "high", "original"))
            rest = rest_of(part, "type", "image_url")
            return {"type": "input_image", "image_url": url, "detail": image.get("detail") or "auto", **rest}
        case {"type": "file", "file": dict(file)}:
            return {"type": "input_file", **file, **rest_of(part, "type", "file")}
        case {"type": "input_text" | "input_image" | "input_file"}:
            return part
        case _:
            raise no_such_part(part, "the Responses format reads text, images and files")


def _said(part: dict[str, Any]) -> dict[str, Any]:
    """A part of what the model said before."""
    match part:
        case {"type": "text", "text": str()}:
            return {**part, "type": "output_text"}
        case {"type": "refusal" | "output_text"}:
            return part
        case _:
            raise no_such_part(part, "an assistant's turn is text or a refusal")
