"""Records as the dispatcher would build them, with sane defaults."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog

from theo_daemon.job import Answer, Answered, EntryRef, Envelope, Failed, JobOutcome
from theo_daemon.telemetry.metrics import ModelName
from theo_daemon.telemetry.records import AttemptRecord, JobRecord
from theo_workers.messages import Attempt, Outcome, Usage

FAST = ModelName("fast", "openai", "gpt-4o-mini")
CLAUDE = ModelName("claude", "anthropic", "claude-x")
USAGE = Usage(prompt_tokens=12, completion_tokens=34, cached_tokens=5, reasoning_tokens=7)
REF = EntryRef("theo:jobs", "1700000000000-0")


def attempt_record(
    model: str = "fast",
    outcome: Outcome = Outcome.OK,
    *,
    number: int = 1,
    started_at: float = 1_000.5,
    finished_at: float = 1_000.75,
    error_code: str | None = None,
    status_code: int | None = 200,
    cost_nano: int = 42_000,
    usage: Usage | None = USAGE,
    first_token_ms: float | None = None,
    resent: bool = False,
) -> AttemptRecord:
    attempt = Attempt(
        model=model,
        provider="openai",
        outcome=outcome,
        status_code=status_code,
        latency_ms=(finished_at - started_at) * 1e3,
        cost=cost_nano / 1e9,
        error_code=error_code,
    )
    return AttemptRecord(
        attempt=attempt,
        number=number,
        started_at=started_at,
        finished_at=finished_at,
        cost_nano=cost_nano,
        usage=usage,
        first_token_ms=first_token_ms,
        finish_reason="stop" if outcome is Outcome.OK else None,
        resent=resent,
    )


def answered(**changes: Any) -> Answered:
    answer = Answer(
        model="fast",
        provider="openai",
        output="the output",
        finish_reason="stop",
        usage=USAGE,
        latency_ms=250.0,
    )
    return Answered(answer=answer, **{"cost_nano": 42_000, **changes})


def failed(code: str = "provider_unavailable", message: str = "HTTP 500: boom") -> Failed:
    return Failed(code=code, message=message, retryable=True, provider="openai", status_code=500)


def job_record(
    outcome: JobOutcome | None = None,
    *attempts: AttemptRecord,
    job_id: str = "job-1",
    tenant: str | None = "acme",
    traceparent: str | None = None,
    tracestate: str | None = None,
) -> JobRecord:
    return JobRecord(
        envelope=Envelope(ref=REF, id=job_id, tenant=tenant, traceparent=traceparent, tracestate=tracestate),
        lane="default",
        outcome=outcome or answered(),
        queued_ms=3.0,
        received_at=1_000.0,
        finished_at=1_001.0,
        attempts=attempts,
    )


@contextmanager
def restored_logging() -> Iterator[None]:
    """Undoes `capture_everything` at the end."""
    root, hooks = logging.getLogger(), (sys.excepthook, threading.excepthook)
    handlers, level, raising = root.handlers[:], root.level, logging.raiseExceptions
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.handlers[:], logging.raiseExceptions = handlers, raising
        root.setLevel(level)
        sys.excepthook, threading.excepthook = hooks
        structlog.reset_defaults()
