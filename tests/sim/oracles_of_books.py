"""What must be true of the ledger at the end: its sums, and every attempt, call and cost against one another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tests.sim.provider import FOREVER
from tests.sim.story import Ended, Story, forgotten, made_up, over_at, prompt_of
from tests.sim.witness import Pushed
from theo_daemon.job import EntryRef

NANO = 1_000_000_000


def unbalanced(story: Story) -> Iterable[str]:
    """The ledger against itself."""
    ((integrity,),) = story.disk.rows("PRAGMA integrity_check")
    if integrity != "ok":
        yield f"integrity_check: {integrity}"
    costs: dict[str, int] = {}
    for entry, model, state, cost, bound in story.disk.rows(
        "SELECT entry_id, model, state, coalesce(cost_nano, 0), coalesce(bound_nano, 0) FROM attempts"
    ):
        costs[f"model:{model}"] = costs.get(f"model:{model}", 0) + cost
        if state == "sent":
            yield f"an attempt still open: {entry}"
        if (cost < 0 or cost > bound) and not story.witness.overbilled:
            yield f"an attempt of {entry} cost {cost} of at most {bound}"
    spend = {
        scope: (spent, held)
        for scope, spent, held in story.disk.rows(
            "SELECT scope, spent_nano, held_nano FROM spend WHERE window_start = 0"
        )
    }
    for scope in sorted(costs.keys() | spend.keys()):
        spent, held = spend.get(scope, (0, 0))
        if held:
            yield f"{scope} holds {held} at the end"
        if spent != costs.get(scope, 0):
            yield f"{scope} spent {spent}, its attempts cost {costs.get(scope, 0)}"


def unaccounted(story: Story) -> Iterable[str]:
    """Calls without an attempt on record, attempts without a call, replies whose cost is not their attempts'."""
    tried: dict[str, list[str]] = {}
    cost_of: dict[EntryRef, int] = {}
    for stream, entry, state, cost in story.disk.rows(
        "SELECT stream, entry_id, state, coalesce(cost_nano, 0) FROM attempts"
    ):
        ref = EntryRef(stream, entry)
        tried.setdefault(prompt_of(story, ref), []).append(state)
        cost_of[ref] = cost_of.get(ref, 0) + cost
    for prompt in sorted(story.calls.keys() | tried.keys()):
        states = [state for state in tried.get(prompt, ()) if state != "void"]
        starts = len(story.calls.get(prompt, ()))
        # A process may die, or be told to stop, between the record and the first byte.
        doubtful = sum(state in {"unknown", "cancelled"} for state in states)
        if not starts <= len(states) <= starts + doubtful:
            yield f"{prompt!r}: {starts} calls, attempts {states}"
    for prompt, jobs in story.jobs.items():
        if forgotten(story, jobs):
            continue
        told = sum(_told(story.ends[one.ref]) for one in jobs if one.ref in story.ends)
        booked = sum(cost_of.get(one.ref, 0) for one in jobs)
        # Whoever shares an answer pays nothing, though an attempt of its own may have been lost with a process before;
        # and what was still under way, in a process that stood still, when the job had to end, could not be told.
        single = len(jobs) == 1 and jobs[0].ref in story.ends
        if told > booked or (told < booked and single and not _open_yet(story, jobs[0])):
            ends = [story.ends.get(one.ref) for one in jobs]
            yield f"jobs of {prompt!r} were told {told}, their attempts cost {booked}: {ends}"


def _told(ends: Sequence[Ended]) -> int:
    """Nano-dollars. Where Redis has lost that it was answered, whoever had it before may answer for himself again."""
    return max(round(float(end.fields["cost"]) * NANO) for end in ends)


def _open_yet(story: Story, pushed: Pushed) -> bool:
    """Was a call for it under way when its reply was made up? Who has a job to himself knows of his own calls."""
    end = story.ends[pushed.ref][-1]
    in_two_hands = len(story.witness.takers.get(pushed.ref, ())) > 1
    if in_two_hands and _claimed_still(story, end):
        return True
    at = made_up(story, end) if in_two_hands else end.at
    return any(over_at(call) > at for call in story.calls.get(pushed.job.prompt, ()))


def _claimed_still(story: Story, end: Ended) -> bool:
    """Had one of two a claim that he died with, or put on record only afterwards? It is charged once he is dead."""
    witness = story.witness
    return any(
        one.ref == end.ref
        and (
            one.at > end.at
            or (
                end.at < one.boot.killed_at < FOREVER
                and witness.settled_at.get(one.attempt_id, FOREVER) > end.at
            )
        )
        for one in witness.claims
    )
