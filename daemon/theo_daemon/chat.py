"""What a job may ask in OpenAI's chat form: its messages and its params, checked as far as every provider agrees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from msgspec import UNSET

from theo_daemon.fields import is_whole
from theo_daemon.strict_json import quote
from theo_workers.errors import InvalidJob
from theo_workers.messages import Message, Role

ROLES: tuple[str, ...] = get_args(Role)
MAX_TOKENS = 1_000_000_000  # no model comes near; sums of money stay within 64 bits
MAX_STOPS = 16

_SAID_BY_THE_JOB = frozenset({"model", "messages", "prompt", "system", "stream", "stream_options", "n"})
_SAME_ELSEWHERE = frozenset({"input", "instructions", "contents", "system_instruction", "systemInstruction"})
OWNED_PARAMS = _SAID_BY_THE_JOB | _SAME_ELSEWHERE
"""Names that `params` may not have, even as null."""


def parse_messages(value: Any) -> tuple[Message, ...]:
    """Chat messages from decoded JSON; keys the router does not know are dropped. Raises InvalidJob."""
    if type(value) is not list:
        raise InvalidJob(f"messages must be a JSON array of chat messages, not {quote(value)}")
    if not value:
        raise InvalidJob("messages must not be empty")
    return tuple([_message(item, index) for index, item in enumerate(value)])


def parse_params(value: Any) -> dict[str, Any]:
    """Params from decoded JSON, without those that are null. Raises InvalidJob for a name the router owns and
    for a known name whose value no provider could take; other names pass as they are."""
    if type(value) is not dict:
        raise InvalidJob(f"params must be a JSON object, not {quote(value)}")
    if not OWNED_PARAMS.isdisjoint(value):
        names = ", ".join(sorted(OWNED_PARAMS.intersection(value)))
        raise InvalidJob(f"params must not have {names}: the router sets that from the job's own fields")
    params = {}
    for name, item in value.items():
        if item is None:
            continue
        check = _CHECKS.get(name)
        params[name] = item if check is None else check(name, item)
    return params


def _message(item: Any, index: int) -> Message:
    if type(item) is not dict:
        raise InvalidJob(f"messages[{index}] must be an object with role and content, not {quote(item)}")
    get = item.get
    role, content = get("role"), get("content")
    if role not in ROLES:
        known = ", ".join(ROLES)
        raise InvalidJob(f"messages[{index}].role must be one of {known}, not {quote(role)}")
    if len(item) == 2 and type(content) is str and role != "tool":  # by far the most common form
        return Message(role=role, content=content)
    calls = _tool_calls(get("tool_calls"), role, index)
    if content is None:
        if not calls:
            raise InvalidJob(f"messages[{index}].content is missing: text or a list of content parts")
    elif type(content) is not str:
        _check_parts(content, index)
    return Message(
        role=role,
        content=content,
        name=_text(get("name"), f"messages[{index}].name") or UNSET,
        tool_calls=calls or UNSET,
        tool_call_id=_tool_call_id(get("tool_call_id"), role, index),
        **(_reasoning(item) if role == "assistant" else {}),
    )


def _reasoning(item: dict[str, Any]) -> dict[str, Any]:
    """What the assistant thought, as far as it is in a form that somebody takes back; no job fails for it."""
    text, details = item.get("reasoning_content"), item.get("reasoning_details")
    found: dict[str, Any] = {}
    if type(text) is str and text:
        found["reasoning_content"] = text
    if type(details) is list and details and all(type(detail) is dict for detail in details):
        found["reasoning_details"] = details
    return found


def _check_parts(content: Any, index: int) -> None:
    where = f"messages[{index}].content"
    if type(content) is not list or not content:
        raise InvalidJob(f"{where} must be text or a list of content parts, not {quote(content)}")
    for number, part in enumerate(content):
        if type(part) is not dict or type(part.get("type")) is not str or not part["type"]:
            raise InvalidJob(f"{where}[{number}] must be an object with a type, not {quote(part)}")
        kind = part["type"]
        if kind == "text" and type(part.get("text")) is not str:
            raise InvalidJob(f"{where}[{number}].text must be text, not {quote(part.get('text'))}")
        if kind in ("image_url", "input_audio", "file") and type(part.get(kind)) is not dict:
            raise InvalidJob(f"{where}[{number}].{kind} must be an object, not {quote(part.get(kind))}")


def _tool_calls(calls: Any, role: str, index: int) -> list[dict[str, Any]]:
    if calls is None or calls == []:
        return []
    where = f"messages[{index}].tool_calls"
    if role != "assistant":
        raise InvalidJob(f"{where} belongs to the role assistant, not {role}")
    if type(calls) is not list:
        raise InvalidJob(f"{where} must be a list of tool calls, not {quote(calls)}")
    for number, call in enumerate(calls):
        if type(call) is not dict or type(call.get("id")) is not str:
            raise InvalidJob(f"{where}[{number}] must be an object with an id, not {quote(call)}")
        function = call.get("function")
        if call.get("type", "function") != "function":
            continue  # a kind that only some providers know: theirs to judge
        if (
            type(function) is not dict
            or type(function.get("name")) is not str
            or type(function.get("arguments")) is not str
        ):
            raise InvalidJob(f"{where}[{number}].function must have a name and arguments, both text")
    return calls


def _tool_call_id(value: Any, role: str, index: int) -> Any:
    where = f"messages[{index}].tool_call_id"
    if role == "tool" and (type(value) is not str or not value):
        raise InvalidJob(f"{where} must name the tool call that this is the result of")
    return _text(value, where) or UNSET


def _text(value: Any, where: str) -> str | None:
    if value is not None and type(value) is not str:
        raise InvalidJob(f"{where} must be text, not {quote(value)}")
    return value


def _complain(name: str, wanted: str, value: Any) -> InvalidJob:
    return InvalidJob(f"params.{name} must be {wanted}, not {quote(value)}")


def _number(name: str, value: Any) -> Any:
    if type(value) not in (int, float):
        raise _complain(name, "a number", value)
    return value


def _integer(name: str, value: Any) -> int:
    if not is_whole(value):
        raise _complain(name, "an integer", value)
    return int(value)


def _token_count(name: str, value: Any) -> int:
    if not is_whole(value) or not 0 < value <= MAX_TOKENS:
        raise _complain(name, f"an integer from 1 to {MAX_TOKENS}", value)
    return int(value)


def _stop(name: str, value: Any) -> Any:
    stops = [value] if type(value) is str else value
    if type(stops) is not list or len(stops) > MAX_STOPS or not all(type(stop) is str for stop in stops):
        raise _complain(name, f"text or a list of at most {MAX_STOPS} texts", value)
    return value


def _objects(name: str, value: Any) -> Any:
    if type(value) is not list or not all(type(item) is dict for item in value):
        raise _complain(name, "a list of objects", value)
    return value


def _of(wanted: str, *kinds: type) -> Callable[[str, Any], Any]:
    def check(name: str, value: Any) -> Any:
        if type(value) not in kinds:
            raise _complain(name, wanted, value)
        return value

    return check


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "temperature": _number,
    "top_p": _number,
    "presence_penalty": _number,
    "frequency_penalty": _number,
    "top_k": _integer,
    "seed": _integer,
    "top_logprobs": _integer,
    "max_tokens": _token_count,
    "max_completion_tokens": _token_count,
    "stop": _stop,
    "tools": _objects,
    "tool_choice": _of("text or an object", str, dict),
    "response_format": _of("an object", dict),
    "reasoning_effort": _of("text", str),
    "parallel_tool_calls": _of("true or false", bool),
    "logprobs": _of("true or false", bool),
    "logit_bias": _of("an object", dict),
    "user": _of("text", str),
}
