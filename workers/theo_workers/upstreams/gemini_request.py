"""From a request in OpenAI's chat form to a body of Gemini's generateContent. Pure."""

from __future__ import annotations

import mimetypes
import re
from typing import Any

import msgspec
from msgspec import UNSET

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
    text_of,
    text_part,
)
from theo_workers.upstreams.params import (
    OWNED,
    Params,
    UntranslatableError,
    params_of,
    refuse,
    rename,
    take_cap,
    take_dict,
    take_schema,
    take_stops,
)
from theo_workers.upstreams.thinking import gemini_thinking

_OWNED = OWNED | frozenset({"contents", "systemInstruction", "system_instruction", "generation_config"})
_OWNED_INSIDE = frozenset({"candidateCount", "candidate_count"})
_NONE_HERE = "Gemini has none"
_IMPOSSIBLE = {
    "audio": "only text is asked of Gemini",
    "function_call": "use tool_choice",
    "functions": "use tools",
    "logit_bias": _NONE_HERE,
    "metadata": _NONE_HERE,
    "modalities": "only text is asked of Gemini",
    "parallel_tool_calls": "Gemini decides itself how many tools it calls",
    "prediction": _NONE_HERE,
    "store": "Gemini stores no answers",
    "user": _NONE_HERE,
    "verbosity": _NONE_HERE,
    "web_search_options": "use the tool googleSearch",
}
_RENAMED = {
    "frequency_penalty": "frequencyPenalty",
    "logprobs": "responseLogprobs",
    "presence_penalty": "presencePenalty",
    "seed": "seed",
    "temperature": "temperature",
    "top_k": "topK",
    "top_logprobs": "logprobs",
    "top_p": "topP",
}
_MODES = {"auto": "AUTO", "required": "ANY", "none": "NONE"}

# Gemini 3 refuses calls without the signature that it gave them. For calls that another model made, this
# is the word that Google documents: https://ai.google.dev/gemini-api/docs/thought-signatures
_SIGNS_CALLS = re.compile(r"gemini-(?:[3-9]|\d\d)")
_UNSIGNED = "c2tpcF90aG91Z2h0X3NpZ25hdHVyZV92YWxpZGF0b3I="  # skip_thought_signature_validator

_decoder = msgspec.json.Decoder()


def gemini_body(request: Request, *, model: str, max_output_tokens: int | None) -> dict[str, Any]:
    """The body to post. Raises UntranslatableError.

    All system messages go to the top, where the format has its place for them.
    """
    body: dict[str, Any] = {"contents": _contents(request.messages, signed=bool(_SIGNS_CALLS.search(model)))}
    if system := _system(request.messages):
        body["systemInstruction"] = {"parts": system}
    if request.params or max_output_tokens is not None:
        body.update(_settings(params_of(request.params, _OWNED), max_output_tokens, model))
    return body


def _settings(left: Params, most: int | None, model: str) -> dict[str, Any]:
    refuse(left, _IMPOSSIBLE)
    own = take_dict(left, "generationConfig")
    if _OWNED_INSIDE.intersection(own):
        raise UntranslatableError("params.generationConfig may not set candidateCount")
    cap = take_cap(own, take_cap(left, most), "maxOutputTokens", "max_output_tokens")
    generation = {**own, **rename(left, _RENAMED)}
    if cap is not None:
        generation["maxOutputTokens"] = cap
    if stops := take_stops(left):
        generation["stopSequences"] = stops
    if effort := left.pop("reasoning_effort", None):
        generation["thinkingConfig"] = {
            **take_dict(generation, "thinkingConfig"),
            **gemini_thinking(model, effort),
        }
    kind, described = take_schema(left)
    if kind != "text":
        generation["responseMimeType"] = "application/json"
    if kind == "json_schema":
        generation["responseJsonSchema"] = schema_of(described)
    settings: dict[str, Any] = {"generationConfig": generation} if generation else {}
    if tools := left.pop("tools", None):
        settings["tools"] = _tools(tools)
    strict = any(tool.get("function", {}).get("strict") for tool in tools or ())
    if calling := _calling(left.pop("tool_choice", None), strict=strict):
        settings["toolConfig"] = {**take_dict(left, "toolConfig"), "functionCallingConfig": calling}
    return {**settings, **left}


def _tools(tools: list[Any]) -> list[dict[str, Any]]:
    """The functions in one list of declarations; Gemini's own tools stay as they are."""
    declared: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for tool in tools:
        function = function_of(tool)
        if function is None:
            others.append(tool)
            continue
        declaration = {"description": "", **rest_of(function, "parameters", "strict")}
        if function.get("parameters"):
            declaration["parametersJsonSchema"] = function["parameters"]
        declared.append(declaration)
    return [{"functionDeclarations": declared}, *others] if declared else others


