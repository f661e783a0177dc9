"""May a slow call get a rival, sent to another model while it still runs? Off unless it is asked for. Pure.

A rival that loses is cancelled, and usually billed all the same (Dean and Barroso, The Tail at Scale, 2013, assume
requests that cost nothing). So only calls that cost nothing have one, or those up to a price that was allowed.
"""

from __future__ import annotations

from theo_daemon.ceilings import fits

SHARE = 0.05  # of the calls may have a rival: more would be load, not luck
SAVED = 10.0  # rivals that a quiet time leaves to a bad minute, at most


class Allowance:
    """Keeps rivals to a share of the calls."""

    def __init__(self) -> None:
        self._left = 0.0

    def call(self) -> None:
        """A call was made that might have had one."""
        self._left = min(SAVED, self._left + SHARE)

    @property
    def is_left(self) -> bool:
        """May one more be sent?"""
        return self._left >= 1

    def spend(self) -> None:
        """One was sent."""
        self._left -= 1


def affordable(bound_nano: int | None, *, most_nano: int | None, left_nano: int | None) -> bool:
    """May a rival cost `bound_nano` at most? None: unknown.

    `most_nano` is the price up to which rivals are allowed (None: only free ones), `left_nano` what the job's own
    ceiling leaves beside the call that runs already (None: it has none).
    """
    if not fits(bound_nano, most_nano or 0):
        return False
    return left_nano is None or fits(bound_nano, left_nano)
