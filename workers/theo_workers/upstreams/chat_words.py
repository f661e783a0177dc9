"""What plain and streamed chat answers share: the text of their content, and their usage."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from theo_workers.messages import Usage
from theo_workers.upstreams.answer import count, lenient
from theo_workers.upstreams.bill import Charged, billed


class _PromptDetails(Struct):
    cached_tokens: Any = None
    cache_write_tokens: Any = None


class _CompletionDetails(Struct):
    reasoning_tokens: Any = None


class _Usage(Charged):
    prompt_tokens: Any = None
    completion_tokens: Any = None
    total_tokens: Any = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None
    prompt_cache_hit_tokens: Any = None  # DeepSeek
    num_cached_tokens: Any = None  # Mistral


_usage_decoder = msgspec.json.Decoder(_Usage)


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
    told = lenient(_usage_decoder, raw)
    if told is None:
        return None
    prompt, completed = count(told.prompt_tokens), count(told.completion_tokens)
    if not prompt and not completed:
        return None
    inputs = told.prompt_tokens_details or _PromptDetails()
    reasoning = count((told.completion_tokens_details or _CompletionDetails()).reasoning_tokens)
    if reasoning and count(told.total_tokens) == prompt + completed + reasoning:
        completed += reasoning
    cached = inputs.cached_tokens or told.prompt_cache_hit_tokens or told.num_cached_tokens
    usage = Usage(
        prompt_tokens=prompt,
        completion_tokens=completed,
        cached_tokens=min(count(cached), prompt),
        cache_write_tokens=min(count(inputs.cache_write_tokens), prompt),
        reasoning_tokens=min(reasoning, completed),
    )
    return billed(usage, told)
