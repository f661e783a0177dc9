"""What travels through Redis, field by field, as the published schemas describe it.

These types are read by `schema.py` and by tests, never per job: `entry.py` and `reply.py` handle the bytes, and a
test keeps both equal. A field of a stream entry is text; those of the `job` object are JSON.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from theo_daemon.chat import MAX_STOPS, MAX_TOKENS
from theo_daemon.fields import MAX_ID, MAX_NAME, MAX_REPLY_TO
from theo_daemon.job import CacheMode, OnUnknown
from theo_workers.errors import GenerationError
from theo_workers.messages import FinishReason, Role


def _json(name: str, *, many: bool = False) -> Meta:
    """Text that is JSON of the schema `name`."""
    ref = {"$ref": f"#/components/schemas/{name}"}
    inside = {"type": "array", "items": ref} if many else ref
    return Meta(extra_json_schema={"contentMediaType": "application/json", "contentSchema": inside})


def _says(text: str) -> Meta:
    return Meta(description=text)


def _codes(error: type[GenerationError]) -> set[str]:
    return {error.code}.union(*(_codes(leaf) for leaf in error.__subclasses__()))


Name = Annotated[str, Meta(pattern=rf"^[A-Za-z0-9._:-]{{1,{MAX_NAME}}}$")]
Id = Annotated[str, Meta(min_length=1, max_length=MAX_ID)]
ReplyTo = Annotated[str, Meta(min_length=1, max_length=MAX_REPLY_TO)]
EntryId = Annotated[str, Meta(pattern=r"^[0-9]+-[0-9]+$")]
Flag = Literal["0", "1"]
Integer = Annotated[str, Meta(pattern=r"^[0-9]+$")]
Positive = Annotated[str, Meta(pattern=r"^0*[1-9][0-9]*$")]
Decimal = Annotated[str, Meta(pattern=r"^[0-9]+(\.[0-9]+)?$")]
Milliseconds = Annotated[str, Meta(pattern=r"^[0-9]+(\.[0-9]{1,3})?$")]
Amount = Annotated[str, Meta(pattern=r"^\+?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?$")]
ErrorCode = Annotated[str, Meta(extra_json_schema={"enum": sorted(_codes(GenerationError))})]
Object = dict[str, Any]

_PROMPT = _says("What to say to the model; not empty. Exactly one of prompt and messages is given.")
_MESSAGES = _says("Chat messages in OpenAI's form; not empty. Exactly one of prompt and messages is given.")
_MODEL = _says("A configured model or group. Absent: the workflow's, else routing.default.")
_ID = _says("The client's id, printable, and within its tenant the idempotency key. Unusable: as if absent.")
_SYSTEM = _says("System prompt; may be empty.")
_WORKFLOW = _says("Free name; part of the cache key; may have its own default model. Default: default.")
_PARAMS = _says("Generation parameters in OpenAI's chat names.")
_REPLY_TO = _says("Stream for the reply; must match a pattern of reply.allowed.")
_TTL = _says("Milliseconds from the entry id's own; with deadline_ms, the earlier wins.")
_DEADLINE = _says("Unix milliseconds by the clock of Redis.")
_TENANT = _says("Whose job it is: partition of ids, cache, budget and fairness.")
_CACHE = _says("use: read and write (default); refresh: write only; off: neither, and nothing is shared.")
_STREAM = _says("1: deltas come before the final reply.")
_MAX_COST = _says("Ceiling of this one job in US dollars; 0 leaves what costs nothing.")
_ON_UNKNOWN = _says("After a crash that hides whether a call was paid: send again, or fail.")
_METADATA = _says("Anything; comes back in the final reply.")
_TRACEPARENT = _says("W3C trace context; an invalid one is ignored.")
_TRACESTATE = _says("W3C trace state; counts beside a traceparent.")
_V = _says("Version of this contract.")


class ToolCall(Struct, frozen=True, kw_only=True):
    """A tool call in OpenAI's form."""

    id: str
    type: str = "function"
    function: Object | UnsetType = UNSET


class ContentPart(Struct, frozen=True, kw_only=True):
    """A part of a message, told apart by `type`; the other keys are those of OpenAI's form."""

    type: Annotated[str, Meta(min_length=1)]
    text: str | UnsetType = UNSET


