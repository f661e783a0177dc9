"""What must be true of circuit breakers: open ones let nothing through, half-open ones one call; failures open them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tests.sim.provider import BREAKING, Call
from tests.sim.story import Story, over_at, tell
from tests.sim.witness import Standing

KNOWN_WITHIN_S = 0.3  # what one process knows of a model, all know
CLAIMED_WITHIN_S = 0.005  # an admitted call is sent after two commits at most, unless the ledger is slow


def open_circuits(story: Story) -> Iterable[str]:
    """Calls of a model whose circuit was open, and more than one at a time while it was half-open."""
    if story.clock_was_set:
        return
    for opened in _openings(story):
        calls = [call for call in story.witness.calls if call.model == opened.model]
        shut_at = opened.at + KNOWN_WITHIN_S
        for call in calls:
            if shut_at < call.started_at < opened.until - 0.002 and not story.stalled(
                opened.at, call.started_at
            ):
                when = f"{opened.at:.3f} to {opened.until:.3f}"
                yield f"a call while the circuit of {opened.model} was open ({when}): {tell(story, [call])}"
        yield from _probes(story, opened, max(opened.at, opened.until - 0.002), calls)


def _openings(story: Story) -> Iterable[Standing]:
    """Each as it was first recorded: a pause that is asked for meanwhile records the same opening again."""
    seen = set()
    for one in story.witness.standings:
        if one.openings and (one.model, one.until) not in seen:
            seen.add((one.model, one.until))
            yield one


def _probes(story: Story, opened: Standing, since: float, calls: Sequence[Call]) -> Iterable[str]:
    """From the end of an opening on, one call at a time, until one of them has ended well.

    An opening that was over when a slow ledger recorded it is news to other processes all the same.
    """
    out: Call | None = None
    for call in calls:
        if call.started_at < since:
            continue
        if (
            out is not None
            and call.started_at < over_at(out)
            and call.started_at > opened.at + KNOWN_WITHIN_S
            and not story.stalled(out.started_at, call.started_at)
        ):
            yield f"two probes of {opened.model}: {tell(story, [out, call])}"
        if out is not None and out.how in {"ok", "length", "overbilled"}:
            return
        if out is not None and out.how in BREAKING:
            return  # it opened again: that opening has its own turn
        out = call


def never_opened(story: Story) -> Iterable[str]:
    """As many failures in a row as the threshold says, seen by one process, and it went on calling.

    Where the breaker knows what is usual for a model, one that fails often anyway may fail more often in a row.
    """
    if story.plan.config.models[0].routing.circuit_breaker_adaptive in {True, "history"}:
        return
    threshold = story.plan.config.routing.circuit_breaker_threshold
    openings = [one for one in story.witness.standings if one.openings]
    rest_s = story.plan.config.routing.circuit_breaker_timeout_s
    by_process: dict[tuple[object, str], list[Call]] = {}
    for call in story.witness.calls:
        by_process.setdefault((call.boot, call.model), []).append(call)
    for calls in by_process.values():
        for failed in _rows_of_failures(calls, threshold):
            since, until = failed[-1].ended_at, failed[-1].ended_at + rest_s
            # With those that other processes met, an early one may have opened it: then it was open meanwhile. And who
            # was called before it opened, or before its process knew, and failed after that, counts for nothing.
            began = failed[0].started_at
            if any(
                one.model == failed[0].model and one.at <= since and began < max(one.at, one.until - 0.002)
                for one in openings
            ):
                continue
            for call in calls:
                if since + CLAIMED_WITHIN_S < call.started_at < until - 0.01 and not story.stalled(
                    failed[0].started_at, call.started_at
                ):
                    yield f"the circuit did not open: {tell(story, [*failed, call])}"


def _rows_of_failures(calls: Sequence[Call], threshold: int) -> Iterable[Sequence[Call]]:
    """Failures that followed one another, each begun after the one before had ended, with nothing else between."""
    row: list[Call] = []
    for call in sorted(calls, key=lambda call: call.ended_at):
        if call.how not in BREAKING - {"hang"}:
            row = []
            continue
        if row and call.started_at < row[-1].ended_at:
            row = []
        row.append(call)
        if len(row) == threshold:
            yield row
            row = []
