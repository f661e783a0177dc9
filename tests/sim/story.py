"""What the witness of a world wrote down, sorted for those who judge it: who asked, who was told what, who called."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from tests.sim.books import Disk
from tests.sim.plan import Plan
from tests.sim.provider import FOREVER, Call
from tests.sim.traffic import Job
from tests.sim.witness import Pushed, Witness
from theo_daemon.job import EntryRef

TRIED_AGAIN_WITHIN_S = 2.0  # what Redis has refused, or did not take


class Ended(Struct, frozen=True):
    """A final reply, read."""

    at: float
    age: int
    ref: EntryRef
    fields: dict[str, str]

    @property
    def code(self) -> str:
        return self.fields.get("error_code", "ok")


class Story(Struct, frozen=True):
    """All that oracles look at."""

    plan: Plan
    witness: Witness
    disk: Disk
    ends: dict[EntryRef, list[Ended]]
    deltas: dict[EntryRef, list[dict[str, str]]]
    jobs: dict[str, list[Pushed]]  # by prompt
    calls: dict[str, list[Call]]  # by prompt

    @property
    def drains(self) -> bool:
        """Did processes leave? One that stands still meanwhile cuts calls off, however much time they had."""
        return any(fault.kind == "drain" for fault in self.plan.faults)

    @property
    def drains_cut(self) -> bool:
        """Did processes leave that may not have let their calls finish?"""
        config = self.plan.config
        return self.drains and config.ingress.drain_s < config.routing.timeout_s

    @property
    def hedged(self) -> bool:
        """May calls that take long have rivals?"""
        return self.plan.config.models[0].routing.hedge_after_ms is not None

    def on_unknown(self, job: Job) -> str:
        """What the job wants of calls of which nobody knows whether they were billed."""
        return job.fields.get("on_unknown", self.plan.config.ledger.on_unknown)

    @property
    def clock_was_set(self) -> bool:
        return any(fault.kind == "clock set" for fault in self.plan.faults)

    def stalled(self, began: float, ended: float) -> bool:
        """Did anything stand still or fall behind then, so that what is known here may not be known there?"""
        return any(one.began <= ended and one.ended >= began for one in self.witness.stretches)


def read(plan: Plan, witness: Witness, disk: Disk) -> Story:
    """Sort what was written down."""
    ends: dict[EntryRef, list[Ended]] = {}
    deltas: dict[EntryRef, list[dict[str, str]]] = {}
    for reply in witness.replies:
        fields = reply.fields
        ref = EntryRef(fields["job_stream"], fields["entry_id"])
        if fields["final"] == "1":
            ends.setdefault(ref, []).append(Ended(reply.at, reply.age, ref, fields))
        else:
            deltas.setdefault(ref, []).append(fields)
    jobs: dict[str, list[Pushed]] = {}
    for pushed in witness.pushed:
        jobs.setdefault(pushed.job.prompt, []).append(pushed)
    calls: dict[str, list[Call]] = {}
    for call in witness.calls:
        calls.setdefault(call.prompt, []).append(call)
    return Story(plan, witness, disk, ends, deltas, jobs, calls)


def prompt_of(story: Story, ref: EntryRef) -> str:
    pushed = story.witness.by_ref.get(ref)
    return "" if pushed is None else pushed.job.prompt


def forgotten(story: Story, jobs: Sequence[Pushed]) -> bool:
    """Redis has older data again: what had been answered is delivered anew."""
    last = max(story.witness.rollbacks, default=-FOREVER)
    return any(pushed.at <= last for pushed in jobs)


def keeps_answers(plan: Plan) -> bool:
    """Does an answer last for the whole world?"""
    routing = plan.config.routing
    return (
        routing.cache_enabled
        and routing.cache_ttl_seconds > 100
        and not any(f.kind == "clock set" for f in plan.faults)
    )


def answered(story: Story, call: Call) -> float:
    """When its answer was on record; FOREVER: never. One that is no answer for others counts for each job."""
    if call.how not in {"ok", "overbilled", "length"}:
        return FOREVER
    if call.how == "length" and story.jobs[call.prompt][0].job.client_id is None:
        return FOREVER  # not to be used again, so the next job has to ask anew
    return min(
        (
            one.at
            for one in story.witness.landings
            if one.boot is call.boot and one.at >= call.ended_at and prompt_of(story, one.ref) == call.prompt
        ),
        default=FOREVER,
    )


def over_at(call: Call) -> float:
    """From when on another call is no surprise."""
    return min(call.ended_at, call.boot.killed_at)


def made_up(story: Story, end: Ended) -> float:
    """When the reply was made up, at the earliest: whatever stood still since may have kept it back."""
    at = end.at
    for one in sorted(story.witness.stretches, key=lambda one: -one.ended):
        if one.began < at <= one.ended + TRIED_AGAIN_WITHIN_S:
            at = one.began
    return at


def tell(story: Story, calls: Sequence[Call]) -> str:
    """For people."""
    return "; ".join(
        f"#{call.number} of {call.prompt!r} by {call.boot} at {call.model} from {call.started_at:.3f}"
        f" to {call.ended_at:.3f} {call.how}"
        + (f", on record {recorded:.3f}" if (recorded := answered(story, call)) < FOREVER else "")
        + (f", killed {call.boot.killed_at:.3f}" if call.boot.killed_at < FOREVER else "")
        for call in calls
    )