class ChatMessage(Struct, frozen=True, kw_only=True):
    """A message in OpenAI's chat form."""

    role: Role
    content: str | Annotated[list[ContentPart], Meta(min_length=1)] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning_details: list[dict[str, Any]] | None = None


Count = Annotated[int, Meta(ge=1, le=MAX_TOKENS)]
Stops = Annotated[list[str], Meta(max_length=MAX_STOPS)]


class Params(Struct, frozen=True, kw_only=True):
    """Known parameters. Others are passed to the provider as they are; null is as if absent."""

    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    top_k: int | None = None
    seed: int | None = None
    top_logprobs: int | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    stop: str | Stops | None = None
    tools: list[Object] | None = None
    tool_choice: str | Object | None = None
    response_format: Object | None = None
    reasoning_effort: str | None = None
    parallel_tool_calls: bool | None = None
    logprobs: bool | None = None
    logit_bias: Object | None = None
    user: str | None = None


class JobFields(Struct, frozen=True, kw_only=True):
    """A job as flat fields of a stream entry. Fields that are not listed are ignored."""

    prompt: Annotated[str, Meta(min_length=1), _PROMPT] | UnsetType = UNSET
    messages: Annotated[str, _json("ChatMessage", many=True), _MESSAGES] | UnsetType = UNSET
    model: Annotated[str, Meta(min_length=1), _MODEL] | UnsetType = UNSET
    id: Annotated[str, _ID] | UnsetType = UNSET
    system: Annotated[str, _SYSTEM] | UnsetType = UNSET
    workflow: Annotated[Name, _WORKFLOW] | UnsetType = UNSET
    params: Annotated[str, _json("Params"), _PARAMS] | UnsetType = UNSET
    reply_to: Annotated[ReplyTo, _REPLY_TO] | UnsetType = UNSET
    ttl_ms: Annotated[Positive, _TTL] | UnsetType = UNSET
    deadline_ms: Annotated[Positive, _DEADLINE] | UnsetType = UNSET
    tenant: Annotated[Name, _TENANT] | UnsetType = UNSET
    cache: Annotated[CacheMode, _CACHE] | UnsetType = UNSET
    stream: Annotated[Flag, _STREAM] | UnsetType = UNSET
    max_cost: Annotated[Amount, _MAX_COST] | UnsetType = UNSET
    on_unknown: Annotated[OnUnknown, _ON_UNKNOWN] | UnsetType = UNSET
    metadata: Annotated[str, _json("Metadata"), _METADATA] | UnsetType = UNSET
    traceparent: Annotated[str, _TRACEPARENT] | UnsetType = UNSET
    tracestate: Annotated[str, _TRACESTATE] | UnsetType = UNSET
    v: Annotated[Literal["1"], _V] | UnsetType = UNSET


PositiveNumber = Annotated[int, Meta(ge=1)] | Positive


class JobDocument(Struct, frozen=True, kw_only=True):
    """A job as one JSON object. Null is as if absent; numbers may be text. Keys not listed are ignored."""

    prompt: Annotated[str, Meta(min_length=1), _PROMPT] | None = None
    messages: Annotated[list[ChatMessage], Meta(min_length=1), _MESSAGES] | None = None
    model: Annotated[str, Meta(min_length=1), _MODEL] | None = None
    id: Annotated[Any, _ID] = None
    system: Annotated[str, _SYSTEM] | None = None
    workflow: Annotated[Name, _WORKFLOW] | None = None
    params: Annotated[Params, _PARAMS] | None = None
    reply_to: Annotated[ReplyTo, _REPLY_TO] | None = None
    ttl_ms: Annotated[PositiveNumber, _TTL] | None = None
    deadline_ms: Annotated[PositiveNumber, _DEADLINE] | None = None
    tenant: Annotated[Name, _TENANT] | None = None
    cache: Annotated[CacheMode, _CACHE] | None = None
    stream: Annotated[Literal[0, 1, "0", "1"] | bool, _STREAM] | None = None
    max_cost: Annotated[Annotated[float, Meta(ge=0)] | Amount, _MAX_COST] | None = None
    on_unknown: Annotated[OnUnknown, _ON_UNKNOWN] | None = None
    metadata: Annotated[Object, _METADATA] | None = None
    traceparent: Annotated[Any, _TRACEPARENT] = None
    tracestate: Annotated[Any, _TRACESTATE] = None
    v: Annotated[Literal[1, "1"], _V] | None = None


