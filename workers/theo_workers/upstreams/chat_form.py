"""OpenAI's chat form, read by those who translate it: tools, content parts, tool calls. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET

from theo_workers.messages import Message
from theo_workers.upstreams.params import UntranslatableError

_decoder = msgspec.json.Decoder()


class DataUrl(NamedTuple):
    """The content of a `data:` URL, still in base64."""

    media_type: str
    data: str


class Call(NamedTuple):
    """One tool call of an assistant's turn. `extra` is what a provider gave us to be sent back to it."""

    id: str
    name: str
    arguments: str
    extra: Mapping[str, Any]
    custom: bool = False  # `arguments` is then free text


def function_of(tool: Any) -> dict[str, Any] | None:
    """The definition of a function; None for a provider's own kind of tool, which is passed on as it is."""
    match tool:
        case {"type": "function", "function": {"name": str()} as function}:
            return {**rest_of(tool, "type", "function"), **function}
        case {"type": "function", "function": _} | {"type": "custom", "custom": _}:
            raise UntranslatableError(f"params.tools: a tool of type {tool['type']} cannot be sent like that")
        case {}:
            return None
        case _:
            raise UntranslatableError("params.tools must be a list of objects")


def schema_of(described: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a `json_schema` for those who have no other place for its description."""
    about = described.get("description")
    return {**({"description": about} if about else {}), **described["schema"]}


def text_of(content: str | Sequence[Any] | None, where: str) -> str:
    """`content` where only text is possible."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(text_part(part, where) for part in content)


def text_part(part: Any, where: str) -> str:
    """A part's text. Raises UntranslatableError for what is no text: `where` there can be nothing else."""
    match part:
        case {"type": "text", "text": str(text)} | {"type": "refusal", "refusal": str(text)}:
            return text
        case {}:
            raise no_such_part(part, f"{where} can only be text")
        case _:
            raise UntranslatableError("a content part must be an object")


def parts_of(content: str | Sequence[Any] | None) -> Iterator[dict[str, Any]]:
    """Content as parts, whichever of its two forms it has; an empty text is no part."""
    if isinstance(content, str):
        if content:
            yield {"type": "text", "text": content}
        return
    for part in content or ():
        if not isinstance(part, dict):
            raise UntranslatableError("a content part must be an object")
        yield part


def rest_of(part: Mapping[str, Any], *known: str) -> dict[str, Any]:
    """What a part has beyond OpenAI's form, as marks for a cache: it is passed on as it is."""
    return {name: value for name, value in part.items() if name not in known}


def no_such_part(part: Mapping[str, Any], reason: str) -> UntranslatableError:
    """For a content part that the provider can't take in that place."""
    return UntranslatableError(
        f"a content part of type {str(part.get('type'))[:40]} cannot be sent: {reason}"
    )


def image_url_of(part: Mapping[str, Any], *, details: Iterable[str]) -> str:
    """The URL of an `image_url` part; `details` are the values of `detail` that the provider fulfils."""
    match part.get("image_url"):
        case {"url": str(url), **rest} if url:
            if rest.get("detail") not in (None, *details):
                raise no_such_part(
                    part, f"detail {str(rest['detail'])[:20]} is not to be had from this provider"
                )
            return url
        case _:
            raise no_such_part(part, "it has no image_url.url")


def data_url(url: str) -> DataUrl | None:
    """What a `data:` URL holds, or None for a URL that must be fetched."""
    if url[:5].lower() != "data:":
        return None
    kind, comma, data = url[5:].partition(",")
    media_type, *attributes = kind.split(";")
    if not comma or not media_type or "base64" not in attributes:
        raise UntranslatableError("a data: URL must have a media type and base64 content")
    return DataUrl(media_type.lower(), data)


def file_of(part: Mapping[str, Any]) -> tuple[DataUrl, str | None]:
    """A `file` part's content and name, where only content can be sent."""
    match part.get("file"):
        case {"file_data": str(url), **rest} if (held := data_url(url)) is not None:
            name = rest.get("filename")
            return held, name if isinstance(name, str) else None
        case _:
            raise no_such_part(part, "only file_data with a data: URL is understood by this provider")


def calls_of(message: Message) -> list[Call]:
    """The tool calls of an assistant's turn."""
    if message.tool_calls is UNSET:
        return []
    return [_call(told) for told in message.tool_calls]


def arguments_of(call: Call) -> dict[str, Any]:
    """A call's arguments as the object that they must be for this provider."""
    if call.custom:
        raise UntranslatableError("a call of a custom tool cannot be sent to this provider")
    if not call.arguments.strip():
        return {}
    try:
        told = _decoder.decode(call.arguments)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise UntranslatableError(f"the arguments of tool call {call.id[:64]} are not a JSON object")
    return told


def answered_call(message: Message) -> str:
    """The id of the call whose result a `tool` message is."""
    if message.tool_call_id is UNSET or not message.tool_call_id:
        raise UntranslatableError("a message with role tool must have a tool_call_id")
    return message.tool_call_id


def no_name(message: Message) -> None:
    """Raises UntranslatableError where a message names its speaker, which only OpenAI's chat format can say."""
    if message.name is not UNSET and message.role != "tool":
        raise UntranslatableError("a message's name cannot be sent: this provider's format has none")


def _call(told: Any) -> Call:
    match told:
        case {"id": str(identity), "function": {"name": str(name), **function}, **rest}:
            arguments = function.get("arguments", "")
            if isinstance(arguments, str):
                return Call(identity, name, arguments, _extra(rest))
        case {"id": str(identity), "type": "custom", "custom": {"name": str(name), "input": str(text)}}:
            return Call(identity, name, text, _extra(told), custom=True)
    raise UntranslatableError("a tool call must have an id and a function with a name and arguments as text")


def _extra(told: Mapping[Any, Any]) -> Mapping[str, Any]:
    extra = told.get("extra_content")
    return extra if isinstance(extra, dict) else {}
