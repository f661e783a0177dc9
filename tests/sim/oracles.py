"""What must be true of a world once it is over, judged by what its witness wrote down. Complaints come out.

No oracle believes the system's own labels: that the ledger calls an attempt `unknown` excuses no second call. Only a
fault of the provider does, the job's own wishes, or the death of the very process whose call was not on record by then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from msgspec import Struct

from tests.sim.books import Disk
from tests.sim.plan import Plan
from tests.sim.provider import BREAKING, FOREVER, NOT_BILLED, TERMINAL, Call
from tests.sim.witness import Pushed, Reply, Witness
from theo_daemon.job import EntryRef

NANO = 1_000_000_000
KNOWN_WITHIN_S = 0.3  # what one process knows of a model, all know


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


# -- replies -----------------------------------------------------------------------------------------------


def lost(story: Story) -> Iterable[str]:
    """Jobs without a final reply; those that Redis itself lost are none of ours."""
    last_loss = max(story.witness.losses, default=-FOREVER)
    for pushed in story.witness.pushed:
        if pushed.ref not in story.ends and pushed.at > last_loss:
            yield f"no reply: {pushed.ref} {pushed.job.fields}"


def doubled(story: Story) -> Iterable[str]:
    """Jobs with more than one, while Redis kept its data."""
    for ref, ends in story.ends.items():
        for before, after in pairwise(ends):
            if before.age == after.age:
                yield f"two replies: {ref} {before.at:.3f} {before.fields} and {after.at:.3f} {after.fields}"


def strangers(story: Story) -> Iterable[str]:
    """Replies to nobody, answers to another's question, refusals and errors without a reason."""
    for ref, ends in story.ends.items():
        pushed = story.witness.by_ref.get(ref)
        for end in ends:
            if pushed is None:
                yield f"a reply to nobody: {end.fields}"
            elif (why := _unreasonable(story, pushed, end)) is not None:
                where = f"{pushed.job.fields} pushed {pushed.at:.3f} as {ref.entry_id}"
                yield f"{why}: {where}, at {end.at:.3f} {end.fields}"


def _unreasonable(story: Story, pushed: Pushed, end: Ended) -> str | None:
    job, code = pushed.job, end.code
    if job.refusal is not None and code not in {job.refusal, "cancelled"} and not _told_elsewhere(story, end):
        return f"should have been {job.refusal}"
    if code == "ok":
        return _not_its_answer(story, pushed, end)
    calls, witness = story.calls.get(job.prompt, []), story.witness
    died = sum(one.ref == pushed.ref and one.boot.killed_at < FOREVER for one in witness.claims)
    reasons: dict[str, object] = {
        "deadline_exceeded": "ttl_ms" in job.fields and _its_time_was_up(story, pushed, end),
        "cancelled": any(
            one.name in {job.client_id, pushed.ref.entry_id} and one.at <= end.at for one in witness.cancels
        ),
        "id_conflict": job.kind == "conflict",
        "budget_exceeded": "max_cost" in job.fields or any(m.routing.spend_ceiling for m in story.plan.config.models),
        "no_model_available": _something_ailed(story, end.at),
        "outcome_unknown": died or any(call.how not in {*NOT_BILLED, "ok", "closed", "length"} for call in calls),
        "delivery_limit_exceeded": died >= story.plan.config.ingress.max_deliveries,
        "rate_limited": any(call.how.startswith("429") for call in calls),
        "provider_timeout": any(call.how == "hang" for call in calls),
        "content_filtered": any(call.how == "filter" for call in calls),
        "context_length_exceeded": any(call.how == "context" for call in calls),
        "invalid_request": any(call.how in {"invalid", "model unknown"} for call in calls),
        "authentication_failed": any(call.how == "credential" for call in calls),
        "provider_quota_exhausted": any(call.how == "quota" for call in calls),
        "provider_unavailable": any(call.how in BREAKING for call in calls),
    }  # fmt: skip
    if code == job.refusal or reasons.get(code):
        return None
    return f"no reason for {code}"


