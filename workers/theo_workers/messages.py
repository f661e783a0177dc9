"""The words workers and daemon share: what is asked of a model, what it answers, what a try was like."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Literal

from msgspec import UNSET, Raw, Struct, UnsetType

from theo_workers.texts import Text

FinishReason = Literal["stop", "length", "tool_calls", "other"]
Role = Literal["system", "developer", "user", "assistant", "tool"]


class Message(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One chat message in OpenAI's form. `content` is text or a list of content parts, kept as they came."""

    role: Role
    content: str | list[dict[str, Any]] | None = None
    name: str | UnsetType = UNSET
    tool_calls: list[dict[str, Any]] | UnsetType = UNSET
    tool_call_id: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET  # an assistant's, for those who want it back with its calls
    reasoning_details: list[dict[str, Any]] | UnsetType = UNSET  # the same in OpenRouter's form


class Request(Struct, frozen=True, kw_only=True):
    """One generation, asked of any model. `params` has OpenAI's chat names; adapters translate them."""

    messages: tuple[Message, ...]
    params: Mapping[str, Any]
    stream: bool = False


class Usage(Struct, frozen=True, kw_only=True):
    """Tokens as billed: `prompt_tokens` includes cached ones, `completion_tokens` includes reasoning."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False  # True when the provider reported nothing and we counted ourselves


class BilledUsage(Usage, frozen=True, kw_only=True):
    """Usage with what the provider itself says that the call cost, in nano-dollars (1e-9 USD)."""

    cost_nano: int

    def plain(self) -> Usage:
        """The tokens alone, as replies show them."""
        return Usage(**{name: getattr(self, name) for name in Usage.__struct_fields__})


class Completion(Struct, frozen=True, kw_only=True):
    """A model's answer. `tool_calls` is JSON in OpenAI's form, or None."""

    output: Text
    finish_reason: FinishReason
    usage: Usage | None  # None: the provider reported none, the caller estimates
    tool_calls: Raw | None = None
    provider_request_id: str | None = None
    held: object = None  # of a large answer: to be kept until nobody needs its output any more
    first_token_ms: float | None = None  # from asking to the first text of a stream; None: there was none


class Outcome(StrEnum):
    """What became of one attempt."""

    OK = "ok"
    FAILED = "failed"  # the provider answered, badly; certainly or probably not billed
    MAYBE = "maybe"  # sent, and nobody knows whether it was billed (reset, time-out, garbage)
    UNKNOWN = "unknown"  # its process died after sending
    CANCELLED = "cancelled"  # by us, while it ran


class Attempt(Struct, frozen=True, kw_only=True, omit_defaults=False):
    """One try at one request by one model, as replies list it. `cost` is USD."""

    model: str
    provider: str
    outcome: Outcome
    status_code: int | None
    latency_ms: float
    cost: float
    error_code: str | None


DeltaSink = Callable[[str], None]
"""Receives each piece of text as it arrives; must not block."""
