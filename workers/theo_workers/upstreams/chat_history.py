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
from theo_workers.upstreams.params import can_be_kept, check_returned

_SHORT_ID = re.compile(r"[A-Za-z0-9]{9}")


def said(messages: Sequence[Message], dialect: Dialect) -> Sequence[Any]:
    """The messages as they are sent. Raises UntranslatableError."""
    for message in messages:
        if (
            message.tool_calls is not UNSET
            or message.tool_call_id is not UNSET
            or message.role == "developer"
            or message.reasoning_content is not UNSET
            or message.reasoning_details is not UNSET
        ):
            return [_said(one, dialect) for one in messages]
    return messages


def keeping(
    dialect: Dialect, calls: list[dict[str, Any]] | None, reasoning: Any
) -> list[dict[str, Any]] | None:
    """The calls of an answer, the first one with the reasoning that must come back with them."""
    if not calls or dialect.reasoning is None or not _is_reasoning(reasoning, dialect):
        return calls
    if isinstance(reasoning, list) and not can_be_kept(reasoning):
        return calls
    kept = {dialect.reasoning: {dialect.reasoning_field: reasoning}}
    return [{**calls[0], "extra_content": kept}, *calls[1:]]


def _said(message: Message, dialect: Dialect) -> Any:
    if message.role == "developer" and not dialect.developer:
        return replace(message, role="system")
    if message.tool_call_id is not UNSET and dialect.short_ids:
        return replace(message, tool_call_id=_short(message.tool_call_id))
    calls = message.tool_calls
    if calls is UNSET and message.reasoning_content is UNSET and message.reasoning_details is UNSET:
        return message
    returned = replace(
        message,
        tool_calls=UNSET if calls is UNSET else [_returned(call, dialect) for call in calls],
        reasoning_content=UNSET,
        reasoning_details=UNSET,
    )
    if dialect.reasoning is not None and (thought := _thought(message, dialect)):
        if isinstance(thought, list):
            check_returned(thought, dialect.reasoning_field)
        told = {"content": message.content, dialect.reasoning_field: thought}
        return {**msgspec.to_builtins(returned), **told}
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


def _thought(message: Message, dialect: Dialect) -> Any:
    """What goes back with the message: what came with its first call, else what the message itself says."""
    match message.tool_calls:
        case [{"extra_content": {**extra}}, *_]:
            given = extra.get(dialect.reasoning)
            thought = given.get(dialect.reasoning_field) if isinstance(given, dict) else None
            if _is_reasoning(thought, dialect):
                return thought
    if dialect.reasoning_field == "reasoning_content" and message.tool_calls is UNSET:
        return None  # DeepSeek wants it with calls, and refused it elsewhere
    own = getattr(message, dialect.reasoning_field)
    return own if _is_reasoning(own, dialect) else None


def _is_reasoning(told: Any, dialect: Dialect) -> bool:
    """Is it what the dialect's field can hold, and something at all?"""
    if dialect.reasoning_field == "reasoning_content":
        return isinstance(told, str | Raw) and bool(told)
    return isinstance(told, list) and bool(told) and all(isinstance(detail, dict) for detail in told)


def _short(identity: str) -> str:
    """The id, or a short one that is always the same for it."""
    if _SHORT_ID.fullmatch(identity):
        return identity
    return hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:9]