def _its_time_was_up(story: Story, pushed: Pushed, end: Ended) -> bool:
    """By the clock of Redis, which a process knows as well as its answers are quick."""
    slow = any(fault.kind in {"slow reply", "redis stands"} for fault in story.plan.faults)
    return end.at >= pushed.at + int(pushed.job.fields["ttl_ms"]) / 1000 - (5.0 if slow else 0.05)


def _told_elsewhere(story: Story, end: Ended) -> bool:
    """That a reply key is no stream may turn out only after the call; or it is lost with the rest of the data."""
    return "reply_error" in end.fields or bool(story.witness.losses)


def _not_its_answer(story: Story, pushed: Pushed, end: Ended) -> str | None:
    output = end.fields["output"]
    for call in story.calls.get(pushed.job.prompt, ()):
        if call.output == output:
            return (
                None
                if call.ended_at <= end.at and call.how in {"ok", "length", "overbilled"}
                else "not answered yet"
            )
    return "another's answer"


def _something_ailed(story: Story, at: float) -> bool:
    """A model that failed, was asked to wait, or ran out of its rate may be unavailable."""
    rated = any(model.rpm for model in story.plan.config.models)
    return rated or any(
        call.how not in {"ok", "closed", "running", "length"} and call.ended_at <= at
        for call in story.witness.calls
    )


def unlike(story: Story) -> Iterable[str]:
    """Jobs that share an answer by id or by cache, and were given different ones."""
    keeps = _keeps_answers(story.plan)
    for prompt, jobs in story.jobs.items():
        groups: dict[str | None, list[Pushed]] = {}
        for pushed in jobs:
            if pushed.job.client_id is not None or (keeps and "cache" not in pushed.job.fields):
                groups.setdefault(pushed.job.client_id, []).append(pushed)
        for name, group in groups.items():
            outputs = {
                end.fields["output"]
                for one in group
                for end in story.ends.get(one.ref, ())
                if end.code == "ok"
            }
            shortened = any(call.how == "length" for call in story.calls.get(prompt, ()))
            if len(outputs) > 1 and not (name is None and shortened):
                yield f"{prompt!r} (id {name}) got {sorted(outputs)}"


def _keeps_answers(plan: Plan) -> bool:
    """Does an answer last for the whole world?"""
    routing = plan.config.routing
    return (
        routing.cache_enabled
        and routing.cache_ttl_seconds > 100
        and not any(f.kind == "clock set" for f in plan.faults)
    )


def broken_streams(story: Story) -> Iterable[str]:
    """Deltas with a gap, or that are not the text of their attempt."""
    for ref, deltas in story.deltas.items():
        pushed = story.witness.by_ref[ref]
        if pushed.job.fields.get("stream") != "1":
            yield f"deltas for {pushed.job.fields}"
        if story.witness.losses:
            continue
        texts: dict[int, list[str]] = {}
        for one in deltas:
            pieces = texts.setdefault(int(one["attempt"]), [])
            if int(one["seq"]) != len(pieces):
                yield f"{ref.entry_id}: delta {one['seq']} of attempt {one['attempt']} after {len(pieces)}"
            pieces.append(one["delta"])
        outputs = {call.output for call in story.calls.get(pushed.job.prompt, ())}
        for attempt, pieces in texts.items():
            if not any(output.startswith("".join(pieces)) for output in outputs):
                yield f"{ref.entry_id}: attempt {attempt} said {pieces}"


# -- calls -------------------------------------------------------------------------------------------------


def unexplained(story: Story) -> Iterable[str]:
    """Calls made though an earlier one for the same jobs ran or had answered, with no fault to excuse it."""
    for prompt, calls in story.calls.items():
        jobs = story.jobs.get(prompt)
        if jobs is None:
            yield f"a call for nobody: {prompt!r}"
            continue
        if _forgotten(story, jobs):
            continue
        apart = _apart(story.plan, jobs)
        excess = sum(_answered(story, call) < FOREVER for call in calls) - (apart if apart is not None else 1)
        if excess > 0:
            yield f"{excess} calls too many: {tell(story, calls)}"
        for number, call in enumerate(calls):
            if apart is not None and apart > 1:
                continue
            for before in calls[:number]:
                if call.started_at < _over_at(before):
                    yield f"a call beside another: {tell(story, calls)}"


