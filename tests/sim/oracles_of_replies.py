"""What must be true of replies: one for each job, the right one, with a reason; and of the deltas before it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from tests.sim.provider import BREAKING, FOREVER, NOT_BILLED
from tests.sim.story import Ended, Story, keeps_answers
from tests.sim.witness import Pushed


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
    allowed = {
        job.refusal,
        "cancelled",
        "delivery_limit_exceeded",
    }  # of the last it is asked below whether it is true
    if job.refusal is not None and code not in allowed and not _told_elsewhere(story, end):
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
        "outcome_unknown": died
        or any(call.how not in {*NOT_BILLED, "ok", "closed", "length"} for call in calls)
        or (story.drains and story.on_unknown(job) == "fail" and any(call.how == "closed" for call in calls)),
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
    keeps = keeps_answers(story.plan)
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
