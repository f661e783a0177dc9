"""Replies as Redis gets them, and outcomes as the ledger keeps them."""

from __future__ import annotations

from typing import TypeGuard

import msgspec

from theo_daemon.job import Answer, Answered, Envelope, Failed, JobOutcome, Word
from theo_daemon.money import format_usd
from theo_workers.texts import Held, Json, Text, plain, utf8
from theo_workers.upstreams.long_strings import Cuttings

LARGE_BYTES = 262_144

_GAP_BYTE = b"\1"  # in JSON there is none
_GAP = msgspec.Raw(_GAP_BYTE)

_encode = msgspec.json.Encoder().encode
_decode_outcome = msgspec.json.Decoder(JobOutcome).decode
_decode_answer = msgspec.json.Decoder(Answer).decode


def final_fields(envelope: Envelope, outcome: JobOutcome, *, queued_ms: int) -> list[Word]:
    """The final reply as name, value, name, value... Never fails for what a model or a provider said."""
    match outcome:
        case Answered(answer=answer):
            words = _head(envelope, "ok", "1")
            _add_answer(words, answer)
            words += (
                "queued_ms", str(queued_ms),
                "cost", format_usd(outcome.cost_nano),
                "cache_hit", "1" if outcome.cache_hit else "0",
                "coalesced", "1" if outcome.coalesced else "0",
                "attempts", _encode(outcome.attempts),
            )  # fmt: skip
        case Failed():
            words = _head(envelope, "error", "1")
            _add_error(words, outcome)
    if envelope.metadata is not None:
        words += "metadata", bytes(envelope.metadata)
    return words


def delta_fields(envelope: Envelope, *, attempt: int, seq: int, text: Word) -> list[Word]:
    """A piece of the text, before the final reply. `attempt` counts from 1, `seq` from 0 within an attempt."""
    words = _head(envelope, "delta", "0")
    words += "attempt", str(attempt), "seq", str(seq), "delta", word(text) if isinstance(text, str) else text
    return words


def encode_answer(answer: Answer) -> Json:
    """An answer as the ledger keeps it, for other jobs."""
    return _in_pieces(answer, answer) if _is_large(answer) else _encode(answer)


def encode_outcome(outcome: JobOutcome) -> Json:
    """An outcome as the ledger keeps it, for replays."""
    if isinstance(outcome, Answered) and _is_large(outcome.answer):
        return _in_pieces(outcome, outcome.answer)
    try:
        return _encode(outcome)
    except UnicodeEncodeError:
        return _encode(_clean(outcome))


def decode_outcome(kept: bytes) -> JobOutcome:
    """What `encode_outcome` made. Raises msgspec.MsgspecError for anything else."""
    if len(kept) <= LARGE_BYTES:
        small: JobOutcome = _decode_outcome(kept)
        return small
    cuttings = Cuttings(kept)
    outcome: JobOutcome = _decode_outcome(cuttings.rest)
    if isinstance(outcome, Answered):
        return msgspec.structs.replace(outcome, answer=_put_back(outcome.answer, cuttings))
    return outcome


def decode_answer(kept: bytes) -> Answer:
    """The same for `encode_answer`."""
    if len(kept) <= LARGE_BYTES:
        return _decode_answer(kept)
    cuttings = Cuttings(kept)
    return _put_back(_decode_answer(cuttings.rest), cuttings)


def _put_back(answer: Answer, cuttings: Cuttings) -> Answer:
    calls = answer.tool_calls
    return msgspec.structs.replace(
        answer,
        output=cuttings.text(plain(answer.output)),
        tool_calls=None if calls is None else cuttings.json(msgspec.Raw(_encode(calls))),
    )


def clean_text(text: str) -> str:
    """`text` as UTF-8 can carry it: halves of a surrogate pair are joined, a lone half becomes U+FFFD.

    For what a model said, as early as it is known: decoders of Python accept what its encoders refuse.
    """
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _head(envelope: Envelope, status: str, final: str) -> list[Word]:
    ref = envelope.ref
    words: list[Word] = [
        "v", "1", "id", envelope.id, "entry_id", ref.entry_id, "job_stream", ref.stream, "status", status,
        "final", final,
    ]  # fmt: skip
    if envelope.tenant is not None:
        words += "tenant", envelope.tenant
    if envelope.traceparent is not None:
        words += "traceparent", envelope.traceparent
    return words


def _add_answer(words: list[Word], answer: Answer) -> None:
    usage = answer.usage
    words += (
        "model", answer.model,
        "provider", answer.provider,
        "output", word(answer.output),
        "finish_reason", answer.finish_reason,
        "latency_ms", _milliseconds(answer.latency_ms),
        "prompt_tokens", str(usage.prompt_tokens),
        "completion_tokens", str(usage.completion_tokens),
        "usage", _encode(usage),
    )  # fmt: skip
    if answer.tool_calls is not None:
        calls = answer.tool_calls
        words += "tool_calls", memoryview(calls) if _is_long(calls) else _encode(calls)


def _add_error(words: list[Word], failed: Failed) -> None:
    words += (
        "error_code", failed.code,
        "error_message", word(failed.message),
        "error_retryable", "1" if failed.retryable else "0",
        "cost", format_usd(failed.cost_nano),
    )  # fmt: skip
    if failed.provider is not None:
        words += "error_provider", failed.provider
    if failed.status_code is not None:
        words += "error_status_code", str(failed.status_code)
    if failed.retry_after_ms is not None:
        words += "retry_after_ms", str(failed.retry_after_ms)
    if failed.attempts:
        words += "attempts", _encode(failed.attempts)


def word(text: Text) -> Word:
    """A text as a value in Redis."""
    if isinstance(text, str):
        return text if text.isascii() else clean_text(text).encode()
    return utf8(text)


def _milliseconds(value: float) -> str:
    """At most three decimals, none that say nothing."""
    return f"{value:.3f}".rstrip("0").rstrip(".")


def _is_long(value: object) -> TypeGuard[msgspec.Raw]:
    return type(value) is msgspec.Raw and len(value) > LARGE_BYTES


def _is_large(answer: Answer) -> bool:
    return _is_long(answer.output) or _is_long(answer.tool_calls)


def _in_pieces(told: Answer | Answered, answer: Answer) -> Json:
    """`told`, in which `answer` is, without a copy of what is long in it."""
    long = [value for value in (answer.output, answer.tool_calls) if _is_long(value)]
    slim = msgspec.structs.replace(
        answer,
        output=_GAP if _is_long(answer.output) else answer.output,
        tool_calls=_GAP if _is_long(answer.tool_calls) else answer.tool_calls,
    )
    around = _encode(slim if told is answer else msgspec.structs.replace(told, answer=slim)).split(_GAP_BYTE)
    pieces: list[Held] = [around[0]]
    for value, following in zip(long, around[1:], strict=True):
        pieces += memoryview(value), following
    return tuple(pieces)


def _clean(outcome: JobOutcome) -> JobOutcome:
    replace = msgspec.structs.replace
    match outcome:
        case Answered(answer=answer):
            return replace(outcome, answer=replace(answer, output=clean_text(plain(answer.output))))
        case Failed(message=message):
            return replace(outcome, message=clean_text(message))
