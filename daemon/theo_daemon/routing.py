"""Which candidate gets the next attempt: a weighted choice among the best of those that can take it now."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

LOAD_STEPS = 8  # how finely loads are told apart: less than a step is no reason to depart from equal shares
SLOW, LATE = 2, 4
_UNWEIGHTED = 1
_WORST = 8
_FINER = 7_919  # a prime: what a draw's finer digits say of a tie has nothing to do with what it said first


class Candidate(Struct, frozen=True, gc=False):
    """One model of a route that would start a call at once, as it stands at this moment."""

    model: str
    weight: float
    load: int = 0  # in LOAD_STEPS of the calls that it may run at a time
    flaws: int = 0  # SLOW: over its latency threshold; LATE: it usually takes more than the job has left
    usual_ms: float = 0.0  # of those that are LATE


def choose(candidates: Iterable[Candidate], draw: float) -> str | None:
    """The model to try now; `draw` is from [0, 1). None when there is no candidate.

    Those that are late come after all others, then those that are slow, then those of weight 0. Among the best that
    are left each gets its share by weight; of those with the same weight, the least loaded.
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
