"""The demo's jobs, and what must come of each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from theo_daemon.keys import DEFAULT_LANE

TWINS = "three at once"
OK = "ok"


class DemoJob(Struct, frozen=True, kw_only=True):
    """`expects` is `ok` or an error code. The second wave is pushed when the first has its replies."""

    kind: str
    fields: Mapping[str, str]
    expects: str = OK
    lane: str = DEFAULT_LANE
    as_redis_cli: bool = False  # over a socket of its own, in the bytes that redis-cli would send
    wave: int = 1


def demo_jobs() -> list[DemoJob]:
    """Every kind of job once. The models are those of `settings.demo_config`."""
    # One sentence each. An answer that is cut off at max_tokens would not be kept for the next who asks.
    short = json.dumps({"max_tokens": 100, "temperature": 0, "stop": [".", "\n"]})
    question = "Write one sentence about the sea."
    chat = [
        {"role": "system", "content": "You answer in one short sentence."},
        {"role": "user", "content": "What is a circuit breaker?"},
    ]
    return [
        DemoJob(kind="plain", fields={"prompt": "Say hello to the reader.", "params": short}),
        DemoJob(kind="chat messages", fields={"messages": json.dumps(chat), "params": short}),
        *[DemoJob(kind=TWINS, fields={"prompt": question, "params": short})] * 3,
        DemoJob(
            kind="fails over", fields={"prompt": "Why is the sky blue?", "model": "resilient", "params": short}
        ),
        DemoJob(kind="high lane", fields={"prompt": "Hello! How are you?", "params": short}, lane="high"),
        DemoJob(kind="streamed", fields={"prompt": "What is a message queue?", "stream": "1", "params": short}),
        DemoJob(
            kind="as redis-cli", fields={"prompt": "Say hi", "model": "echo"}, as_redis_cli=True
        ),
        DemoJob(
            kind="1.5 s to live",
            fields={"prompt": "Will this end?", "model": "hangs", "ttl_ms": "1500"},
            expects="deadline_exceeded",
        ),
        DemoJob(kind="malformed", fields={"prompt": "hi", "params": "{not JSON"}, expects="invalid_job"),
        DemoJob(kind="unknown model", fields={"prompt": "hi", "model": "gpt-99"}, expects="unknown_model"),
        DemoJob(kind="asked again", fields={"prompt": question, "params": short}, wave=2),
    ]  # fmt: skip


def problem(job: DemoJob, reply: Mapping[str, str]) -> str | None:
    """What is wrong with a final reply to `job`; None: it is as it must be."""
    status = reply.get("error_code", reply["status"])
    if status != job.expects:
        return f"{job.kind}: expected {job.expects}, got {status}: {reply.get('error_message', '')}"
    if job.wave == 2 and reply["cache_hit"] != "1":
        return f"{job.kind}: the answer did not come from the cache"
    outcomes = [attempt["outcome"] for attempt in attempts(reply)]
    if job.fields.get("model") == "resilient" and not (len(outcomes) > 1 and outcomes[0] != OK):
        return f"{job.kind}: no failing attempt came before the answer, but {outcomes}"
    return None


def twins_problem(replies: Sequence[Mapping[str, str]]) -> str | None:
    """Identical jobs at once: one call is paid, the others share its answer or find it in the cache."""
    paid = sum(reply.get("cache_hit") == "0" and reply.get("coalesced") == "0" for reply in replies)
    return None if paid == 1 else f"{TWINS}: {paid} of {len(replies)} were calls of their own, not 1"


def attempts(reply: Mapping[str, str]) -> list[dict[str, Any]]:
    """The calls that were made for this reply."""
    listed: list[dict[str, Any]] = json.loads(reply.get("attempts", "[]"))
    return listed