def _forgotten(story: Story, jobs: Sequence[Pushed]) -> bool:
    """Redis has older data again: what had been answered is delivered anew."""
    last = max(story.witness.rollbacks, default=-FOREVER)
    return any(pushed.at <= last for pushed in jobs)


def _apart(plan: Plan, jobs: Sequence[Pushed]) -> int | None:
    """How many of these jobs may each have a call of its own; None: all share one."""
    first = jobs[0].job
    if first.client_id is not None:
        unnamed = sum(one.job.client_id is None for one in jobs)
        return 1 + unnamed if unnamed else None
    if "cache" in first.fields or not _keeps_answers(plan):
        return len(jobs)
    return None


def _answered(story: Story, call: Call) -> float:
    """When its answer was on record; FOREVER: never. One that is no answer for others counts for each job."""
    if call.how not in {"ok", "overbilled", "length"}:
        return FOREVER
    if call.how == "length" and story.jobs[call.prompt][0].job.client_id is None:
        return FOREVER  # not to be used again, so the next job has to ask anew
    return min(
        (
            one.at
            for one in story.witness.landings
            if one.boot is call.boot and one.at >= call.ended_at and _prompt_of(story, one.ref) == call.prompt
        ),
        default=FOREVER,
    )


def _prompt_of(story: Story, ref: EntryRef) -> str:
    pushed = story.witness.by_ref.get(ref)
    return "" if pushed is None else pushed.job.prompt


def _over_at(call: Call) -> float:
    """From when on another call is no surprise."""
    return min(call.ended_at, call.boot.killed_at)


def resent(story: Story) -> Iterable[str]:
    """Jobs with `on_unknown = fail` that were sent again after a call that may have been billed."""
    for prompt, calls in story.calls.items():
        jobs = story.jobs.get(prompt, ())
        if len(jobs) != 1 or _forgotten(story, jobs):
            continue
        policy = jobs[0].job.fields.get("on_unknown", story.plan.config.ledger.on_unknown)
        if policy != "fail":
            continue
        for before, _ in pairwise(calls):
            on_record = _answered(story, before) < FOREVER
            if before.how not in NOT_BILLED and before.how not in {"closed", "length"} and not on_record:
                yield f"sent again: {tell(story, calls)}"


