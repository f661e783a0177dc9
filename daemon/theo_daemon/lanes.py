"""How many entries to ask of each lane, so that over time every lane gets its share of what is read."""

from __future__ import annotations

from collections.abc import Mapping


class LaneShares:
    """Divides what there is room for by weight: smooth weighted round-robin, as nginx has it.

    A lane that had less than it was asked for is asked for one entry until it has that, and the others
    divide its share. Turns it does not use are spent, not saved: it does not burst when jobs come back.
    """

    def __init__(self, weights: Mapping[str, int]) -> None:
        """`weights` are positive; of equal claims the lane named first wins."""
        self._weights = dict(weights)
        self._claims = dict.fromkeys(self._weights, 0)
        self._dry: dict[
            str, None
        ] = {}  # in the order in which they fell dry: a set has none that can be repeated

    def divide(self, room: int) -> dict[str, int]:
        """Counts that sum up to `room`; lanes without a turn are left out."""
        asked_for_one: dict[str, None] = {}
        if len(self._dry) < len(self._weights) and room > 2 * len(self._weights):
            # With less room than that each entry counts, and a dry lane waits for its turn like any other.
            asked_for_one = self._dry
        counts = dict.fromkeys(asked_for_one, 1)
        weights = {lane: weight for lane, weight in self._weights.items() if lane not in asked_for_one}
        total = sum(weights.values())
        rounds, turns = divmod(room - len(counts), total)
        counts |= {lane: rounds * weight for lane, weight in weights.items()}
        claims = self._claims
        for _ in range(turns):
            for lane, weight in weights.items():
                claims[lane] += weight
            chosen = max(weights, key=claims.__getitem__)
            claims[chosen] -= total
            counts[chosen] += 1
        return {lane: count for lane, count in counts.items() if count}

    @property
    def all_dry(self) -> bool:
        """Had every lane less than it was last asked for?"""
        return len(self._dry) == len(self._weights)

    def found(self, lane: str, *, asked: int, got: int) -> None:
        """Tell what became of a share."""
        if got < asked:
            self._dry[lane] = None
        else:
            self._dry.pop(lane, None)
