"""How large a share of the recent calls failed: a sliding window of buckets."""

from __future__ import annotations

from collections import deque

from msgspec import Struct


class RateRule(Struct, frozen=True, kw_only=True):
    """Too many of the recent calls failed: at least `ratio` of at least `minimum_calls` in `window_s`.

    The minimum keeps a thin traffic's one bad call from being 100 %.
    """

    ratio: float = 0.5
    minimum_calls: int = 20
    window_s: float = 60.0
    buckets: int = 10

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1 or self.minimum_calls < 1 or self.window_s <= 0 or self.buckets < 1:
            raise ValueError(f"not a rate rule: {self}")


class FailureRate:
    """Counts calls when they end, successes and failures alike.

    To count a call when it is sent and its failure when it ends lets slow failures outlive their calls: a model that
    hangs until each call times out is never found out. To date both by the sending cures that with a window of twice
    the time-out, which then takes the longer to fill, and the fresh calls in it are counted as good ones until they
    end. So dated, the share is of what is known of the last `window_s`, however long the calls took.
    """

    def __init__(self, rule: RateRule) -> None:
        self._rule = rule
        self._width_s = rule.window_s / rule.buckets
        self._buckets: deque[list[int]] = deque()  # [number since the clock's zero, calls, failures]

    def record(self, *, failed: bool, now: float) -> None:
        """Count one ended call. `now` is monotonic seconds."""
        number = int(now / self._width_s)
        if not self._buckets or self._buckets[-1][0] != number:
            self._buckets.append([number, 0, 0])
            while self._buckets[0][0] <= number - self._rule.buckets:
                self._buckets.popleft()
        self._buckets[-1][1] += 1
        self._buckets[-1][2] += failed

    def exceeded(self) -> bool:
        """Does the window that ends with the last record break the rule?"""
        calls = sum(bucket[1] for bucket in self._buckets)
        failures = sum(bucket[2] for bucket in self._buckets)
        return calls >= self._rule.minimum_calls and failures >= self._rule.ratio * calls

    def clear(self) -> None:
        """Forget every call."""
        self._buckets.clear()
