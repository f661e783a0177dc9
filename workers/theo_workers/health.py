"""What one model's calls have been like: counts, times, latency, speed."""

from __future__ import annotations

import math
from collections import deque

from msgspec import Struct

RECENT = 256  # calls that quantiles and speed are taken over
SMOOTHING = 0.2  # weight of the newest latency in the moving average


class HealthSnapshot(Struct, frozen=True, kw_only=True):
    """A model's record at one moment. Times are Unix seconds; None where nothing is known yet."""

    total_successes: int = 0
    total_failures: int = 0
    consecutive_failures: int = 0
    last_success_time: float | None = None
    last_failure_time: float | None = None
    latency_ewma_ms: float | None = None
    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None
    tokens_per_s: float | None = None  # completion tokens per second of waiting, over the recent calls


def merged(kept: HealthSnapshot, *, before: HealthSnapshot, now: HealthSnapshot) -> HealthSnapshot:
    """`kept`, the record of many processes, with what one of them saw between `before` and `now` added.

    Counts add up; of the rest its word is the latest.
    """
    return HealthSnapshot(
        total_successes=kept.total_successes + now.total_successes - before.total_successes,
        total_failures=kept.total_failures + now.total_failures - before.total_failures,
        consecutive_failures=now.consecutive_failures,
        last_success_time=_later(kept.last_success_time, now.last_success_time),
        last_failure_time=_later(kept.last_failure_time, now.last_failure_time),
        latency_ewma_ms=now.latency_ewma_ms,
        latency_p50_ms=now.latency_p50_ms,
        latency_p95_ms=now.latency_p95_ms,
        tokens_per_s=now.tokens_per_s,
    )


class ModelHealth:
    """The health record of one model. Recording is cheap; sorting is left to `snapshot`."""

    last_success_time: float | None
    last_failure_time: float | None
    latency_ewma_ms: float | None

    __slots__ = (
        "_recent",
        "_restored",
        "consecutive_failures",
        "last_failure_time",
        "last_success_time",
        "latency_ewma_ms",
        "total_failures",
        "total_successes",
    )

    def __init__(self) -> None:
        self._recent: deque[tuple[float, int]] = deque(maxlen=RECENT)  # latency in ms, completion tokens
        self.restore(HealthSnapshot())

    def record_success(self, now_wall: float, latency_ms: float, completion_tokens: int) -> None:
        """One answered call; `now_wall` is Unix seconds."""
        self.total_successes += 1
        self.consecutive_failures = 0
        self.last_success_time = now_wall
        self._recent.append((latency_ms, completion_tokens))
        average = self.latency_ewma_ms
        self.latency_ewma_ms = latency_ms if average is None else average + SMOOTHING * (latency_ms - average)

    def record_failure(self, now_wall: float) -> None:
        """One call that the model failed; `now_wall` is Unix seconds."""
        self.total_failures += 1
        self.consecutive_failures += 1
        self.last_failure_time = now_wall

    def latency_ms(self, share: float) -> float:
        """What this share of the recent calls took at most; inf before the first."""
        latencies = sorted(latency_ms for latency_ms, _ in self._recent)
        return _nearest_rank(latencies, share) if latencies else math.inf

    def snapshot(self) -> HealthSnapshot:
        """The record now. Until a call is answered after `restore`, latency and speed are those restored."""
        known = self._restored
        p50, p95, speed = known.latency_p50_ms, known.latency_p95_ms, known.tokens_per_s
        if self._recent:
            latencies = sorted(latency_ms for latency_ms, _ in self._recent)
            p50, p95 = _nearest_rank(latencies, 0.50), _nearest_rank(latencies, 0.95)
            waited_s, tokens = sum(latencies) / 1000, sum(count for _, count in self._recent)
            speed = tokens / waited_s if waited_s > 1e-6 else None  # less is not a time one can divide by
        return HealthSnapshot(
            total_successes=self.total_successes,
            total_failures=self.total_failures,
            consecutive_failures=self.consecutive_failures,
            last_success_time=self.last_success_time,
            last_failure_time=self.last_failure_time,
            latency_ewma_ms=self.latency_ewma_ms,
            latency_p50_ms=p50,
            latency_p95_ms=p95,
            tokens_per_s=speed,
        )

    def restore(self, snapshot: HealthSnapshot) -> None:
        """Begin again from `snapshot`, as after a restart; what was recorded before is forgotten."""
        self.total_successes = snapshot.total_successes
        self.total_failures = snapshot.total_failures
        self.consecutive_failures = snapshot.consecutive_failures
        self.last_success_time = snapshot.last_success_time
        self.last_failure_time = snapshot.last_failure_time
        self.latency_ewma_ms = snapshot.latency_ewma_ms
        self._recent.clear()
        self._restored = snapshot


def _later(one: float | None, other: float | None) -> float | None:
    return max((time for time in (one, other) if time is not None), default=None)


def _nearest_rank(ordered: list[float], share: float) -> float:
    return ordered[math.ceil(share * len(ordered)) - 1]
