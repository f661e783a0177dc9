"""Which candidate gets the next attempt: the best of those that can take it now, and among them a choice by weight."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

LOAD_STEPS = 8  # how finely loads are told apart: less than a step is no reason to depart from equal shares
PLACES = 256  # the place of a candidate's region in the order of preference is below this
_UNWEIGHTED, SLOW, AWAY, LATE = PLACES, 2 * PLACES, 4 * PLACES, 8 * PLACES
_WORST = 16 * PLACES
_FINER = 7_919  # a prime: what a draw's finer digits say of a tie has nothing to do with what it said first


class Candidate(Struct, frozen=True, gc=False):
    """One model of a route that would start a call at once, as it stands at this moment."""

    model: str
    weight: float
    load: int = 0  # in LOAD_STEPS of the calls that it may run at a time
    flaws: int = 0  # SLOW, AWAY and LATE, and its region's place: each outweighs all that are less
    usual_ms: float = 0.0  # of those that are LATE


def choose(candidates: Iterable[Candidate], draw: float) -> str | None:
    """The model to try now; `draw` is from [0, 1). None when there is no candidate.

    Of the `best` each gets its share by weight; of those with the same weight, the least loaded.
    """
    pool = best(candidates)
    if len(pool) < 2:
        return pool[0].model if pool else None
    return _least_loaded(pool, _drawn(pool, draw), draw).model


def best(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Those that differ by weight and load alone: nobody is better.

    Last come those that are LATE (they usually take more than the job has left), before them those that are AWAY
    (their region is evicted), SLOW (over their latency threshold) and of weight 0, in this order; then regions in
    order of preference. If all are late, the fastest is asked: it may make it, while a job that is not sent fails
    for certain and teaches nothing of the model.
    """
    lowest, pool = _WORST, list[Candidate]()
    for one in candidates:
        rank = one.flaws if one.weight > 0 else one.flaws | _UNWEIGHTED
        if rank < lowest:
            lowest, pool = rank, [one]
        elif rank == lowest:
            pool.append(one)
    return [min(pool, key=lambda one: one.usual_ms)] if lowest >= LATE and pool else pool


def _drawn(pool: Sequence[Candidate], draw: float) -> Candidate:
    mark = draw * sum([one.weight for one in pool])
    for one in pool:
        mark -= one.weight
        if mark < 0:
            return one
    return pool[int(draw * len(pool))]  # all weights are 0, or rounding left nothing over


def _least_loaded(pool: Sequence[Candidate], drawn: Candidate, draw: float) -> Candidate:
    """Of those with the drawn one's weight: shares of unequal weights stay as they are."""
    weight, least = drawn.weight, drawn.load
    if not least:
        return drawn
    least = min([one.load for one in pool if one.weight == weight])
    if drawn.load == least:
        return drawn
    ties = [one for one in pool if one.weight == weight and one.load == least]
    return ties[int(draw * _FINER % 1 * len(ties))]
