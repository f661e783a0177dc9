"""A stream entry becomes a job: flat fields, or one field `job` with a JSON object of the same names.

Where the contract leaves it open:
- null in the `job` form is an absent field; null or an empty text in the flat form is a given one.
- Unknown flat fields may stand beside `job`; known ones may not.
- `v` is looked at first: a newer job is `unsupported_version`, whatever else this router would say of it.
- An unusable `id` or trace context, even one that is no UTF-8, is left out and never an error.
- An empty `system` is the same as none: the model is told nothing.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Raw

from theo_daemon import fields
from theo_daemon.chat import parse_messages, parse_params
from theo_daemon.job import Delivery, EntryRef, Envelope, Job
from theo_daemon.key import content_bytes
from theo_daemon.salvage import salvage
from theo_daemon.strict_json import NotStrict, loads, quote
from theo_workers.errors import InvalidJob, PayloadTooLarge
from theo_workers.messages import Message

FIELDS: Final = (
    "prompt",
    "messages",
    "model",
    "id",
    "system",
    "workflow",
    "params",
    "reply_to",
    "ttl_ms",
    "deadline_ms",
    "tenant",
    "cache",
    "stream",
    "max_cost",
    "on_unknown",
    "metadata",
    "traceparent",
    "tracestate",
    "v",
)
"""Every field of a job. `job` is the other way to write them all."""

STRUCTURED: Final = frozenset({"messages", "params", "metadata"})  # JSON in the flat form
_LEFT_OUT_WHEN_UNUSABLE = frozenset({"id", "traceparent", "tracestate"})

_NAMES = {name.encode(): name for name in FIELDS}
_KNOWN = frozenset(_NAMES)
_encode = msgspec.json.Encoder().encode


def decode(delivery: Delivery, *, max_job_bytes: int) -> Job:
    """The job in `delivery`. Raises InvalidJob, UnsupportedVersion, PayloadTooLarge, UnknownModel (an empty
    name) or ReplyToNotAllowed (no name at all); whether a name is configured or allowed is looked at later."""
    size = sum(map(len, delivery.fields))
    if size > max_job_bytes:
        raise too_large(size, max_job_bytes)
    given = dict(zip(delivery.fields[::2], delivery.fields[1::2], strict=False))
    if 2 * len(given) != len(delivery.fields):
        raise _given_twice(delivery.fields)
    document = given.get(b"job")
    values = _flat(given) if document is None else _nested(given, document)
    return _job(delivery, values)


def too_large(size: int, max_job_bytes: int) -> PayloadTooLarge:
    """What is said of an entry of `size` bytes."""
    return PayloadTooLarge(f"the entry has {size} bytes, and max_job_bytes is {max_job_bytes}")


def _flat(given: dict[bytes, bytes]) -> dict[str, Any]:
    if (version := given.get(b"v")) is not None:
        fields.check_version(_text("v", version))
    values = {}
    for raw_name, raw in given.items():
        name = _NAMES.get(raw_name)
        if name is None:
            continue
        if name in STRUCTURED:
            values[name] = _json(name, raw)
            if values[name] is None:
                raise InvalidJob(f"{name} must not be null: leave the field out")
        elif (text := _text(name, raw)) is not None:
            values[name] = text
    return values


def _nested(given: dict[bytes, bytes], document: bytes) -> dict[str, Any]:
    if not _KNOWN.isdisjoint(given):
        beside = ", ".join(sorted(_NAMES[name] for name in _KNOWN.intersection(given)))
        raise InvalidJob(f"job and {beside} are both given: put everything into job, or nothing")
    values = _json("job", document)
    if type(values) is not dict:
        raise InvalidJob(f"job must be a JSON object, not {quote(values)}")
    if (version := values.get("v")) is not None:
        fields.check_version(version)
    return values


def _job(delivery: Delivery, values: dict[str, Any]) -> Job:
    get = values.get
    prompt, listed, system = get("prompt"), get("messages"), get("system")
    if prompt is None:
        if listed is None:
            raise InvalidJob("the job has neither prompt nor messages")
        asked = parse_messages(listed)
    elif listed is not None:
        raise InvalidJob("the job has both prompt and messages: give one of them")
    else:
        asked = (Message(role="user", content=fields.prompt(prompt)),)
    preamble = "" if system is None else fields.text("system", system)
    params = {} if (given := get("params")) is None else parse_params(given)
    workflow = (
        fields.DEFAULT_WORKFLOW if (given := get("workflow")) is None else fields.name("workflow", given)
    )
    client_id = fields.usable_id(get("id"))
    envelope = _envelope(delivery.ref, values, client_id)
    return Job(
        envelope=envelope,
        lane=delivery.lane,
        model=None if (given := get("model")) is None else fields.model(given),
        messages=(Message(role="system", content=preamble), *asked) if preamble else asked,
        params=params,
        workflow=workflow,
        cache="use" if (given := get("cache")) is None else fields.cache(given),
        stream=False if (given := get("stream")) is None else fields.stream(given),
        content=content_bytes(
            workflow=workflow,
            tenant=envelope.tenant,
            system=preamble,
            params=params,
            prompt=prompt,
            messages=asked,
        ),
        tenant=envelope.tenant or "",
        client_id=client_id,
        deadline_ms=fields.deadline_ms(delivery.ref, get("ttl_ms"), get("deadline_ms")),
        max_cost_nano=None if (given := get("max_cost")) is None else fields.max_cost_nano(given),
        on_unknown=None if (given := get("on_unknown")) is None else fields.on_unknown(given),
    )


def _envelope(ref: EntryRef, values: dict[str, Any], client_id: str | None) -> Envelope:
    get = values.get
    traceparent, tracestate = get("traceparent"), get("tracestate")
    if traceparent is not None:
        traceparent, tracestate = fields.usable_trace(traceparent, tracestate)
    return Envelope(
        ref=ref,
        id=client_id or ref.entry_id,
        reply_to=None if (given := get("reply_to")) is None else fields.reply_to(given),
        tenant=None if (given := get("tenant")) is None else fields.name("tenant", given),
        traceparent=traceparent,
        tracestate=tracestate if traceparent is not None else None,
        metadata=None if (given := get("metadata")) is None else _metadata(given),
    )


def _metadata(value: Any) -> Raw:
    if type(value) is not dict:
        raise InvalidJob(f"metadata must be a JSON object, not {quote(value)}")
    return Raw(_encode(value))


def _text(name: str, raw: bytes) -> str | None:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        if name in _LEFT_OUT_WHEN_UNUSABLE:
            return None
        raise InvalidJob(f"{name} is not valid UTF-8") from None


def _json(name: str, raw: bytes) -> Any:
    try:
        return loads(raw)
    except NotStrict as error:
        raise InvalidJob(f"{name} {error}") from None


def _given_twice(flat: list[bytes]) -> InvalidJob:
    names = flat[::2]
    if len(flat) % 2:
        return InvalidJob("the entry has a field without a value")
    twice = next(name for number, name in enumerate(names) if name in names[:number])
    return InvalidJob(f"the field {quote(twice)} is given twice")


__all__ = ["FIELDS", "STRUCTURED", "decode", "salvage", "too_large"]
