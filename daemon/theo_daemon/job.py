"""A job as the router works on it, and the ways it can end."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from msgspec import Raw, Struct

from theo_workers.messages import Attempt, FinishReason, Message, Usage
from theo_workers.texts import Text

CacheMode = Literal["use", "refresh", "off"]
OnUnknown = Literal["retry", "fail"]
Word = str | bytes | memoryview  # a name or a value in a reply


class EntryRef(NamedTuple):
    """A job's own identity: the stream it was pushed to and its entry id (`<ms>-<seq>`)."""

    stream: str
    entry_id: str

    @property
    def pushed_ms(self) -> int:
        """Unix milliseconds by the clock of Redis, as the entry id carries them."""
        return int(self.entry_id.partition("-")[0])


class Delivery(NamedTuple):
    """One entry as Redis gave it: `fields` is the flat name, value, name, value... list of bytes."""

    ref: EntryRef
    lane: str
    fields: list[bytes]
    redelivered: bool = False  # another owner, or an earlier boot, held it before


class Envelope(Struct, frozen=True, kw_only=True):
    """What a reply needs of its job; readable even where the job itself is not."""

    ref: EntryRef
    id: str  # the client's id, or the entry id
    reply_to: str | None = None  # None: the default reply stream
    tenant: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    metadata: Raw | None = None  # JSON object, echoed in the final reply


class Job(Struct, frozen=True, kw_only=True):
    """A readable job. Optional fields are None when the client left them out."""

    envelope: Envelope
    lane: str
    model: str | None
    messages: tuple[Message, ...]  # `system` and `prompt` already turned into messages
    params: dict[str, Any]
    workflow: str
    cache: CacheMode
    stream: bool
    content: bytes  # canonical bytes of all cache-key inputs but the model: hashed with it by `key.cache_key`
    tenant: str = ""  # the partition for ids, cache, budgets and fairness; "" when the job names none
    client_id: str | None = None  # the idempotency key, when the client gave a usable one
    deadline_ms: int | None = None  # absolute, Unix ms by the clock of Redis; ttl_ms is folded in
    max_cost_nano: int | None = None  # 1e-9 USD
    on_unknown: OnUnknown | None = None

    @property
    def ref(self) -> EntryRef:
        return self.envelope.ref


class Answer(Struct, frozen=True, kw_only=True):
    """A model's answer as it is cached, shared and put into replies."""

    model: str  # the configured name of the model that answered
    provider: str
    output: Text
    finish_reason: FinishReason
    usage: Usage
    latency_ms: float
    # JSON array in OpenAI's form: Raw from the model, a list from the ledger, as msgspec decodes no `Raw | None`
    tool_calls: list[dict[str, Any]] | Raw | None = None


class Answered(Struct, frozen=True, kw_only=True, tag="ok"):
    """The job ended with an answer. `cost_nano` is this job's own: 0 for hits and coalesced answers."""

    answer: Answer
    cost_nano: int = 0
    cache_hit: bool = False
    coalesced: bool = False
    attempts: tuple[Attempt, ...] = ()
    remembered: bool = False  # a repeated id: somebody else's run


class Failed(Struct, frozen=True, kw_only=True, tag="error"):
    """The job ended with an error of the contract."""

    code: str
    message: str
    retryable: bool
    provider: str | None = None
    status_code: int | None = None
    retry_after_ms: int | None = None
    cost_nano: int = 0
    attempts: tuple[Attempt, ...] = ()


JobOutcome = Answered | Failed