class JobInOneField(Struct, frozen=True, kw_only=True):
    """A job as the one field `job`, which holds JSON."""

    job: Annotated[str, _json("JobDocument")]


class _Reply(Struct, frozen=True, kw_only=True):
    v: Annotated[Literal["1"], _V]
    id: Annotated[Id, _says("The client's id, or the entry id.")]
    entry_id: Annotated[EntryId, _says("The job's entry id.")]
    job_stream: Annotated[str, _says("The stream the job was pushed to.")]
    tenant: Annotated[Name, _says("The job's tenant, if it had one.")] | UnsetType = UNSET
    traceparent: Annotated[str, _says("The job's trace context, if it had a valid one.")] | UnsetType = UNSET


class _FinalReply(_Reply, frozen=True, kw_only=True):
    final: Literal["1"]
    cost: Annotated[Decimal, _says("US dollars: the sum over this job's attempts.")]
    metadata: Annotated[str, _json("Metadata"), _METADATA] | UnsetType = UNSET
    reply_error: (
        Annotated[
            Literal["reply_to_not_allowed"],
            _says(
                "This reply belongs to the job's reply_to, which turned out to be no stream after the call."
            ),
        ]
        | UnsetType
    ) = UNSET


class OkReply(_FinalReply, frozen=True, kw_only=True):
    """The final reply of a job that was answered."""

    status: Literal["ok"]
    model: Annotated[str, _says("The configured name of the model that answered.")]
    provider: str
    output: Annotated[str, _says("The whole text.")]
    finish_reason: FinishReason
    latency_ms: Annotated[Milliseconds, _says("Of the provider's call.")]
    queued_ms: Annotated[Integer, _says("From the push to the start of the call.")]
    cache_hit: Annotated[Flag, _says("1: a cached answer.")]
    coalesced: Annotated[Flag, _says("1: shared the answer of an identical job in flight.")]
    prompt_tokens: Annotated[Integer, _says("Cached ones included.")]
    completion_tokens: Annotated[Integer, _says("Reasoning included.")]
    usage: Annotated[str, _json("Usage")]
    attempts: Annotated[str, _json("Attempt", many=True)]
    tool_calls: Annotated[str, _json("ToolCall", many=True)] | UnsetType = UNSET


class ErrorReply(_FinalReply, frozen=True, kw_only=True):
    """The final reply of a job that was not."""

    status: Literal["error"]
    error_code: ErrorCode
    error_message: Annotated[str, _says("For people.")]
    error_retryable: Annotated[Flag, _says("1: another push of the same job may succeed.")]
    error_provider: str | UnsetType = UNSET
    error_status_code: Integer | UnsetType = UNSET
    retry_after_ms: Integer | UnsetType = UNSET
    attempts: Annotated[str, _json("Attempt", many=True)] | UnsetType = UNSET


class DeltaReply(_Reply, frozen=True, kw_only=True):
    """A piece of the text of a job with stream = 1. A higher attempt replaces all of a lower one."""

    status: Literal["delta"]
    final: Literal["0"]
    attempt: Annotated[Positive, _says("Counts from 1.")]
    seq: Annotated[Integer, _says("Counts from 0, without gaps within an attempt.")]
    delta: str


class DeadLetterEntry(Struct, frozen=True, kw_only=True):
    """The job's own fields as they came, and these."""

    dead_reason: Annotated[str, _says("For people.")]
    dead_code: Annotated[ErrorCode, _says("The error code of its reply.")]
    dead_deliveries: Annotated[Integer, _says("How often it was delivered.")]
    dead_entry_id: EntryId
    dead_stream: str
    dead_at_ms: Annotated[Integer, _says("Unix milliseconds.")]


class EventEntry(Struct, frozen=True, kw_only=True):
    """Something that happened; details are further fields."""

    event: str
    at_ms: Annotated[Integer, _says("Unix milliseconds.")]
    model: str | UnsetType = UNSET


class ControlCommand(Struct, frozen=True, kw_only=True):
    """Cancels the jobs of this id that were pushed before the command."""

    cmd: Literal["cancel"]
    id: Annotated[Id, _says("A client's id or an entry id.")]
    tenant: Annotated[Name, _says("Only this tenant's jobs.")] | UnsetType = UNSET
