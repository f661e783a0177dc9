"""A conversation as one host of the chat format gets it back: with what was its own, in its own words. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Raw
from msgspec.structs import replace

from theo_workers.messages import Message
from theo_workers.upstreams.chat_dialects import Dialect

_SHORT_ID = re.compile(r"[A-Za-z0-9]{9}")


def said(messages: Sequence[Message], dialect: Dialect) -> Sequence[Any]:
    """The messages as they are sent."""
    for message in messages:
        if (
            message.tool_calls is not UNSET
            or message.tool_call_id is not UNSET
            or message.role == "developer"
        ):
            return [_said(one, dialect) for one in messages]
    return messages


def keeping(
    dialect: Dialect, calls: list[dict[str, Any]] | None, reasoning: Any
) -> list[dict[str, Any]] | None:
    """The calls of an answer, the first one with the reasoning that must come back with them."""
    if not calls or dialect.reasoning is None or not isinstance(reasoning, str | Raw) or not reasoning:
        return calls
    kept = {dialect.reasoning: {"reasoning_content": reasoning}}
    return [{**calls[0], "extra_content": kept}, *calls[1:]]


def _said(message: Message, dialect: Dialect) -> Any:
    if message.role == "developer" and not dialect.developer:
        return replace(message, role="system")
    if message.tool_call_id is not UNSET and dialect.short_ids:
        return replace(message, tool_call_id=_short(message.tool_call_id))
    if message.tool_calls is UNSET:
        return message
    returned = replace(message, tool_calls=[_returned(call, dialect) for call in message.tool_calls])
    if dialect.reasoning is not None and (thought := _thought(message.tool_calls, dialect.reasoning)):
        return {**msgspec.to_builtins(returned), "content": message.content, "reasoning_content": thought}
    return returned


def _returned(call: dict[str, Any], dialect: Dialect) -> dict[str, Any]:
    """The call with what this provider gave us with it, and nothing that another one did."""
    extra, identity = call.get("extra_content"), call.get("id")
    if dialect.short_ids and isinstance(identity, str):
        call = {**call, "id": _short(identity)}
    if extra is None:
        return call
    kept = {name: extra[name] for name in dialect.returns if isinstance(extra, dict) and name in extra}
    return {
        **{k: v for k, v in call.items() if k != "extra_content"},
        **({"extra_content": kept} if kept else {}),
    }


def _thought(calls: Sequence[dict[str, Any]], vendor: str) -> str | None:
    match calls:
        case [{"extra_content": {**extra}}, *_]:
            match extra.get(vendor):
                case {"reasoning_content": str(thought)}:
                    return thought
    return None


def _short(identity: str) -> str:
    """The id, or a short one that is always the same for it."""
    if _SHORT_ID.fullmatch(identity):
        return identity
    return hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:9]
