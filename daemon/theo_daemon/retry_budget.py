"""How often an endpoint's calls may be repeated: a bucket of tokens that failures empty and successes fill.

Without it a provider in trouble gets several times its usual load, from every job's repeats, just then. Numbers and
rules are those of botocore's standard mode 2.1 (`botocore/retries/quota.py`, `standard.py`): the bucket begins full; a
repeat takes 14 tokens, after throttling 5; a call that succeeds gives back what its own repeat took, or 1 if it was
none; time alone gives nothing back. With too few left nothing is repeated; other candidates are asked all the same.
"""

from __future__ import annotations

from theo_workers.failures import FailureClass

CAPACITY = 500
TRANSIENT_COST, THROTTLED_COST = 14, 5
FIRST_TRY_INCREMENT = 1


def repeat_cost(failure: FailureClass) -> int:
    """What it takes to ask a model again after it failed like this."""
    return THROTTLED_COST if failure is FailureClass.RATE_LIMITED else TRANSIENT_COST


class RetryBudget:
    """Of one endpoint in one process, shared by its models. `capacity` 0: repeats are not counted."""

    __slots__ = ("_told", "capacity", "tokens")

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.capacity = self.tokens = capacity
        self._told = False  # that it is spent

    def covers(self, cost: int) -> bool:
        """Is there enough for a repeat?"""
        return not self.capacity or self.tokens >= cost

    def take(self, cost: int) -> None:
        """A repeat goes out; `covers` was asked just now."""
        self.tokens = max(0, self.tokens - cost)

    def give_back(self, cost: int) -> None:
        """A repeat that was paid for did not go out."""
        self.tokens = min(self.capacity, self.tokens + cost)

    def succeeded(self, cost: int) -> None:
        """A call succeeded that took `cost` as a repeat, 0 if it was none."""
        if self.tokens < self.capacity:
            self.tokens = min(self.capacity, self.tokens + (cost or FIRST_TRY_INCREMENT))

    def spent_anew(self) -> bool:
        """A repeat was refused: must that be told? Once, until half of it is full again."""
        if 2 * self.tokens >= self.capacity:
            self._told = False
        told, self._told = self._told, True
        return not told
