"""The reasoning of OpenAI's Responses format, sealed by the provider, which goes back with the calls it led to. Pure.

Only who sealed it can read it: it carries a mark of its host and model, and no others get it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import UNSET
from msgspec.structs import replace

from theo_workers.errors import UpstreamError
from theo_workers.messages import Message, Request
from theo_workers.upstreams.chat_dialects import OPENAI, dialect_of
from theo_workers.upstreams.params import can_be_kept, check_returned

SEALED = "reasoning.encrypted_content"
"""What `include` must say for the reasoning to come in a form that can go back, where nothing is stored."""

_VENDOR = "openai"
_THINKS = re.compile(r"(?:ft:)?(?:o[1-9]|gpt-(?:[5-9]|\d\d)(?!-chat)|codex|computer-use)")
# What OpenAI says of items that it cannot read, are another organization's, or stand in a place that it did not expect.
_NOT_THEIRS = re.compile(r"encrypted.content|type 'reasoning'|reasoning input item|\brs_", re.IGNORECASE)


def mark_of(host: str, model: str) -> str | None:
    """Whose reasoning it is, in a form that tells clients nothing of the configuration; None: nobody's."""
    return hashlib.sha256(f"{host.lower()}/{model}".encode()).hexdigest()[:16] if host else None


def is_asked_of(host: str, model: str) -> bool:
    """OpenAI's own models that think; others may not know the word."""
    return dialect_of(host) is OPENAI and _THINKS.match(model) is not None


def asking(body: dict[str, Any]) -> None:
    """Asks for sealed reasoning, where there can be calls, nothing is stored, and the job has not asked itself."""
    include = body.get("include", [])
    if body.get("tools") and body["store"] is False and isinstance(include, list) and SEALED not in include:
        body["include"] = [*include, SEALED]


def item_kept(identity: Any, summary: Any, sealed: Any) -> dict[str, Any] | None:
    """A reasoning item as it goes back; None without its sealed content, as that alone stands for what is not stored.

    A `status`, which answers have, is refused in requests.
    """
    if not isinstance(sealed, str) or not sealed:
        return None
    told = {"type": "reasoning", "summary": summary if isinstance(summary, list) else []}
    return {**told, **({"id": identity} if isinstance(identity, str) else {}), "encrypted_content": sealed}


def keep(calls: Sequence[tuple[dict[str, Any], list[dict[str, Any]]]], mark: str | None) -> None:
    """Gives each call the items that came before it. What is too large as a whole, none gets."""
    thought = [items for _, items in calls if items]
    if mark is None or not thought or not can_be_kept(thought):
        return
    for call, items in calls:
        if items:
            call["extra_content"] = {_VENDOR: {"of": mark, "reasoning_items": items}}


def returned(extras: Sequence[Mapping[str, Any]], mark: str | None) -> list[list[dict[str, Any]]]:
    """For each call of a message, what goes back in front of it. Raises UntranslatableError for too much."""
    items = [items_of(extra, mark) for extra in extras]
    if thought := [some for some in items if some]:
        check_returned(thought, "reasoning_items")
    return items


def items_of(extra: Mapping[str, Any], mark: str | None) -> list[dict[str, Any]]:
    """The items of a call, if they are its provider's."""
    match extra.get(_VENDOR):
        case {"of": str(of), "reasoning_items": [*items]} if of == mark:
            return [item for item in items if isinstance(item, dict) and item.get("type") == "reasoning"]
        case _:
            return []


def forgetting(request: Request, error: UpstreamError, mark: str | None) -> Request | None:
    """The request without its reasoning, where it has any and was refused for that; else None.

    As of a key of another organization, a model that does not reason any more, or items that a client changed.
    """
    if error.provider_code != "invalid_encrypted_content" and not _NOT_THEIRS.search(error.detail[:500]):
        return None
    bare = [_without(message, mark) for message in request.messages]
    if all(now is before for now, before in zip(bare, request.messages, strict=True)):
        return None
    return replace(request, messages=tuple(bare))


def _without(message: Message, mark: str | None) -> Message:
    if message.tool_calls is UNSET:
        return message
    calls = message.tool_calls
    extras = [call.get("extra_content") for call in calls]
    if not any(isinstance(extra, dict) and items_of(extra, mark) for extra in extras):
        return message
    bare = [{name: value for name, value in call.items() if name != "extra_content"} for call in calls]
    return replace(message, tool_calls=bare)
