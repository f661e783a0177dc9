"""The contract as machines read it: JSON Schemas and an AsyncAPI 3 document, made of `wire_types`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from theo_daemon import wire_types as wire
from theo_daemon.chat import OWNED_PARAMS
from theo_daemon.fields import VERSION
from theo_workers.messages import Attempt, Usage

_ENTRIES: Mapping[str, tuple[str, type[msgspec.Struct]]] = {
    "job": ("A job in flat fields", wire.JobFields),
    "job_in_one_field": ("A job as one JSON object", wire.JobInOneField),
    "ok": ("The answer", wire.OkReply),
    "error": ("Why there is none", wire.ErrorReply),
    "delta": ("A piece of the answer", wire.DeltaReply),
    "dead_letter": ("A job that could not be read or run", wire.DeadLetterEntry),
    "event": ("Something that happened", wire.EventEntry),
    "cancel": ("Cancel a job", wire.ControlCommand),
}
_INSIDE: tuple[type[msgspec.Struct], ...] = (
    wire.JobDocument,
    wire.Params,
    wire.ChatMessage,
    wire.ToolCall,
    Usage,
    Attempt,
)
_PLACE = "#/components/schemas/"
_REPLIES = ("ok", "error", "delta")
_JOBS = ("job", "job_in_one_field")


def json_schemas(events: Mapping[str, str] | None = None) -> dict[str, Any]:
    """JSON Schemas (2020-12) by name, which refer to each other as `#/components/schemas/NAME`.

    An entry's schema describes its fields as an object of texts. `events` are the documented events and what they
    mean; without them any name is allowed.
    """
    types = [*(entry for _, entry in _ENTRIES.values()), *_INSIDE]
    _, schemas = msgspec.json.schema_components(types, ref_template=f"{_PLACE}{{name}}")
    schemas["Metadata"] = {"title": "Metadata", "description": "Any JSON object.", "type": "object"}
    for job in (schemas["JobFields"], schemas["JobDocument"]):
        job["oneOf"] = [_given("prompt", "string"), _given("messages", "string", "array")]
    schemas["Params"]["propertyNames"] = {"not": {"enum": sorted(OWNED_PARAMS)}}
    if events is not None:
        schemas["EventEntry"]["properties"]["event"] = {
            "oneOf": [{"const": name, "description": meaning} for name, meaning in sorted(events.items())]
        }
    return schemas


def asyncapi(prefix: str = "theo", *, events: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The AsyncAPI 3.0 document of a router whose `redis.prefix` is `prefix`, ready for JSON."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "theo-router",
            "version": f"{VERSION}.0.0",
            "description": "Jobs for language models in, the best available model's answer out, exactly one final "
            "reply per job. A message is an entry of a Redis stream: flat fields, all of them text in UTF-8, "
            "JSON only where contentMediaType says so.",
            "license": {"name": "Apache-2.0"},
        },
        "servers": {
            "redis": {
                "host": "127.0.0.1:6379",
                "protocol": "redis",
                "description": "Example. Redis 7 or Valkey 8 and newer.",
            }
        },
        "channels": _channels(prefix),
        "operations": _operations(),
        "components": {
            "messages": {
                name: {
                    "name": name,
                    "title": title,
                    "contentType": "application/x-redis-stream-entry",
                    "payload": {"$ref": f"{_PLACE}{entry.__name__}"},
                }
                for name, (title, entry) in _ENTRIES.items()
            },
            "schemas": json_schemas(events),
        },
    }


def entry_schemas(events: Mapping[str, str] | None = None) -> dict[str, dict[str, Any]]:
    """One JSON Schema for each kind of entry, by the names of the AsyncAPI document; each stands alone."""
    schemas = json_schemas(events)
    return {
        name: {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$ref": f"{_PLACE}{entry.__name__}",
            "components": {"schemas": _needed(entry.__name__, schemas)},
        }
        for name, (_, entry) in _ENTRIES.items()
    }


def _needed(name: str, schemas: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of this name and those that it refers to."""
    needed: dict[str, Any] = {}
    waiting = [name]
    while waiting:
        one = waiting.pop()
        if one not in needed:
            needed[one] = schemas[one]
            waiting += _references(schemas[one])
    return dict(sorted(needed.items()))


def _references(schema: Any) -> Iterator[str]:
    match schema:
        case {"$ref": str(place)}:
            yield place.removeprefix(_PLACE)
        case dict():
            for value in schema.values():
                yield from _references(value)
        case list():
            for value in schema:
                yield from _references(value)


def _given(name: str, *kinds: str) -> dict[str, Any]:
    return {"required": [name], "properties": {name: {"type": list(kinds)}}}


def _channels(prefix: str) -> dict[str, Any]:
    lane = {
        "lane": {"description": "A lane of ingress.lanes other than default.", "examples": ["high", "low"]}
    }
    client = {"name": {"description": "Anything the client chose: one stream per client, or one per job."}}
    return {
        "jobs": _channel(f"{prefix}:jobs", "Jobs of the lane default.", _JOBS),
        "jobs_lane": _channel(f"{prefix}:jobs:{{lane}}", "Jobs of another lane.", _JOBS, lane),
        "replies": _channel(f"{prefix}:replies", "Replies of jobs without a reply_to.", _REPLIES),
        "reply": _channel(
            f"{prefix}:reply:{{name}}", "Replies of jobs whose reply_to it is.", _REPLIES, client
        ),
        "dead": _channel(f"{prefix}:dead", "Jobs that could not be read or run.", ("dead_letter",)),
        "events": _channel(f"{prefix}:events", "What happens in the router.", ("event",)),
        "control": _channel(f"{prefix}:control", "Commands to all processes.", ("cancel",)),
    }


def _channel(
    address: str, description: str, messages: tuple[str, ...], parameters: dict[str, Any] | None = None
) -> dict[str, Any]:
    channel: dict[str, Any] = {
        "address": address,
        "description": description,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
    }
    return channel if parameters is None else {**channel, "parameters": parameters}


def _operations() -> dict[str, Any]:
    """As AsyncAPI wants it, from the router's side: it receives jobs and sends replies."""
    operations = {}
    for name, channel in (("receive_job", "jobs"), ("receive_job_of_lane", "jobs_lane")):
        operations[name] = {
            "action": "receive",
            "channel": {"$ref": f"#/channels/{channel}"},
            "reply": {
                "channel": {"$ref": "#/channels/reply"},
                "messages": [{"$ref": f"#/channels/reply/messages/{reply}"} for reply in _REPLIES],
            },
        }
    for name, action, channel in (
        ("send_reply", "send", "replies"),
        ("send_dead_letter", "send", "dead"),
        ("send_event", "send", "events"),
        ("receive_command", "receive", "control"),
    ):
        operations[name] = {"action": action, "channel": {"$ref": f"#/channels/{channel}"}}
    return operations
