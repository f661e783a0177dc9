"""Which candidate gets the next attempt: a weighted choice among the best of those that can take it now."""

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

    Last come those that are LATE (they usually take more than the job has left), before them those that are AWAY
    (their region is evicted), SLOW (over their latency threshold) and of weight 0, in this order; then regions in
    order of preference. Among the best each gets its share by weight; of those with the same weight, the least loaded.
    """
    best, pool, total = _WORST, [], 0.0
    for one in candidates:
        weight = one.weight
        rank = one.flaws if weight > 0 else one.flaws | _UNWEIGHTED
        if rank < best:
            best, pool, total = rank, [one], weight
        elif rank == best:
            pool.append(one)
            total += weight
    if len(pool) < 2:
        return pool[0].model if pool else None
    if best >= LATE:
        # Whoever may make it is asked: a job that is not sent fails for certain, and teaches nothing of the model.
        return min(pool, key=lambda one: one.usual_ms).model
    return _least_loaded(pool, _drawn(pool, total, draw), draw).model


def _drawn(pool: Sequence[Candidate], total: float, draw: float) -> Candidate:
    mark = draw * total
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
