"""Calls that were sent and of which nobody knows whether they were billed, as the books tell them."""

from __future__ import annotations

from msgspec import Struct

# In the place of an attempt's error code, for the books alone:
LATE_ANSWER = "late_answer"  # its process had been taken for dead, and it answered after all
BESIDE = "beside_rehearsal"  # its process died of another job, which it was rehearsing
NOT_ERRORS = frozenset((LATE_ANSWER, BESIDE))


class CallSince(Struct, frozen=True):
    """Another call for the same job, sent at the same time or later (Unix ms). `outcome` may be `sent`: under way."""

    attempt_id: int
    model: str
    outcome: str
    sent_at_ms: int


class UnknownCall(Struct, frozen=True, kw_only=True):
    """One call. Times are Unix ms, money is USD.

    `outcome` is `unknown` (its process died) or `maybe` (reset, time-out, garbage). `bound` is the most that it can
    have cost; `charged` is that, too, unless its true cost came to be known. `id` and `tenant` are the job's, as far
    as they are remembered.
    """

    attempt_id: int
    stream: str
    entry_id: str
    tenant: str | None
    id: str | None
    model: str
    provider: str
    outcome: str
    provider_request_id: str | None
    status_code: int | None
    error_code: str | None
    sent_at_ms: int
    noticed_at_ms: int | None
    bound: float
    charged: float
    answered_late: bool
    calls_since: tuple[CallSince, ...]

    @property
    def followed(self) -> str:
        """What came after it, in words."""
        parts = ["answered late, its true cost is booked"] if self.answered_late else []
        if self.calls_since:
            last = self.calls_since[-1]
            times = "" if len(self.calls_since) == 1 else f" {len(self.calls_since)} times"
            parts.append(f"sent again{times}: {last.model} {last.outcome}")
        return "; ".join(parts) or "not sent again"
