"""What makes two jobs the same: the canonical content of a job, and the cache key made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from theo_daemon.strict_json import canonical
from theo_workers.messages import Message

_VERSION = b"theo-key-1"  # raised when the encoding below changes: old cache rows are then simply not found


def content_bytes(
    *,
    workflow: str,
    tenant: str | None,
    system: str,
    params: Mapping[str, Any],
    prompt: str | None,
    messages: Sequence[Message] = (),
) -> bytes:
    """All inputs of the cache key but the model, each with its length in front, so none can spill into the next.

    `params` and `messages` go in as canonical JSON: key order, white space, escapes and the spelling of a number
    make no difference. Absent and empty are the same for `tenant`, `system` and `params`, since the model gets
    the same. A prompt and the one user message with the same text are different, as they are different jobs.
    """
    kind, said = (b"prompt", prompt.encode()) if prompt is not None else (b"messages", canonical(messages))
    knobs = canonical(params) if params else b"{}"
    space, owner, preamble = workflow.encode(), (tenant or "").encode(), system.encode()
    return b"%d:%b,%d:%b,%d:%b,%d:%b,%b,%d:%b" % (
        len(space), space, len(owner), owner, len(preamble), preamble, len(knobs), knobs, kind, len(said), said,
    )  # fmt: skip


def cache_key(route_name: str, content: bytes) -> str:
    """32 hex digits for the model or group asked for and `content_bytes`."""
    route = route_name.encode()
    return sha256(b"%b,%d:%b,%d:%b" % (_VERSION, len(route), route, len(content), content)).hexdigest()[:32]
