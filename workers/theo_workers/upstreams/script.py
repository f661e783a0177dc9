"""The script of provider `scripted`: what each of its calls will be like."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from theo_workers.failures import FailureClass
from theo_workers.messages import FinishReason

ScriptEnd = Literal["repeat_last", "cycle"]
"""What follows the last fate: the last one again and again, or the script from its start."""

FateError = Literal[
    "invalid_request",
    "context_length_exceeded",
    "content_filtered",
    "authentication_failed",
    "provider_quota_exhausted",
    "rate_limited",
    "provider_unavailable",
    "provider_timeout",
]


class Fate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One call's fate: wait, then answer with `text` or fail with `error`, or `hang` until the deadline.

    With `text` and `error` both, a streamed call delivers the text and then breaks.
    """

    text: str | None = None  # None and no chunks: the last user message is echoed
    latency_ms: float = 0.0
    jitter_ms: float = 0.0  # up to this much more, at random
    chunks: tuple[str, ...] = ()  # how a streamed text is cut, in place of words; the text if there is none
    chunk_interval_ms: float = 0.0
    prompt_tokens: int | None = None  # None: counted in words
    completion_tokens: int | None = None
    finish_reason: FinishReason = "stop"
    error: FateError | None = None
    failure: FailureClass | None = None  # None: the error's usual one
    status_code: int | None = None
    message: str | None = None
    retry_after_s: float | None = None
    hang: bool = False
