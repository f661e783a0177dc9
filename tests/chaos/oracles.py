"""What must be true afterwards, judged by what was written down outside. Pure: records in, complaints out.

No oracle believes the system's own labels: that the ledger calls an attempt `unknown` excuses no second call. Only a
fault of the provider, or a logged kill of the very process while the call was in doubt, does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from tests.chaos.provider import NOT_BILLED
from tests.chaos.records import FOREVER, Call, Entry, Faults, Pushed, Reply, Stop, Wipe, by_prompt

RECORDED_WITHIN_S = 1.0  # an answer is on record this long after it was given, if nothing stands still
HEARD_WITHIN_S = 1.0  # that a reply was published
RETURNS_WITHIN_S = 10.0  # after a wipe; a call may hang for as long as its time-out, an unlucky process boot
SLACK_S = 0.1  # between what two processes saw of one moment
EXPECTED_ERRORS = frozenset(
    {"provider_unavailable", "provider_timeout", "rate_limited", "no_model_available", "outcome_unknown"}
)


def lost(
    pushed: Iterable[Pushed], replies: Mapping[Entry, Sequence[Reply]], wipes: Sequence[Wipe] = ()
) -> list[str]:
    """Jobs without a final reply; but for those that Redis held, unanswered, when it was wiped."""
    gone = frozenset[Entry]().union(*(wipe.held for wipe in wipes))
    return [
        f"no reply: {job.entry} {job.fields}"
        for job in pushed
        if not replies.get(job.entry) and job.certain and job.entry not in gone
    ]


def doubled(replies: Mapping[Entry, Sequence[Reply]], faults: Faults) -> list[str]:
    """Jobs with more than one, while Redis kept its data or when there was time to learn of the first."""
    return [
        f"{len(found)} replies: {entry} " + " | ".join(f"{r.seen_at:.3f} {r.fields}" for r in found)
        for entry, found in replies.items()
        if any(not _forgotten(before, after, faults) for before, after in pairwise(found))
    ]


def _forgotten(before: Reply, after: Reply, faults: Faults) -> bool:
    """Was `before` lost with Redis so soon that whoever had published it may not have heard that it had?"""
    if before.age == after.age:
        return False
    at = faults.wipes[before.age].at
    since = min(
        (s.started_at for s in faults.stops if s.started_at <= at <= s.ended_at + HEARD_WITHIN_S), default=at
    )
    return before.seen_at >= since - HEARD_WITHIN_S


def slow_to_return(
    pushed: Iterable[Pushed], replies: Mapping[Entry, Sequence[Reply]], wipes: Sequence[Wipe]
) -> list[str]:
    """Wipes after which it took too long until a job that was pushed later had its reply."""
    found: list[str] = []
    for age, after_s in enumerate(returns(pushed, replies, wipes), 1):
        if after_s > RETURNS_WITHIN_S:
            found.append(
                f"{after_s:.1f} s from wipe {age} to the first reply to a job that was pushed after it"
            )
    return found


def returns(
    pushed: Iterable[Pushed], replies: Mapping[Entry, Sequence[Reply]], wipes: Sequence[Wipe]
) -> list[float]:
    """Seconds from each wipe to the first such reply, or to the next wipe."""
    first: dict[int, float] = {}
    for job in pushed:
        for reply in replies.get(job.entry, ()):
            if job.certain:
                first[job.age] = min(first.get(job.age, FOREVER), reply.seen_at)
    nexts = [wipe.at for wipe in wipes[1:]]
    return [
        min(first.get(age, FOREVER), next_at) - wipe.at
        for (age, wipe), next_at in zip(enumerate(wipes, 1), [*nexts, FOREVER], strict=True)
    ]


def strangers(pushed: Iterable[Pushed], replies: Mapping[Entry, Sequence[Reply]]) -> list[str]:
    """Replies to nobody, answers to another's question, and errors that nothing here gives a reason for."""
    jobs = {job.entry: job for job in pushed}
    found: list[str] = []
    for entry, its in replies.items():
        job = jobs.get(entry)
        for reply in its:
            if job is None:
                found.append(f"a reply to nobody: {reply.fields}")
            elif reply.fields["status"] == "ok":
                if reply.fields["output"] != f"{job.group} #{reply.call}":
                    found.append(f"another's answer: {job.entry} {job.group!r} got {reply.fields}")
            elif reply.fields["error_code"] not in EXPECTED_ERRORS:
                found.append(f"unexpected error: {job.entry} {job.fields} got {reply.fields}")
    return found


