"""What must be true of calls to providers: none without need, none against orders, none after the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from tests.sim.plan import Plan
from tests.sim.provider import FOREVER, NOT_BILLED, TERMINAL, Call
from tests.sim.story import Story, answered, forgotten, keeps_answers, over_at, tell
from tests.sim.witness import Pushed


def is_rival(call: Call, before: Call) -> bool:
    """Was it made beside the other, since that took long? Of a world with `hedge_after_ms`."""
    return (
        call.boot is before.boot
        and call.model != before.model
        and before.started_at < call.started_at < over_at(before)
    )


def _rivals(calls: Sequence[Call]) -> Mapping[int, int]:
    """Which call was made beside which: one beside each at most, and none beside a rival."""
    found: dict[int, int] = {}
    for number, call in enumerate(calls):
        for before in calls[:number]:
            free = before.number not in found and before.number not in found.values()
            if free and is_rival(call, before):
                found[call.number] = before.number
                break
    return found


def unexplained(story: Story) -> Iterable[str]:
    """Calls made though an earlier one for the same jobs ran or had answered, with no fault to excuse it."""
    for prompt, calls in story.calls.items():
        rivals = _rivals(calls) if story.hedged else {}
        jobs = story.jobs.get(prompt)
        if jobs is None:
            yield f"a call for nobody: {prompt!r}"
            continue
        if forgotten(story, jobs):
            continue
        apart = _apart(story.plan, jobs)
        good = {call.number for call in calls if answered(story, call) < FOREVER}
        # Of a race in which both have answered, one counts.
        once = {number for number in good if rivals.get(number) not in good}
        excess = len(once) - (apart if apart is not None else 1)
        if excess > 0:
            yield f"{excess} calls too many: {tell(story, calls)}"
        for number, call in enumerate(calls):
            if apart is not None and apart > 1:
                continue
            for before in calls[:number]:
                if call.started_at < over_at(before) and rivals.get(call.number) != before.number:
                    yield f"a call beside another: {tell(story, calls)}"


def _apart(plan: Plan, jobs: Sequence[Pushed]) -> int | None:
    """How many of these jobs may each have a call of its own; None: all share one."""
    first = jobs[0].job
    if first.client_id is not None:
        unnamed = sum(one.job.client_id is None for one in jobs)
        return 1 + unnamed if unnamed else None
    if "cache" in first.fields or not keeps_answers(plan):
        return len(jobs)
    return None


def resent(story: Story) -> Iterable[str]:
    """Jobs with `on_unknown = fail` that were sent again after a call that may have been billed."""
    for prompt, calls in story.calls.items():
        jobs = story.jobs.get(prompt, ())
        if len(jobs) != 1 or forgotten(story, jobs):
            continue
        policy = story.on_unknown(jobs[0].job)
        if policy != "fail":
            continue
        for before, _ in pairwise(calls):
            on_record = answered(story, before) < FOREVER
            if before.how not in NOT_BILLED and before.how != "length" and not on_record:
                yield f"sent again: {tell(story, calls)}"


def after_the_end(story: Story) -> Iterable[str]:
    """Calls for jobs that all had their final reply: nothing follows a refusal, a cancel, a deadline."""
    for prompt, calls in story.calls.items():
        jobs = story.jobs.get(prompt, [])
        if forgotten(story, jobs):
            continue
        ends = [min((end.at for end in story.ends.get(one.ref, ())), default=FOREVER) for one in jobs]
        for call in calls:
            if any(one.at <= call.started_at < end for one, end in zip(jobs, ends, strict=True)):
                continue
            if any(len(story.witness.takers.get(one.ref, ())) > 1 for one in jobs):
                continue  # an entry in two hands: who has it last cannot know at once that it is over
            yield f"a call after the end: {tell(story, [call])}, jobs ended at {ends}"


def too_often(story: Story) -> Iterable[str]:
    """More possibly billed calls for one job than `max_attempts` allows beside one for each model.

    What the provider certainly did not bill counts within one process alone. A call that a drain has cut off is made
    again, whatever was allowed: the contract says of a `drain_s` below `timeout_s` that sent calls may be paid twice.
    """
    config = story.plan.config
    cuts = story.drains_cut
    for prompt, calls in story.calls.items():
        if forgotten(story, story.jobs.get(prompt, ())):
            continue
        jobs = len(story.jobs.get(prompt, ()))
        most = jobs * (config.routing.max_attempts + len(config.models) - 1)
        billed = sum(call.how not in NOT_BILLED and not (cuts and call.how == "closed") for call in calls)
        by_process = Counter(call.boot for call in calls)
        if max(billed, *by_process.values()) > most:
            yield f"more than {most} calls: {tell(story, calls)}"
        for number, after in enumerate(calls if jobs == 1 else ()):
            if any(
                before.how in TERMINAL and before.boot is after.boot and before.ended_at <= after.started_at
                for before in calls[:number]
            ):
                yield f"again after a refusal: {tell(story, calls)}"
