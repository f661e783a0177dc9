"""Replies as Redis gets them, and outcomes as the ledger keeps them."""

from __future__ import annotations

import msgspec

from theo_daemon.job import Answer, Answered, Envelope, Failed, JobOutcome
from theo_daemon.money import format_usd

Word = str | bytes

_encode = msgspec.json.Encoder().encode
_decode_outcome = msgspec.json.Decoder(JobOutcome).decode


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


def delta_fields(envelope: Envelope, *, attempt: int, seq: int, text: str) -> list[Word]:
    """A piece of the text, before the final reply. `attempt` counts from 1, `seq` from 0 within an attempt."""
    words = _head(envelope, "delta", "0")
    words += "attempt", str(attempt), "seq", str(seq), "delta", _word(text)
    return words


def encode_outcome(outcome: JobOutcome) -> bytes:
    """An outcome as the ledger keeps it, for replays."""
    try:
        return _encode(outcome)
    except UnicodeEncodeError:
        return _encode(_clean(outcome))


def decode_outcome(kept: bytes) -> JobOutcome:
    """What `encode_outcome` made. Raises msgspec.MsgspecError for anything else."""
    outcome: JobOutcome = _decode_outcome(kept)
    return outcome


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
        "output", _word(answer.output),
        "finish_reason", answer.finish_reason,
        "latency_ms", _milliseconds(answer.latency_ms),
        "prompt_tokens", str(usage.prompt_tokens),
        "completion_tokens", str(usage.completion_tokens),
        "usage", _encode(usage),
    )  # fmt: skip
    if answer.tool_calls is not None:
        words += "tool_calls", _encode(answer.tool_calls)


def _add_error(words: list[Word], failed: Failed) -> None:
    words += (
        "error_code", failed.code,
        "error_message", _word(failed.message),
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


def _word(text: str) -> Word:
    return text if text.isascii() else clean_text(text).encode()


def _milliseconds(value: float) -> str:
    """At most three decimals, none that say nothing."""
    return f"{value:.3f}".rstrip("0").rstrip(".")


def _clean(outcome: JobOutcome) -> JobOutcome:
    replace = msgspec.structs.replace
    match outcome:
        case Answered(answer=answer):
            return replace(outcome, answer=replace(answer, output=clean_text(answer.output)))
        case Failed(message=message):
            return replace(outcome, message=clean_text(message))
