"""What one model's calls have been like, in all processes together: counts, times, latency, speed."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from itertools import islice
from operator import itemgetter

from msgspec import Struct, structs

RECENT = 256  # calls that quantiles and speed are taken over
SMOOTHING = 0.2  # weight of the newest latency in the moving average


Answered = tuple[float, float, int, float | None]
"""One answered call: its end (Unix seconds), latency (ms), completion tokens, and ms to its first piece if streamed."""


class Sample(Struct, frozen=True, array_like=True, gc=False):
    """The same in whole numbers, as it is kept: no format and no language rounds them."""

    at_ms: int
    latency_us: int
    completion_tokens: int
    ttft_us: int = -1  # -1: it was not streamed


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
    latency_p99_ms: float | None = None
    ttft_p50_ms: float | None = None  # time to the first token of streamed calls
    ttft_p95_ms: float | None = None
    tokens_per_s: float | None = None  # completion tokens per second of waiting, over the recent calls
    recent: tuple[Sample, ...] = ()  # what these are taken over, oldest first


def merged(kept: HealthSnapshot, *, before: HealthSnapshot, now: HealthSnapshot) -> HealthSnapshot:
    """`kept`, the record of many processes, with what one of them saw between `before` and `now` added.

    Counts add up; of the rest its word is the latest: it has taken what the others saw into account (`renew`).
    """
    return structs.replace(
        now,
        total_successes=kept.total_successes + now.total_successes - before.total_successes,
        total_failures=kept.total_failures + now.total_failures - before.total_failures,
        last_success_time=_later(kept.last_success_time, now.last_success_time),
        last_failure_time=_later(kept.last_failure_time, now.last_failure_time),
    )


class ModelHealth:
    """The health record of one model. Recording is cheap; sorting is left to `snapshot`."""

    last_success_time: float | None
    last_failure_time: float | None
    latency_ewma_ms: float | None

    __slots__ = (
        "_recent",
        "_shared",
        "consecutive_failures",
        "last_failure_time",
        "last_success_time",
        "latency_ewma_ms",
        "total_failures",
        "total_successes",
    )

    def __init__(self) -> None:
        self._recent: deque[Answered] = deque(maxlen=RECENT)
        self.restore(HealthSnapshot())

    # -- recording -----------------------------------------------------------------------------------

    def record_success(
        self, now_wall: float, latency_ms: float, completion_tokens: int, ttft_ms: float | None = None
    ) -> None:
        """One answered call; `now_wall` is Unix seconds."""
        self.total_successes += 1
        self.consecutive_failures = 0
        self.last_success_time = now_wall
        self._recent.append((now_wall, latency_ms, completion_tokens, ttft_ms))
        average = self.latency_ewma_ms
        self.latency_ewma_ms = latency_ms if average is None else average + SMOOTHING * (latency_ms - average)

    def record_failure(self, now_wall: float) -> None:
        """One call that the model failed; `now_wall` is Unix seconds."""
        self.total_failures += 1
        self.consecutive_failures += 1
        self.last_failure_time = now_wall

    # -- reading -------------------------------------------------------------------------------------

    @property
    def latency_p50_ms(self) -> float | None:
        return self.snapshot().latency_p50_ms

    @property
    def latency_p95_ms(self) -> float | None:
        return self.snapshot().latency_p95_ms

    @property
    def latency_p99_ms(self) -> float | None:
        return self.snapshot().latency_p99_ms

    @property
    def ttft_p50_ms(self) -> float | None:
        return self.snapshot().ttft_p50_ms

    @property
    def tokens_per_s(self) -> float | None:
        return self.snapshot().tokens_per_s

    def latency_ms(self, share: float) -> float:
        """What this share of the recent calls took at most; inf before the first."""
        latencies = sorted(map(_latency_ms, self._recent))
        return _nearest_rank(latencies, share) if latencies else math.inf

    def snapshot(self) -> HealthSnapshot:
        """The record now. Until a call is answered after `restore`, latency and speed are those restored."""
        known = HealthSnapshot(
            total_successes=self.total_successes,
            total_failures=self.total_failures,
            consecutive_failures=self.consecutive_failures,
            last_success_time=self.last_success_time,
            last_failure_time=self.last_failure_time,
            latency_ewma_ms=self.latency_ewma_ms,
        )
        return structs.replace(known, **self._measured())

    # -- together with other processes ---------------------------------------------------------------

    def restore(self, snapshot: HealthSnapshot) -> None:
        """Begin again from `snapshot`, as after a restart; what was recorded before is forgotten."""
        self.total_successes = snapshot.total_successes
        self.total_failures = snapshot.total_failures
        self.consecutive_failures = snapshot.consecutive_failures
        self.last_success_time = snapshot.last_success_time
        self.last_failure_time = snapshot.last_failure_time
        self.latency_ewma_ms = snapshot.latency_ewma_ms
        self._recent.clear()
        self._recent.extend(map(_answered, snapshot.recent))
        self._shared = snapshot

    def news(self) -> tuple[HealthSnapshot, HealthSnapshot] | None:
        """As `renew`, where what others saw since is not known."""
        return self.renew(self._shared)

    def renew(self, kept: HealthSnapshot) -> tuple[HealthSnapshot, HealthSnapshot] | None:
        """Take `kept` over, the record of all processes, and add what is new here.

        Returns what must be reported, `before` and `now` of `merged`; None when there is nothing. Until it is on
        record, `kept` is behind: it must have been by the time of the next call.
        """
        base = self._shared
        successes = self.total_successes - base.total_successes
        failures = self.total_failures - base.total_failures
        own_success = self.last_success_time if successes else None
        own_failure = self.last_failure_time if failures else None
        own_run = self.consecutive_failures if successes else failures
        new = [] if not successes else list(islice(self._recent, max(0, len(self._recent) - successes), None))
        self.restore(kept)
        self.total_successes += successes
        self.total_failures += failures
        self.last_success_time = latest = _later(kept.last_success_time, own_success)
        self.last_failure_time = _later(kept.last_failure_time, own_failure)
        # A run of failures counts if it went on after the latest success, whoever had that.
        runs = ((kept.consecutive_failures, kept.last_failure_time), (own_run, own_failure))
        self.consecutive_failures = sum(run for run, at in runs if _after(at, latest))
        if new:
            calls = sorted([*self._recent, *new], key=itemgetter(0))[-RECENT:]
            self._recent.clear()
            self._recent.extend(calls)
            self.latency_ewma_ms = _average(map(_latency_ms, calls))
        if not successes and not failures:
            return None
        now = structs.replace(self.snapshot(), recent=tuple(map(_sample, self._recent)))
        self._shared = now
        return structs.replace(kept, recent=()), now

    def _measured(self) -> dict[str, float | None]:
        calls, known = self._recent, self._shared
        if not calls:
            names = ("latency_p50_ms", "latency_p95_ms", "latency_p99_ms", "ttft_p50_ms", "ttft_p95_ms")
            return {name: getattr(known, name) for name in (*names, "tokens_per_s")}
        latencies = sorted(map(_latency_ms, calls))
        ttfts = sorted(ttft_ms for _, _, _, ttft_ms in calls if ttft_ms is not None)
        waited_s, tokens = sum(latencies) / 1000, sum(count for _, _, count, _ in calls)
        return {
            "latency_p50_ms": _nearest_rank(latencies, 0.50),
            "latency_p95_ms": _nearest_rank(latencies, 0.95),
            "latency_p99_ms": _nearest_rank(latencies, 0.99),
            "ttft_p50_ms": _nearest_rank(ttfts, 0.50) if ttfts else None,
            "ttft_p95_ms": _nearest_rank(ttfts, 0.95) if ttfts else None,
            "tokens_per_s": tokens / waited_s if waited_s > 1e-6 else None,  # less can't be divided by
        }


_latency_ms = itemgetter(1)


def _sample(call: Answered) -> Sample:
    at, latency_ms, completion_tokens, ttft_ms = call
    ttft_us = -1 if ttft_ms is None else round(ttft_ms * 1000)
    return Sample(round(at * 1000), round(latency_ms * 1000), completion_tokens, ttft_us)


def _answered(sample: Sample) -> Answered:
    ttft_ms = None if sample.ttft_us < 0 else sample.ttft_us / 1000
    return sample.at_ms / 1000, sample.latency_us / 1000, sample.completion_tokens, ttft_ms


def _average(latencies_ms: Iterable[float]) -> float | None:
    average: float | None = None
    for latency_ms in latencies_ms:
        average = latency_ms if average is None else average + SMOOTHING * (latency_ms - average)
    return average


def _later(one: float | None, other: float | None) -> float | None:
    return max((time for time in (one, other) if time is not None), default=None)


def _after(one: float | None, other: float | None) -> bool:
    return one is not None and (other is None or one > other)


def _nearest_rank(ordered: list[float], share: float) -> float:
    return ordered[math.ceil(share * len(ordered)) - 1]
