"""What can still be read of an entry that is no job, so that whoever sent it hears of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

import msgspec
from msgspec import Raw

from theo_daemon.fields import usable_id, usable_reply_to, usable_tenant, usable_trace
from theo_daemon.job import Delivery, Envelope
from theo_daemon.strict_json import NotStrict, loads

_WANTED = frozenset({"id", "reply_to", "tenant", "traceparent", "tracestate", "metadata"})
_WANTED_RAW = {name.encode(): name for name in _WANTED}
_MAX_TOKENS = 20_000  # of a hostile document; what comes after so many is not worth the time

# The tokens of JSON as far as they matter here, found in broken documents too: texts, with the colon that makes
# one a key, and runs of brackets. What lies between them is skipped, well formed or not. A text that is never
# closed reaches to the end, which keeps the search linear.
_TOKEN = re.compile(rb'("[^"\\]*+(?:\\.[^"\\]*+)*+"?)(\s*+:)?|[\[{]++|[\]}]++', re.DOTALL)
_decode_text = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode


def salvage(delivery: Delivery) -> Envelope:
    """As much of the envelope as is usable on its own; never raises. What is given twice is unusable."""
    flat = delivery.fields
    found: dict[str, Any] = {}
    for name, value in zip(flat[::2], flat[1::2], strict=False):
        known = _WANTED_RAW.get(name)
        if known is not None:
            found[known] = None if known in found else _readable(known, value)
    documents = [value for name, value in zip(flat[::2], flat[1::2], strict=False) if name == b"job"]
    if len(documents) == 1:
        found = _of_document(documents[0]) | found
    traceparent, tracestate = usable_trace(found.get("traceparent"), found.get("tracestate"))
    return Envelope(
        ref=delivery.ref,
        id=usable_id(found.get("id")) or delivery.ref.entry_id,
        reply_to=usable_reply_to(found.get("reply_to")),
        tenant=usable_tenant(found.get("tenant")),
        traceparent=traceparent,
        tracestate=tracestate,
        metadata=found.get("metadata"),
    )


def _readable(name: str, value: bytes) -> str | Raw | None:
    if name == "metadata":
        return _metadata(value)
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _metadata(raw: bytes) -> Raw | None:
    try:
        value = loads(raw)
    except NotStrict:
        return None
    return Raw(_encode(value)) if type(value) is dict else None


def _of_document(raw: bytes) -> dict[str, Any]:
    """The wanted members of the outermost object, however broken it is elsewhere."""
    found: dict[str, Any] = {}
    for key, value in _members(raw):
        name = _json_text(key)
        if name in _WANTED:
            found[name] = None if name in found else _json_value(name, value)
    return found


def _members(raw: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of the outermost object whose value is a text, an object or an array, or the last one."""
    if not raw.lstrip(b" \t\r\n").startswith(b"{"):
        return
    depth, key, begin = 0, None, 0  # `begin` is where the value of `key` begins
    for token in islice(_TOKEN.finditer(raw), _MAX_TOKENS):
        text, colon = token[1], token[2]
        if text is None:
            opens = token[0][0] in b"[{"
            depth += len(token[0]) if opens else -len(token[0])
            if depth <= 1 and not opens and key is not None:
                # The object's own end may be in one run with the end of its last member.
                yield key, raw[begin : token.end() + min(depth, 1) - 1]
                key = None
            if depth <= 0:
                return
        elif depth == 1 and colon is not None:
            key, begin = text, token.end()
        elif depth == 1 and key is not None:
            yield key, raw[begin : token.end()]
            key = None


def _json_value(name: str, raw: bytes) -> str | Raw | None:
    return _metadata(raw) if name == "metadata" else _json_text(raw)


def _json_text(raw: bytes) -> str | None:
    try:
        return _decode_text(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
