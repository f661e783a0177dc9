"""Which candidate gets the next attempt: a weighted choice among those that can take it now."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct


class Candidate(Struct, frozen=True, gc=False):
    """One model of a route, as it stands at this moment."""

    model: str
    weight: float
    free: int  # slots it would give at once
    slow: bool = False  # over its latency threshold: used only when nothing else is available


def choose(candidates: Sequence[Candidate], draw: float) -> str | None:
    """The model to try now; `draw` is from [0, 1). None when none has a free slot.

    Candidates over their latency threshold come only after all others. Weight 0 means: only when nothing of
    positive weight is free.
    """
    for slow in (False, True):
        free = [one for one in candidates if one.free > 0 and one.slow is slow]
        if free:
            return _weighted(free, draw)
    return None


def _weighted(candidates: Sequence[Candidate], draw: float) -> str:
    total = sum(one.weight for one in candidates)
    if total <= 0:
        return candidates[int(draw * len(candidates))].model
    mark = draw * total
    for one in candidates:
        mark -= one.weight
        if mark < 0:
            return one.model
    return [one for one in candidates if one.weight > 0][-1].model  # rounding left nothing over
