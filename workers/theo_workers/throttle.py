"""Is a model asked less, since it takes less than half of what it is asked? Client-side throttling.

Beyer et al., Site Reliability Engineering (2016), chapter "Handling Overload": of the requests of the last two minutes
the client turns away the share

    max(0, (requests - K * accepts) / (requests + 1))

itself, where requests are all that were to be made, those turned away included, and accepts are those that the backend
took. With K = 2 nothing happens while it takes at least half. One that takes nothing is still asked about once in two
minutes, and once it is well again about twice as often in each two minutes as before; it is quicker after a circuit
that opened, since what was before its closing counts for nothing.

Two things are otherwise here. A call counts when it ends: answers take seconds, and a burst of calls under way would
look like refusals. And whoever is turned away goes to another candidate instead of failing.
"""

from __future__ import annotations

import math

K = 2.0
WINDOW_S = 120.0
BUCKETS = 12


class Throttle:
    """Of one model in one process. `now` is monotonic seconds and never goes back; each method is O(1) on average.

    Buckets slide over the window, which is therefore up to one bucket shorter than `window_s`.
    """

    def __init__(self, *, k: float = K, window_s: float = WINDOW_S, buckets: int = BUCKETS) -> None:
        if k < 1 or window_s <= 0 or buckets < 1:
            raise ValueError(
                f"k {k} and buckets {buckets} must be at least 1 and window_s {window_s} above 0"
            )
        self._k, self._window_s, self._width_s = k, window_s, window_s / buckets
        self._buckets = [[0, 0] for _ in range(buckets)]  # requests and accepts of each
        self._number = 0  # of the latest bucket, since the clock's zero
        self._requests = self._accepts = 0  # of all buckets
        self.passed_over = 0  # requests turned away since the process began
        self._turned_at = -math.inf

    def ended(self, *, accepted: bool, now: float) -> None:
        """A call that was made has ended."""
        self._count(now, accepts=int(accepted))

    def share(self, now: float) -> float:
        """The share of calls to turn away now, from 0 to less than 1."""
        self._slide(now)
        return max(0.0, (self._requests - self._k * self._accepts) / (self._requests + 1))

    def turns_away(self, now: float, draw: float) -> bool:
        """Must the call that is about to be made go elsewhere? `draw` is from [0, 1). One that must is counted."""
        if draw >= self.share(now):
            return False
        self._count(now, accepts=0)
        self.passed_over += 1
        return True

    def began(self, now: float) -> bool:
        """A call was turned away: must that be told? Once, until no other was for a whole window."""
        last, self._turned_at = self._turned_at, now
        return now - last >= self._window_s

    def clear(self) -> None:
        """The model's circuit has changed: what was before counts for nothing."""
        for bucket in self._buckets:
            bucket[:] = 0, 0
        self._requests = self._accepts = 0

    def _count(self, now: float, *, accepts: int) -> None:
        self._slide(now)
        latest = self._buckets[self._number % len(self._buckets)]
        latest[0] += 1
        latest[1] += accepts
        self._requests += 1
        self._accepts += accepts

    def _slide(self, now: float) -> None:
        """Forget the buckets that have left the window."""
        number, size = int(now / self._width_s), len(self._buckets)
        for gone in range(max(self._number + 1, number - size + 1), number + 1):
            bucket = self._buckets[gone % size]
            self._requests -= bucket[0]
            self._accepts -= bucket[1]
            bucket[:] = 0, 0
        self._number = max(self._number, number)
