"""What plain and streamed answers of OpenAI's Responses format share. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct

from theo_workers.messages import Completion, Usage
from theo_workers.texts import Text
from theo_workers.upstreams.answer import completion, count, lenient
from theo_workers.upstreams.bill import Charged, billed
from theo_workers.upstreams.complaint import complaint_of
from theo_workers.upstreams.origin import Origin, request_id
from theo_workers.upstreams.refusals import refusal_in_answer
from theo_workers.upstreams.responses_reasoning import item_kept, keep


class Item(Struct):
    """One item of an answer's output. Everything but messages, calls and reasoning is the provider's own business."""

    type: str | None = None
    id: Any = None
    content: Any = None
    call_id: str | None = None
    name: Any = None
    arguments: Any = None
    input: Any = None
    summary: Any = None
    encrypted_content: Any = None


class _Incomplete(Struct):
    reason: str | None = None


class _InputDetails(Struct):
    cached_tokens: Any = None
    cache_write_tokens: Any = None


class _OutputDetails(Struct):
    reasoning_tokens: Any = None


class _Usage(Charged):
    input_tokens: Any = None
    output_tokens: Any = None
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None


class ResponseObject(Struct):
    """A response, as a plain body is one and as a stream's last event holds one."""

    id: Any = None
    status: str | None = None
    output: list[Item] | None = None
    error: Any = None
    incomplete_details: _Incomplete | None = None
    usage: Raw = Raw()


_UNFINISHED = frozenset({"queued", "in_progress", "failed", None})

_usage_decoder = msgspec.json.Decoder(_Usage)


def completed(
    origin: Origin,
    told: ResponseObject,
    output: list[Item] | None,
    *,
    identity: str | None,
    mark: str | None = None,
    text: Text | None = None,
) -> Completion:
    """The completion of a response with these items; `text` is what a stream has delivered of it already.

    `mark` is whose the reasoning is that is kept with the calls; without one, none is.
    """
    if identity is None and isinstance(told.id, str):
        identity = request_id(told.id)
    usage = read_usage(told.usage)
    if told.error:
        error = refusal_in_answer(
            origin, complaint_of(told.error), begun=bool(output or usage), provider_request_id=identity
        )
        error.usage = usage
        raise error
    finish = told.status
    if finish == "incomplete" and told.incomplete_details is not None:
        finish = told.incomplete_details.reason
    if finish in _UNFINISHED or (output is None and text is None):
        raise origin.garbage(
            f"the response is {finish or 'of no known status'}, without an answer or a reason",
            provider_request_id=identity,
            usage=usage,
        )
    said, refusals = spoken(output or ())
    return completion(
        origin,
        text=said if text is None else text,
        refused=refusals or None,
        finish=finish,
        calls=_calls(output or (), mark),
        usage=usage,
        identity=identity,
    )


def read_usage(raw: Raw) -> Usage | None:
    """Tokens as billed, or None when nothing usable was reported."""
    told = lenient(_usage_decoder, raw)
    if told is None:
        return None
    prompt, completed_ = count(told.input_tokens), count(told.output_tokens)
    if not prompt and not completed_:
        return None
    inputs = told.input_tokens_details or _InputDetails()
    outputs = told.output_tokens_details or _OutputDetails()
    usage = Usage(
        prompt_tokens=prompt,
        completion_tokens=completed_,
        cached_tokens=min(count(inputs.cached_tokens), prompt),
        cache_write_tokens=min(count(inputs.cache_write_tokens), prompt),
        reasoning_tokens=min(count(outputs.reasoning_tokens), completed_),
    )
    return billed(usage, told)


def spoken(output: Sequence[Item]) -> tuple[str, str]:
    """The text of all messages, and what the model said instead of an answer."""
    parts = [
        part
        for item in output
        if item.type == "message" and isinstance(item.content, list)
        for part in item.content
        if isinstance(part, dict)
    ]
    return _joined(parts, "output_text", "text"), _joined(parts, "refusal", "refusal")


def _joined(parts: Sequence[dict[str, Any]], kind: str, field: str) -> str:
    texts = [part.get(field) for part in parts if part.get("type") == kind]
    return "".join(text for text in texts if isinstance(text, str))


def _calls(output: Sequence[Item], mark: str | None) -> list[dict[str, Any]]:
    """The calls, each with the reasoning that came before it."""
    calls: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
    before: list[dict[str, Any]] = []
    for item in output:
        if (call := _call(item)) is not None:
            calls.append((call, before))
            before = []
        elif item.type == "reasoning" and (kept := item_kept(item.id, item.summary, item.encrypted_content)):
            before.append(kept)
    keep(calls, mark)
    return [call for call, _ in calls]


def _call(item: Item) -> dict[str, Any] | None:
    """A call of one of the job's own tools, in the chat form; None for items of other kinds."""
    identity = item.call_id or item.id
    if item.type == "function_call":
        return {"id": identity, "function": {"name": item.name, "arguments": item.arguments}}
    if item.type == "custom_tool_call":
        return {"id": identity, "type": "custom", "custom": {"name": item.name, "input": item.input}}
    return None
