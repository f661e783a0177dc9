"""What plain and streamed chat answers share: finish reasons, usage, tool calls, the completion itself."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from theo_workers.errors import ContentFiltered
from theo_workers.messages import Completion, FinishReason, Usage
from theo_workers.upstreams.origin import Origin

_FINISH: dict[str, FinishReason] = {
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "tool_use": "tool_calls",
}
_BROKEN_OFF = frozenset({"error", "abort", "cancelled", "insufficient_system_resource"})

_MOST_TOKENS = 1 << 40  # a larger count is nonsense, and would not fit where counts are stored


class _PromptDetails(Struct):
    cached_tokens: Any = None
    cache_write_tokens: Any = None


class _CompletionDetails(Struct):
    reasoning_tokens: Any = None


class _Usage(Struct):
    prompt_tokens: Any = None
    completion_tokens: Any = None
    total_tokens: Any = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None
    prompt_cache_hit_tokens: Any = None  # DeepSeek
    num_cached_tokens: Any = None  # Mistral


_usage_decoder = msgspec.json.Decoder(_Usage)
_encoder = msgspec.json.Encoder()


def completion(
    origin: Origin,
    *,
    text: str,
    refused: str | None,
    finish: str | None,
    calls: list[dict[str, Any]] | None,
    usage: Usage | None,
    identity: str | None,
) -> Completion:
    """The completion, or ContentFiltered for what the model or its filter withheld."""
    if refused or finish == "content_filter":
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
        output=clean(text),
        finish_reason="tool_calls" if calls else _FINISH.get(finish or "", "other"),
        usage=usage,
        tool_calls=_tool_calls(origin, calls, identity, usage) if calls else None,
        provider_request_id=identity,
    )


def clean(text: str) -> str:
    """NUL is the one character left, after decoding, that ends strings early in other people's code."""
    return text.replace("\0", "\ufffd") if "\0" in text else text


def joined_text(content: str | list[Any] | None) -> str:
    """`content` as text: parts are joined without a separator, and thinking is not part of the answer."""
    if isinstance(content, str):
        return content
    texts = [
        part.get("text")
        for part in content or ()
        if isinstance(part, dict) and part.get("type", "text") in {"text", "output_text"}
    ]
    return "".join(text for text in texts if isinstance(text, str))


def read_usage(raw: Raw) -> Usage | None:
    """Tokens as billed, or None when nothing usable was reported.

    xAI leaves reasoning out of `completion_tokens` and says so in the total. Where gateways report more
    reasoning than completion tokens, the completion tokens are what is billed.
    """
    try:
        told = _usage_decoder.decode(raw)
    except (ValueError, RecursionError):
        return None
    prompt, completed = _count(told.prompt_tokens), _count(told.completion_tokens)
    if not prompt and not completed:
        return None
    inputs = told.prompt_tokens_details or _PromptDetails()
    reasoning = _count((told.completion_tokens_details or _CompletionDetails()).reasoning_tokens)
    if reasoning and _count(told.total_tokens) == prompt + completed + reasoning:
        completed += reasoning
    cached = inputs.cached_tokens or told.prompt_cache_hit_tokens or told.num_cached_tokens
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completed,
        cached_tokens=min(_count(cached), prompt),
        cache_write_tokens=min(_count(inputs.cache_write_tokens), prompt),
        reasoning_tokens=min(reasoning, completed),
    )


def _count(told: Any) -> int:
    return int(told) if isinstance(told, int | float) and 0 <= told < _MOST_TOKENS else 0


def _tool_calls(
    origin: Origin, calls: list[dict[str, Any]], identity: str | None, usage: Usage | None
) -> Raw:
    """The calls as JSON in OpenAI's form, providers' extra fields kept (some must be sent back)."""
    try:
        return Raw(_encoder.encode([_shaped(call, number) for number, call in enumerate(calls)]))
    except (TypeError, ValueError, OverflowError, RecursionError):
        reason = "the answer's tool calls cannot be read"
    raise origin.garbage(reason, provider_request_id=identity, usage=usage)


def _shaped(call: dict[str, Any], number: int) -> dict[str, Any]:
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise TypeError
    arguments = function.get("arguments") or "{}"
    if not isinstance(arguments, str):  # old Ollama sends the object itself
        arguments = _encoder.encode(arguments).decode()
    extra = {name: value for name, value in call.items() if name != "index"}
    return {
        **extra,
        "id": call.get("id") or f"call_{number}",
        "type": "function",
        "function": {**function, "arguments": clean(arguments)},
    }
