"""What the answers of all formats have in common: how a completion, its tool calls and its counts are made. Pure."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct

from theo_workers.errors import ContentFiltered
from theo_workers.messages import Completion, FinishReason, Usage
from theo_workers.texts import Text, clean
from theo_workers.upstreams.origin import Origin

_FINISH: dict[str, FinishReason] = {
    # Chat Completions, with the dialects of those who speak it
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "length": "length",
    "model_length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    # Responses
    "completed": "stop",
    "max_output_tokens": "length",
    "incomplete": "length",  # no reason is given: a filter would be named
    # Anthropic Messages
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    # Gemini
    "STOP": "stop",
    "MAX_TOKENS": "length",
}
_WITHHELD = frozenset(
    {
        "content_filter",
        "refusal",
        "SAFETY",
        "RECITATION",
        "BLOCKLIST",
        "PROHIBITED_CONTENT",
        "SPII",
        "MODEL_ARMOR",
    }
    | {"IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION"}
)
_CALL = frozenset({"id", "type", "function", "index"})
_BROKEN_OFF = frozenset({"error", "abort", "cancelled", "insufficient_system_resource"})

_MOST_TOKENS = 1 << 40  # a larger count is nonsense, and would not fit where counts are stored

S = TypeVar("S", bound=Struct)
T = TypeVar("T")

_encoder = msgspec.json.Encoder()


def completion(
    origin: Origin,
    *,
    text: Text,
    refused: str | None,
    finish: str | None,
    calls: list[dict[str, Any]] | None,
    usage: Usage | None,
    identity: str | None,
) -> Completion:
    """The completion, or ContentFiltered for what the model or its filter withheld."""
    if refused or finish in _WITHHELD:
        raise origin.error(
            ContentFiltered,
            refused or "the answer was withheld by the provider's content filter",
            provider_code="refusal" if refused else finish,
            provider_request_id=identity,
            usage=usage,
        )
    if finish in _BROKEN_OFF:
        raise origin.garbage(
            f"the provider broke off its answer ({finish})", provider_request_id=identity, usage=usage
        )
    return Completion(
        output=clean(text) if isinstance(text, str) else text,
        finish_reason="tool_calls" if calls else _FINISH.get(finish or "", "other"),
        usage=usage,
        tool_calls=_tool_calls(origin, calls, identity, usage) if calls else None,
        provider_request_id=identity,
    )


def count(told: Any) -> int:
    """A number of tokens, or 0 for what can't be one."""
    return int(told) if isinstance(told, int | float) and 0 <= told < _MOST_TOKENS else 0


def lenient(decoder: msgspec.json.Decoder[T], raw: Raw) -> T | None:
    """What `raw` says, or None: an odd report of usage does not spoil an answer."""
    try:
        return decoder.decode(raw)
    except (ValueError, RecursionError):  # msgspec's and Unicode's errors are ValueErrors
        return None


def latest(first: S, last: S) -> S:
    """What a stream has told of itself twice, as one: where the last one says something, it counts."""
    names = first.__struct_fields__
    return type(first)(
        **{
            name: getattr(first, name) if getattr(last, name) is None else getattr(last, name)
            for name in names
        }
    )


def _tool_calls(
    origin: Origin, calls: list[dict[str, Any]], identity: str | None, usage: Usage | None
) -> Raw:
    """The calls as JSON in OpenAI's form, providers' extra fields kept (some must be sent back)."""
    try:
        # Ids must be unique in a conversation, in which each answer's first call could be `call_0`.
        prefix = f"call_{identity[-32:]}" if identity else "call"
        return Raw(_encoder.encode([_shaped(call, f"{prefix}_{n}") for n, call in enumerate(calls)]))
    except (TypeError, ValueError, OverflowError, RecursionError):
        reason = "the answer's tool calls cannot be read"
    raise origin.garbage(reason, provider_request_id=identity, usage=usage)


def _shaped(call: dict[str, Any], identity: str) -> dict[str, Any]:
    if call.get("type") == "custom" and isinstance(call.get("custom"), dict):
        return {name: value for name, value in call.items() if name != "index"}
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise TypeError
    arguments = function.get("arguments") or "{}"
    if isinstance(arguments, str):
        arguments = clean(arguments)
    elif not isinstance(arguments, Raw):  # old Ollama sends the object itself
        arguments = clean(_encoder.encode(arguments).decode())
    return {
        "id": call.get("id") or identity,
        "type": "function",
        "function": {**function, "arguments": arguments},
        **{name: value for name, value in call.items() if name not in _CALL},
    }
