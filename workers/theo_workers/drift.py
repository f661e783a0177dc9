"""Does a model fail more than it usually does? A cumulative sum test that knows the model's own history.

Page, "Continuous inspection schemes", Biometrika 41 (1954). Two hypotheses are weighed with every call: the model
fails as often as it usually does (share `q`), or it is failing: halfway from there to always, (1 + q) / 2. A failure
multiplies the odds of the second by (1 + q) / 2q, a success halves them; below even they are even again, as the trouble
may begin with any call. When the odds pass a bound the circuit opens. By Lorden (1971) a model that behaves as usual
passes a bound of B only once in B calls or more.

The bound is what `threshold` failures in a row give a model that fails one call in a hundred. So one without a history
has exactly the configured threshold; one that never fails has less (two instead of three), one that fails every fifth
call has more (eleven instead of three): a run of three of its failures says nothing.
"""

from __future__ import annotations

import math

EXPECTED = 0.01  # the share of failures of a model without a history, which counts as
PRIOR_CALLS = 100.0  # so many calls
MOST_CALLS = 2_000.0  # of history; then half of it is forgotten, as models change
HIGHEST = 0.5  # who usually fails more than that is known as failing half of the time
_HALVE = math.log(2.0)


class Drift:
    """Of one model. Evidence of the trouble itself is no part of what is usual: history has only calls at even odds."""

    def __init__(self, threshold: int) -> None:
        self._bound = threshold * _step(EXPECTED) - 1e-9
        self._calls = self._failures = 0.0  # the history
        self._log_odds = 0.0
        self._pending_calls = self._pending_failures = 0  # since the odds were last even
        self._up = 0.0

    @property
    def usual(self) -> float:
        """The share of calls that usually fails."""
        return min(HIGHEST, (self._failures + EXPECTED * PRIOR_CALLS) / (self._calls + PRIOR_CALLS))

    @property
    def in_a_row(self) -> int:
        """How many failures in a row would open the circuit from even odds."""
        return max(1, math.ceil(self._bound / _step(self.usual)))

    def succeeded(self) -> None:
        """One call was answered."""
        if self._log_odds == 0.0:
            self._remember(1, 0)
            return
        self._pending_calls += 1
        self._log_odds = max(0.0, self._log_odds - _HALVE)
        if self._log_odds == 0.0:
            self._remember(self._pending_calls, self._pending_failures)
            self._pending_calls = self._pending_failures = 0

    def failed(self) -> bool:
        """One call failed. True: this is no more the usual."""
        if self._log_odds == 0.0:
            self._up = _step(self.usual)
        self._pending_calls += 1
        self._pending_failures += 1
        self._log_odds += self._up
        return self._log_odds >= self._bound

    def clear(self) -> None:
        """The circuit has changed: weigh anew. What is usual is kept."""
        self._log_odds = 0.0
        self._pending_calls = self._pending_failures = 0

    def recall(self, successes: int, failures: int) -> None:
        """Begin with a record from before, which counts for half of the most."""
        if (calls := successes + failures) > 0:
            share = min(1.0, MOST_CALLS / 2 / calls)
            self._calls, self._failures = calls * share, failures * share

    def _remember(self, calls: int, failures: int) -> None:
        self._calls += calls
        self._failures += failures
        if self._calls > MOST_CALLS:
            self._calls, self._failures = self._calls / 2, self._failures / 2


def _step(usual: float) -> float:
    """How much one failure adds to the log-odds."""
    return math.log((1 + usual) / (2 * usual))
