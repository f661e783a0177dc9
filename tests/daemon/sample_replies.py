"""Envelopes and outcomes of every shape, and a way to read the replies made of them."""

from __future__ import annotations

from msgspec import Raw
from msgspec.structs import replace

from theo_daemon.job import Answer, Answered, EntryRef, Envelope, Failed
from theo_daemon.reply import Word
from theo_workers.messages import Attempt, Outcome, Usage

PLAIN = Envelope(ref=EntryRef("theo:jobs", "1700000000000-0"), id="7")
FULL = replace(
    PLAIN,
    reply_to="theo:reply:x",
    tenant="acme",
    traceparent=f"00-{'a' * 32}-{'b' * 16}-01",
    tracestate="k=v",
    metadata=Raw(b'{"a":"\xc3\xa9"}'),
)
ATTEMPT = Attempt(
    model="fast",
    provider="openai",
    outcome=Outcome.OK,
    status_code=200,
    latency_ms=12.5,
    cost=0.25,
    error_code=None,
)
ANSWER = Answer(
    model="fast",
    provider="openai",
    output="hello",
    finish_reason="stop",
    usage=Usage(prompt_tokens=12, completion_tokens=3, cached_tokens=4),
    latency_ms=12.3456,
)
ANSWERED = Answered(answer=ANSWER, cost_nano=250_000_000, attempts=(ATTEMPT,))
CALLED = replace(
    ANSWERED,
    answer=replace(
        ANSWER, output="", finish_reason="tool_calls", tool_calls=Raw(b'[{"id":"c","type":"function"}]')
    ),
)
FAILED = Failed(code="invalid_job", message="the job has neither prompt nor messages", retryable=False)
LIMITED = Failed(
    code="rate_limited",
    message="HTTP 429: slow down (retryable: True, provider: openai)",
    retryable=True,
    provider="openai",
    status_code=429,
    retry_after_ms=1500,
    cost_nano=42_000,
    attempts=(ATTEMPT,),
)


def fields(words: list[Word]) -> dict[str, str]:
    """A reply as a client reads it; a field given twice would be found here."""
    texts = [word.decode() if isinstance(word, bytes) else word for word in words]
    assert len(texts) % 2 == 0
    assert len(set(texts[::2])) == len(texts) // 2
    return dict(zip(texts[::2], texts[1::2], strict=True))
