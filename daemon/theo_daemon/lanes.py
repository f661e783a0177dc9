"""How many entries to ask of each lane, so that over time every lane gets its share of what is read."""

from __future__ import annotations

from collections.abc import Mapping


class LaneShares:
    """Divides what there is room for by weight: smooth weighted round-robin, as nginx has it.

    The turns of a lane that has nothing are spent, not saved: it does not burst when jobs come back.
    """

    def __init__(self, weights: Mapping[str, int]) -> None:
        """`weights` are positive; of equal claims the lane named first wins."""
        self._weights = dict(weights)
        self._total = sum(self._weights.values())
        self._claims = dict.fromkeys(self._weights, 0)

    def divide(self, room: int) -> dict[str, int]:
        """Counts that sum up to `room`; lanes without a turn are left out."""
        rounds, turns = divmod(room, self._total)
        counts = {lane: rounds * weight for lane, weight in self._weights.items()}
        claims = self._claims
        for _ in range(turns):
            for lane, weight in self._weights.items():
                claims[lane] += weight
            chosen = max(claims, key=claims.__getitem__)
            claims[chosen] -= self._total
            counts[chosen] += 1
        return {lane: count for lane, count in counts.items() if count}
