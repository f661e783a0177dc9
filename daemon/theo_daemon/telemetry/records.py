"""What the dispatcher tells about an attempt and a job once they are over."""

from __future__ import annotations

from msgspec import Struct

from theo_daemon.job import Envelope, JobOutcome
from theo_workers.messages import Attempt, FinishReason, Usage


class AttemptRecord(Struct, kw_only=True, gc=False):
    """One finished attempt. Times are seconds of the monotonic clock."""

    attempt: Attempt
    number: int  # 1 for the first
    started_at: float
    finished_at: float
    cost_nano: int = 0  # 1e-9 USD, as settled
    usage: Usage | None = None
    finish_reason: FinishReason | None = None
    first_token_ms: float | None = None  # of a streamed answer
    resent: bool = False  # after an attempt for the same job that may have been billed


class JobRecord(Struct, kw_only=True, gc=False):
    """One finished job. Times are seconds of the monotonic clock."""

    envelope: Envelope
    lane: str
    outcome: JobOutcome
    queued_ms: float  # as in the reply
    received_at: float
    finished_at: float
    attempts: tuple[AttemptRecord, ...] = ()  # this job's own; empty for hits and shared answers