def unexplained(
    pushed: Iterable[Pushed],
    calls: Sequence[Call],
    replies: Mapping[Entry, Sequence[Reply]],
    faults: Faults,
    slowness: float = 1.0,
) -> list[str]:
    """Calls made though an earlier one for the same jobs ran or had answered, with no fault to excuse it.

    `slowness`: how much longer everything took than on a machine that has nothing else to do.

    One group of jobs needs one call. Another may follow only after the one before was in doubt or had failed.
    """
    seen = _first_quoted(replies)
    stops = sorted((*faults.stops, *faults.unrecorded), key=lambda stop: stop.started_at)
    groups = {job.group for job in pushed}
    found: list[str] = []
    for prompt, its in by_prompt(calls).items():
        if prompt not in groups:
            found.append(f"a call for nobody: {prompt!r}")
        excused_at = -FOREVER
        for before, call in pairwise(its):
            excused_at = max(excused_at, _excused_at(before, faults, seen, stops, slowness))
            if call.started_at < excused_at - SLACK_S:
                found.append(f"unexplained call: {_tell(its, faults, seen)}")
                break
    return found


def resent(pushed: Iterable[Pushed], calls: Sequence[Call], faults: Faults) -> list[str]:
    """Jobs with `on_unknown = fail` that were sent again after a call that may have been billed."""
    strict = {job.group for job in pushed if job.fields.get("on_unknown") == "fail"}
    return [
        f"sent again: {_tell(its, faults, {})}"
        for prompt, its in by_prompt(calls).items()
        if prompt in strict and any(call.how not in NOT_BILLED for call in its[:-1])
    ]


def unlike(pushed: Iterable[Pushed], replies: Mapping[Entry, Sequence[Reply]]) -> list[str]:
    """Repeated ids that were answered with different outputs."""
    answers: dict[str, set[str]] = {}
    for job in pushed:
        if "id" in job.fields:
            outputs = {r.fields["output"] for r in replies.get(job.entry, ()) if r.fields["status"] == "ok"}
            answers.setdefault(job.fields["id"], set()).update(outputs)
    return [f"id {name} got {sorted(outputs)}" for name, outputs in answers.items() if len(outputs) > 1]


def _first_quoted(replies: Mapping[Entry, Sequence[Reply]]) -> dict[int, float]:
    """When a reply first quoted each call: it was certainly on record by then."""
    seen: dict[int, float] = {}
    for its in replies.values():
        for reply in its:
            if reply.call is not None:
                seen[reply.call] = min(seen.get(reply.call, FOREVER), reply.seen_at)
    return seen


def _excused_at(
    call: Call, faults: Faults, seen: Mapping[int, float], stops: Sequence[Stop], slowness: float
) -> float:
    """From when on another call is no surprise; FOREVER: never."""
    if call.how not in {"ok", "closed", "unended"}:
        return call.ended_at
    killed_at = faults.kills.get(call.boot, FOREVER)
    recorded_by = min(_settled_by(call, stops, slowness), seen.get(call.number, FOREVER))
    # Its request may still have been in the kernel when its process was killed.
    return killed_at if call.started_at - SLACK_S <= killed_at <= recorded_by else FOREVER


def _settled_by(call: Call, stops: Sequence[Stop], slowness: float) -> float:
    """When its answer is on record at the latest; whoever stands still may hold the others up. `stops`: in order."""
    end = call.ended_at + RECORDED_WITHIN_S * slowness
    if call.how != "ok":
        return FOREVER
    for stop in stops:
        if stop.started_at <= end and stop.ended_at >= call.started_at:
            end += stop.ended_at - max(stop.started_at, call.started_at)
    return end


def _tell(calls: Sequence[Call], faults: Faults, seen: Mapping[int, float]) -> str:
    return f"{calls[0].prompt!r}: " + "; ".join(
        f"#{call.number} by {call.boot} from {call.started_at:.3f} to {call.ended_at:.3f} {call.how}"
        + (f", killed {faults.kills[call.boot]:.3f}" if call.boot in faults.kills else "")
        + (f", quoted {seen[call.number]:.3f}" if call.number in seen else "")
        for call in calls
    )
