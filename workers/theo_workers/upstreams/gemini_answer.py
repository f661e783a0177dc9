"""What plain and streamed answers of Gemini's generateContent share. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct

from theo_workers.errors import ContentFiltered
from theo_workers.messages import Completion, Usage
from theo_workers.texts import Text
from theo_workers.upstreams.answer import completion, count, lenient
from theo_workers.upstreams.origin import Origin


class _FunctionCall(Struct):
    id: str | None = None
    name: Any = None
    args: dict[str, Any] | None = None


class Part(Struct, rename="camel"):
    """A part of the answer: text, a call, or something of the provider's own."""

    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    function_call: _FunctionCall | None = None


class Content(Struct):
    """What a candidate says."""

    parts: list[Part] | None = None


class Candidate(Struct, rename="camel"):
    """One answer, or a piece of it."""

    content: Content | None = None
    finish_reason: str | None = None


class PromptFeedback(Struct, rename="camel"):
    """Why the prompt was not answered at all."""

    block_reason: str | None = None
    block_reason_message: str | None = None


class UsageTold(Struct, rename="camel"):
    """Usage as it comes: the four counts add up to the total; cached tokens are a part of the prompt's."""

    prompt_token_count: Any = None
    tool_use_prompt_token_count: Any = None
    candidates_token_count: Any = None
    thoughts_token_count: Any = None
    cached_content_token_count: Any = None


class Chunk(Struct, rename="camel"):
    """A GenerateContentResponse: a whole answer, or one event of a stream."""

    candidates: list[Candidate] | None = None
    prompt_feedback: PromptFeedback | None = None
    usage_metadata: Raw = Raw()
    response_id: Any = None
    error: Any = None


_usage_decoder = msgspec.json.Decoder(UsageTold)


def text_of(parts: Sequence[Part]) -> str:
    """The text of the answer, without the thoughts."""
    return "".join([part.text for part in parts if part.text and not part.thought])


def completed(
    origin: Origin,
    parts: Sequence[Part],
    *,
    text: Text,
    finish: str | None,
    usage: Usage | None,
    identity: str | None,
) -> Completion:
    """The completion made of these parts. Raises ContentFiltered for what was withheld."""
    return completion(
        origin,
        text=text,
        refused=None,
        finish=finish,
        calls=[_call(part) for part in parts if part.function_call is not None],
        usage=usage,
        identity=identity,
    )


def blocked(
    origin: Origin, feedback: PromptFeedback, usage: Usage | None, identity: str | None
) -> ContentFiltered:
    """The error for a prompt that Gemini would not answer."""
    return origin.error(
        ContentFiltered,
        feedback.block_reason_message or f"the prompt was blocked ({feedback.block_reason})",
        provider_code=feedback.block_reason,
        provider_request_id=identity,
        usage=usage,
    )


def usage_told(raw: Raw) -> UsageTold:
    """Usage as it came, or nothing where it can't be read."""
    return lenient(_usage_decoder, raw) or UsageTold()


def read_usage(told: UsageTold) -> Usage | None:
    """Tokens as billed, or None when nothing usable was reported."""
    thoughts = count(told.thoughts_token_count)
    prompt = count(told.prompt_token_count) + count(told.tool_use_prompt_token_count)
    completed_ = count(told.candidates_token_count) + thoughts
    if not prompt and not completed_:
        return None
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completed_,
        cached_tokens=min(count(told.cached_content_token_count), prompt),
        reasoning_tokens=thoughts,
    )


def _call(part: Part) -> dict[str, Any]:
    """A call in the chat form; its signature where Google's own chat endpoint puts it."""
    call = part.function_call or _FunctionCall()
    told: dict[str, Any] = {
        "id": call.id,
        "function": {"name": call.name, "arguments": call.args or {}},
    }
    if part.thought_signature:
        told["extra_content"] = {"google": {"thought_signature": part.thought_signature}}
    return told
