"""Which candidates are left to choose from while a budget is under pressure: the cheaper ones. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct


class Option(Struct, frozen=True, gc=False):
    """One candidate for this call. `cost` is what it would probably cost, in any unit; infinite: nobody knows.

    `strained`: a budget that the call would draw on has spent its `downgrade_ratio`.
    """

    model: str
    cost: float
    strained: bool
    free: bool  # it would start the call at once


def prefer_cheaper(options: Sequence[Option]) -> tuple[str, ...]:
    """The models to choose from now, in their order.

    A candidate that strains a budget stands back while a cheaper one has a free slot. It is a preference: when only
    dear ones are free they serve, so that no job waits or fails for it.
    """
    free = [one for one in options if one.free]
    least = min((one.cost for one in free), default=0.0)
    kept = tuple(one.model for one in free if not one.strained or one.cost <= least)
    return kept or tuple(one.model for one in options)
