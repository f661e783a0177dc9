"""What plain and streamed answers of Anthropic's Messages format share. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct

from theo_workers.messages import Completion, Usage
from theo_workers.texts import Text
from theo_workers.upstreams.answer import completion, count, lenient
from theo_workers.upstreams.origin import Origin


class Block(Struct, omit_defaults=True):
    """One content block. Of kinds that are the provider's own business nothing is kept but the type."""

    type: str | None = None
    text: Any = None
    id: Any = None
    name: Any = None
    input: Any = None
    thinking: Any = None
    signature: Any = None
    data: Any = None


class _OutputDetails(Struct):
    thinking_tokens: Any = None


class UsageTold(Struct):
    """Usage as it comes. `input_tokens` has neither what was read from the cache nor what was written to it."""

    input_tokens: Any = None
    output_tokens: Any = None
    cache_creation_input_tokens: Any = None
    cache_read_input_tokens: Any = None
    output_tokens_details: _OutputDetails | None = None


_usage_decoder = msgspec.json.Decoder(UsageTold)


def completed(
    origin: Origin,
    blocks: Sequence[Block],
    *,
    stop_reason: str | None,
    usage: Usage | None,
    identity: str | None,
    text: Text | None = None,
) -> Completion:
    """The completion made of these blocks; `text` is what a stream has delivered of them.

    Raises ContentFiltered for a refusal.
    """
    if text is None:
        text = "".join(block.text for block in blocks if block.type == "text" and isinstance(block.text, str))
    calls: list[dict[str, Any]] = [
        {"id": block.id, "function": {"name": block.name, "arguments": block.input}}
        for block in blocks
        if block.type == "tool_use"
    ]
    if calls and (thoughts := [block for block in blocks if block.type in ("thinking", "redacted_thinking")]):
        # Anthropic wants them back in front of the calls, unchanged.
        calls[0]["extra_content"] = {"anthropic": {"thinking_blocks": thoughts}}
    return completion(
        origin,
        text=text,
        refused=None,
        finish=stop_reason,
        calls=calls,
        usage=usage,
        identity=identity,
    )


def usage_told(raw: Raw) -> UsageTold:
    """Usage as it came, or nothing where it can't be read."""
    return lenient(_usage_decoder, raw) or UsageTold()


def read_usage(told: UsageTold) -> Usage | None:
    """Tokens as billed, or None when nothing usable was reported."""
    cached, written = count(told.cache_read_input_tokens), count(told.cache_creation_input_tokens)
    prompt, completed_ = count(told.input_tokens) + cached + written, count(told.output_tokens)
    if not prompt and not completed_:
        return None
    thinking = count((told.output_tokens_details or _OutputDetails()).thinking_tokens)
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completed_,
        cached_tokens=cached,
        cache_write_tokens=written,
        reasoning_tokens=min(thinking, completed_),
    )
