"""Pushing a job and reading its reply, as any client of the contract does."""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from msgspec import Struct
from redis.exceptions import ResponseError

from theo_daemon.cli.target import Target
from theo_daemon.reply_patterns import allowed_reply, compile_patterns
from theo_daemon.wire import Wire
from theo_workers.errors import RouterError

BLOCK_MS = 1_000
SILENT_READS = 3
JSON_FIELDS = frozenset({"usage", "attempts", "tool_calls", "metadata"})
NUMBERS: dict[str, type[int | float]] = {
    **dict.fromkeys(
        ("prompt_tokens", "completion_tokens", "queued_ms", "retry_after_ms", "error_status_code"), int
    ),
    "latency_ms": float,
}
FLAGS = frozenset({"final", "cache_hit", "coalesced", "error_retryable"})


class JobFailed(RouterError):
    """The job has no reply yet, or none to be had."""


class Pushed(Struct, frozen=True, kw_only=True):
    """Where a job is, and where its reply will be."""

    entry_id: str
    job_stream: str
    reply_stream: str
    after: str = "0"  # the reply is behind this entry
    own: bool = False  # the reply stream is this job's alone


async def push(
    wire: Wire, target: Target, fields: Mapping[str, str], *, lane: str, own_reply: bool
) -> Pushed:
    """XADD. With `own_reply` the job asks for a reply stream of its own, where the configuration allows one."""
    keys, reply = target.keys, target.config.reply
    stream, reply_stream, after, own = keys.jobs(lane), reply.default, "0", False
    words = [word for pair in fields.items() for word in pair]
    if own_reply:
        chosen = f"{keys.reply_prefix}cli-{secrets.token_hex(8)}"
        own = allowed_reply(compile_patterns(keys.prefix, reply.allowed), chosen)
        if own:
            reply_stream = chosen
            words += ["reply_to", chosen]
        else:
            newest = await wire.ask("XREVRANGE", reply_stream, "+", "-", "COUNT", 1)
            after = newest[0][0].decode() if newest else "0"
    entry_id = await wire.ask("XADD", stream, "*", *words)
    return Pushed(
        entry_id=entry_id.decode(), job_stream=stream, reply_stream=reply_stream, after=after, own=own
    )


async def follow(
    wire: Wire,
    pushed: Pushed,
    *,
    on_delta: Callable[[int, str], None] | None = None,
    on_silence: Callable[[], Awaitable[None]] | None = None,
) -> dict[str, str]:
    """The final reply's fields. Waits for as long as it takes; `on_delta` gets attempt and text.

    `on_silence` is called once, when nothing has come for a few seconds.
    """
    last, silent_reads = pushed.after, 0
    while True:
        found = await wire.ask("XREAD", "COUNT", 500, "BLOCK", BLOCK_MS, "STREAMS", pushed.reply_stream, last)
        silent_reads += not found
        if silent_reads == SILENT_READS and on_silence is not None:
            await on_silence()
            on_silence = None
        for entry_id, flat in found[0][1] if found else ():
            last = entry_id.decode()
            fields = text_fields(flat)
            if (fields.get("entry_id"), fields.get("job_stream")) != (pushed.entry_id, pushed.job_stream):
                continue
            if fields.get("final") == "1":
                if pushed.own:
                    await wire.ask("UNLINK", pushed.reply_stream)
                return fields
            if on_delta is not None:
                on_delta(int(fields["attempt"]), fields["delta"])


async def nobody_reads(wire: Wire, target: Target, pushed: Pushed) -> str | None:
    """What to tell a person when the job waits for a process that is not there; None when one is."""
    group = target.config.ingress.group
    try:
        consumers = await wire.ask("XINFO", "CONSUMERS", pushed.job_stream, group)
    except ResponseError:
        consumers = []
    if consumers:
        return None
    return f"No process reads {pushed.job_stream} as group {group}: is `theo-router serve` running?"


async def why_no_reply(wire: Wire, target: Target, pushed: Pushed) -> str:
    """What to tell a person who waited in vain."""
    nobody = await nobody_reads(wire, target, pushed)
    what = nobody or f"The job goes on; to end it: theo-router cancel {pushed.entry_id}."
    return f"{what} The reply will be on {pushed.reply_stream} (job {pushed.entry_id})."


def document(fields: Mapping[str, str]) -> dict[str, Any]:
    """A reply as one JSON object: what is JSON in its fields is decoded, flags and numbers are what they say."""
    return {name: _value(name, text) for name, text in fields.items()}


def text_fields(flat: list[bytes]) -> dict[str, str]:
    """The flat name, value, name, value... of an entry."""
    texts = [word.decode("utf-8", "replace") for word in flat]
    return dict(zip(texts[::2], texts[1::2], strict=False))


def _value(name: str, text: str) -> Any:
    if name in JSON_FIELDS:
        return json.loads(text)
    if name in FLAGS:
        return text == "1"
    return NUMBERS[name](text) if name in NUMBERS else text
