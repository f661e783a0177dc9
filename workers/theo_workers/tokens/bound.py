"""Prompt tokens at most, for reserving money: the one number here that must never be too small.

A byte-level tokenizer never makes more tokens than there are bytes, whatever the text; what providers add
unseen is bounded by measured constants. For OpenAI's own models the count itself is the better start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import UNSET

from theo_workers.messages import Message
from theo_workers.tokens.definitions import Size
from theo_workers.tokens.families import Family, Linear, OpenAI
from theo_workers.tokens.images import image_tokens
from theo_workers.tokens.parts import calls_of, content_of, returned_bytes
from theo_workers.tokens.tokenizer import byte_length

_PER_MESSAGE = 24
_PER_CALL = 96
_TOOLS = 1_024  # instructions how to call, at most
_SCHEMA = 512


def bound_from_count(
    family: OpenAI,
    count: int,
    messages: Sequence[Message],
    params: Mapping[str, Any],
    *,
    model: str,
    tools: Size,
    schema: Size,
) -> int | None:
    """`count` is what `count_openai` gave. None when a part of the request has no known bound."""
    slack = _slack(family, messages, model)
    if slack is None or not (tools.resolved and schema.resolved):
        return None
    # The rendering of definitions is known by experiment only: their whole JSON is kept beside it.
    slack += (tools.json + _TOOLS if tools.json else 0) + (schema.json + _SCHEMA if schema.json else 0)
    if params and params.get("reasoning"):
        slack += 2_048  # may turn a mode on that thinks in further prompts
    return count + count // 16 + family.hidden + slack


def bound_from_bytes(
    family: Family, messages: Sequence[Message], *, model: str, tools: Size, schema: Size
) -> int | None:
    """Needs no tokenizer. None when a part of the request has no known bound."""
    slack = _slack(family, messages, model)
    if slack is None or not (tools.resolved and schema.resolved):
        return None
    length = 0
    for message in messages:
        content = message.content
        length += byte_length(content if isinstance(content, str) else content_of(message).text)
        if message.tool_calls is not UNSET:
            length += sum(
                2 * byte_length(call.name) + byte_length(call.arguments) for call in calls_of(message)
            )
    length += tools.json_bytes + _TOOLS if tools.json else 0
    length += schema.json_bytes + _SCHEMA if schema.json else 0
    return length + family.hidden + slack


def _slack(family: Family, messages: Sequence[Message], model: str) -> int | None:
    slack = 0
    for message in messages:
        slack += _PER_MESSAGE
        if message.name is not UNSET:
            slack += byte_length(message.name)
        if message.content is not None and not isinstance(message.content, str):
            sorted_ = content_of(message)
            if sorted_.others:
                return None
            slack += sum(image_tokens(family, model, image).at_most for image in sorted_.images)
        if message.tool_calls is not UNSET:
            per_call = _PER_CALL + (family.hidden_per_call if isinstance(family, Linear) else 0)
            slack += per_call * len(message.tool_calls)
        if message.role == "assistant":
            slack += returned_bytes(message)
    return slack
