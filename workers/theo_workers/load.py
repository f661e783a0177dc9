"""How many calls at a time a model bears: additive increase, multiplicative decrease (Chiu and Jain, 1989)."""

from __future__ import annotations

import math

DECREASE = 0.7
SLOW_FACTOR = 3.0  # times what 99 of 100 recent calls take at most


class Load:
    """The limit of one model in one process, between 1 and `most`; it begins at `most`.

    A whole limit of successes raises it by one, as long as at least half of it is used: what is not used proves
    nothing (Netflix's concurrency-limits has the same rule). Overload lowers it to `DECREASE` of itself, once for all
    calls that were admitted before: they are one burst, whose many refusals say the same thing.
    """

    def __init__(self, most: int, *, least_slow_ms: float) -> None:
        """`least_slow_ms`: a call that takes no longer is never called slow."""
        self._most = most
        self._least_slow_ms = least_slow_ms
        self.limit = float(most)
        self.slow_ms = math.inf  # a call that takes longer is a sign of overload
        self._lowered_at = -math.inf  # monotonic seconds

    def answered(self, latency_ms: float, *, admitted: float, running: int, now: float) -> bool:
        """A call was answered while `running` ran, itself included. True when the limit may have changed.

        `admitted` and `now` are monotonic seconds.
        """
        if latency_ms > self.slow_ms:
            return self.overloaded(admitted, now)
        if self.limit >= self._most or 2 * running < self.limit:
            return False
        self.limit = min(float(self._most), self.limit + 1 / self.limit)
        return True

    def overloaded(self, admitted: float, now: float) -> bool:
        """A call admitted at the monotonic second `admitted` showed overload. True when the limit has changed."""
        if admitted <= self._lowered_at:
            return False
        self.limit = max(1.0, self.limit * DECREASE)
        self._lowered_at = now
        return True

    def learn(self, latency_p99_ms: float) -> None:
        """What 99 of 100 recent calls took at most."""
        self.slow_ms = max(self._least_slow_ms, SLOW_FACTOR * latency_p99_ms)