def after_the_end(story: Story) -> Iterable[str]:
    """Calls for jobs that all had their final reply: nothing follows a refusal, a cancel, a deadline."""
    for prompt, calls in story.calls.items():
        jobs = story.jobs.get(prompt, [])
        if _forgotten(story, jobs):
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

    What the provider certainly did not bill counts within one process alone.
    """
    config = story.plan.config
    for prompt, calls in story.calls.items():
        if _forgotten(story, story.jobs.get(prompt, ())):
            continue
        jobs = len(story.jobs.get(prompt, ()))
        most = jobs * (config.routing.max_attempts + len(config.models) - 1)
        billed = sum(call.how not in NOT_BILLED for call in calls)
        by_process = Counter(call.boot for call in calls)
        if max(billed, *by_process.values()) > most:
            yield f"more than {most} calls: {tell(story, calls)}"
        for before, after in pairwise(calls):
            if before.how in TERMINAL and jobs == 1 and after.boot is before.boot:
                yield f"again after a refusal: {tell(story, calls)}"


# -- models ------------------------------------------------------------------------------------------------


def open_circuits(story: Story) -> Iterable[str]:
    """Calls of a model whose circuit was open, and more than one at a time while it was half-open."""
    if story.clock_was_set:
        return
    openings = [one for one in story.witness.standings if one.openings]
    for opened in openings:
        calls = [call for call in story.witness.calls if call.model == opened.model]
        shut_at = opened.at + KNOWN_WITHIN_S
        for call in calls:
            if shut_at < call.started_at < opened.until - 0.002 and not story.stalled(
                opened.at, call.started_at
            ):
                when = f"{opened.at:.3f} to {opened.until:.3f}"
                yield f"a call while the circuit of {opened.model} was open ({when}): {tell(story, [call])}"
        yield from _probes(story, opened.model, max(opened.at, opened.until - 0.002), calls)


def _probes(story: Story, model: str, since: float, calls: Sequence[Call]) -> Iterable[str]:
    """From the end of an opening on, one call at a time, until one of them has ended well."""
    out: Call | None = None
    for call in calls:
        if call.started_at < since:
            continue
        if (
            out is not None
            and call.started_at < _over_at(out)
            and not story.stalled(out.started_at, call.started_at)
        ):
            yield f"two probes of {model}: {tell(story, [out, call])}"
        if out is not None and out.how in {"ok", "length", "overbilled"}:
            return
        if out is not None and out.how in BREAKING:
            return  # it opened again: that opening has its own turn
        out = call


def never_opened(story: Story) -> Iterable[str]:
    """As many failures in a row as the threshold says, seen by one process, and it went on calling."""
    threshold = story.plan.config.routing.circuit_breaker_threshold
    rest_s = story.plan.config.routing.circuit_breaker_timeout_s
    by_process: dict[tuple[object, str], list[Call]] = {}
    for call in story.witness.calls:
        by_process.setdefault((call.boot, call.model), []).append(call)
    for calls in by_process.values():
        for failed in _rows_of_failures(calls, threshold):
            since, until = failed[-1].ended_at, failed[-1].ended_at + rest_s
            for call in calls:
                if since + 0.001 < call.started_at < until - 0.01 and not story.stalled(
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


# -- books -------------------------------------------------------------------------------------------------


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
        tried.setdefault(_prompt_of(story, ref), []).append(state)
        cost_of[ref] = cost_of.get(ref, 0) + cost
    for prompt in sorted(story.calls.keys() | tried.keys()):
        states = [state for state in tried.get(prompt, ()) if state != "void"]
        starts = len(story.calls.get(prompt, ()))
        # A process may die, or be told to stop, between the record and the first byte.
        doubtful = sum(state in {"unknown", "cancelled"} for state in states)
        if not starts <= len(states) <= starts + doubtful:
            yield f"{prompt!r}: {starts} calls, attempts {states}"
    for prompt, jobs in story.jobs.items():
        if _forgotten(story, jobs):
            continue
        told = sum(
            round(float(story.ends[one.ref][-1].fields["cost"]) * NANO)
            for one in jobs
            if one.ref in story.ends
        )
        booked = sum(cost_of.get(one.ref, 0) for one in jobs)
        # Whoever shares an answer pays nothing, though an attempt of its own may have been lost with a process before;
        # and what was still under way, in a process that stood still, when the job had to end, could not be told.
        single = len(jobs) == 1 and jobs[0].ref in story.ends
        open_yet = single and any(
            _over_at(call) > story.ends[jobs[0].ref][-1].at for call in story.calls.get(prompt, ())
        )
        if told > booked or (told < booked and single and not open_yet):
            ends = [story.ends.get(one.ref) for one in jobs]
            yield f"jobs of {prompt!r} were told {told}, their attempts cost {booked}: {ends}"


def tell(story: Story, calls: Sequence[Call]) -> str:
    """For people."""
    return "; ".join(
        f"#{call.number} of {call.prompt!r} by {call.boot} at {call.model} from {call.started_at:.3f}"
        f" to {call.ended_at:.3f} {call.how}"
        + (f", on record {recorded:.3f}" if (recorded := _answered(story, call)) < FOREVER else "")
        + (f", killed {call.boot.killed_at:.3f}" if call.boot.killed_at < FOREVER else "")
        for call in calls
    )


ORACLES: tuple[Callable[[Story], Iterable[str]], ...] = (
    lost, doubled, strangers, unlike, broken_streams, unexplained, resent, after_the_end, too_often, open_circuits,
    never_opened, unbalanced, unaccounted,
)  # fmt: skip


def judge(plan: Plan, witness: Witness, disk: Disk) -> dict[str, list[str]]:
    """Complaints by oracle; only of those that have any."""
    story = read(plan, witness, disk)
    found = {oracle.__name__: list(oracle(story)) for oracle in ORACLES}
    return {name: complaints for name, complaints in found.items() if complaints}


__all__ = ["Reply", "judge"]