def _calling(choice: Any, *, strict: bool) -> dict[str, Any]:
    """VALIDATED is Gemini's word for a free choice of calls whose arguments fit the schema for certain."""
    match choice:
        case None | "auto":
            return {"mode": "VALIDATED"} if strict else {"mode": "AUTO"} if choice else {}
        case "required" | "none":
            return {"mode": _MODES[choice]}
        case {"type": "function", "function": {"name": str(name)}}:
            return {"mode": "ANY", "allowedFunctionNames": [name]}
        case {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [*tools]}}:
            return {"mode": "ANY", "allowedFunctionNames": [_named(tool) for tool in tools]}
        case _:
            raise UntranslatableError("params.tool_choice: Gemini has no such choice")


def _named(tool: Any) -> str:
    match tool:
        case {"type": "function", "function": {"name": str(name)}}:
            return name
        case _:
            raise UntranslatableError("params.tool_choice: only functions can be allowed")


def _system(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    return [
        {"text": text_part(part, "a system message")}
        for message in messages
        if message.role in ("system", "developer")
        for part in parts_of(message.content)
    ]


def _contents(messages: tuple[Message, ...], *, signed: bool) -> list[dict[str, Any]]:
    """The conversation. What follows one another in one role becomes one turn, as results of calls must."""
    contents: list[dict[str, Any]] = []
    names: dict[str, str] = {}  # of the functions, by the id of the call
    for message in messages:
        no_name(message)
        if message.role in ("system", "developer"):
            continue
        role = "model" if message.role == "assistant" else "user"
        if role == "model":
            parts = _said(message, signed=signed)
            names.update((call.id, call.name) for call in calls_of(message))
        elif message.role == "tool":
            parts = [_result(message, names)]
        else:
            parts = [_heard(part) for part in parts_of(message.content)]
        if contents and contents[-1]["role"] == role:
            contents[-1]["parts"] += parts
        else:
            contents.append({"role": role, "parts": parts})
    return contents


def _said(message: Message, *, signed: bool) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [
        {"text": text_part(part, "an assistant's turn")} for part in parts_of(message.content)
    ]
    for number, call in enumerate(calls_of(message)):
        part: dict[str, Any] = {
            "functionCall": {"id": call.id, "name": call.name, "args": arguments_of(call)},
        }
        match call.extra.get("google"):
            case {"thought_signature": str(signature)}:
                part["thoughtSignature"] = signature
            case _ if signed and number == 0:  # of parallel calls only the first has one
                part["thoughtSignature"] = _UNSIGNED
        parts.append(part)
    return parts


def _result(message: Message, names: dict[str, str]) -> dict[str, Any]:
    """A tool's result: a JSON object as it is, any other text as the function's `output`."""
    call_id = answered_call(message)
    name = names.get(call_id, message.name)
    if name is UNSET:
        raise UntranslatableError(f"no call before it has the tool_call_id {call_id[:64]}")
    text = text_of(message.content, "a tool's result")
    try:
        told = _decoder.decode(text)
    except (ValueError, RecursionError):
        told = None
    response = told if isinstance(told, dict) else {"output": text}
    return {"functionResponse": {"id": call_id, "name": name, "response": response}}


def _heard(part: dict[str, Any]) -> dict[str, Any]:
    """A part that the model reads."""
    match part:
        case {"type": "text"}:
            return {"text": text_part(part, "this part"), **rest_of(part, "type", "text")}
        case {"type": "image_url"}:
            url = image_url_of(part, details=("auto", "high"))
            held = data_url(url)
            return _file(url, part["image_url"]) if held is None else _inline(held.media_type, held.data)
        case {"type": "file", "file": {"file_id": str(uri)} as file} if "file_data" not in file:
            return _file(uri, file)
        case {"type": "file"}:
            attached, _ = file_of(part)
            return _inline(attached.media_type, attached.data)
        case {"type": "input_audio", "input_audio": {"data": str(data), "format": str(kind)}}:
            return _inline(f"audio/{kind}", data)
        case {"type": "input_audio"}:
            raise no_such_part(part, "it has no data and format")
        case _:
            raise no_such_part(part, "Gemini reads text, images, files and audio")


def _inline(media_type: str, data: str) -> dict[str, Any]:
    return {"inlineData": {"mimeType": media_type, "data": data}}


def _file(url: str, told: dict[str, Any]) -> dict[str, Any]:
    """What Gemini fetches itself; `format` is its media type, where the URL does not tell it."""
    kind = told.get("format") or mimetypes.guess_type(url.partition("?")[0])[0]
    if not isinstance(kind, str):
        raise UntranslatableError(
            "an image or file cannot be sent: its URL does not tell the media type; say it as `format` beside the URL"
        )
    return {"fileData": {"fileUri": url, "mimeType": kind}}
