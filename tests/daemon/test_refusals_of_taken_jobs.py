"""Refusals of jobs that another process had: what is on record of them goes before."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from theo_daemon.job import Answer, Answered, EntryRef, Envelope, Failed, JobOutcome
from theo_daemon.ledger.records import Check, Clear, Conflict, Landing, PriorAttempt, Replay, Verdict
from theo_daemon.outcomes import failed
from theo_daemon.ports import Finish
from theo_daemon.reception import Refused
from theo_daemon.refusals import Refusals
from theo_daemon.reply import encode_outcome
from theo_workers.errors import ReplyToNotAllowed
from theo_workers.messages import Outcome, Usage

REF = EntryRef("theo:jobs", "1-0")
ASKED, BARE = Envelope(ref=REF, id="x", reply_to="theo:reply:mine"), Envelope(ref=REF, id="x")
ANSWERED = Answered(
    answer=Answer(
        model="m", provider="p", output="hi", finish_reason="stop", latency_ms=1.0,
        usage=Usage(prompt_tokens=1, completion_tokens=1),
    ),
    cost_nano=7,
)  # fmt: skip
LOST = PriorAttempt(1, "m", "p", Outcome.UNKNOWN, 5)


class Desk:
    """The ledger, the publisher and the holds; all that they are told."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict, self.asked, self.told = verdict, list[Any](), list[Any]()
        self.published: list[tuple[Envelope, JobOutcome]] = []
        self.released: list[EntryRef] = []
        self.counted: list[JobOutcome] = []

    def ask(self, question: Check) -> asyncio.Future[Verdict]:
        self.asked.append(question)
        return _done(self.verdict)

    def tell(self, landing: Landing) -> None:
        self.told.append(landing)

    def finish(self, envelope: Envelope, outcome: JobOutcome, **_: object) -> asyncio.Future[Finish]:
        self.published.append((envelope, outcome))
        return _done(Finish.PUBLISHED)

    def release(self, ref: EntryRef) -> None:
        self.released.append(ref)

    def refuse(self, refused: Refused) -> asyncio.Future[Finish]:
        desk: Any = self
        refusals = Refusals(
            ledger=desk,
            publisher=desk,
            holds=desk,
            on_refusal=lambda one: self.counted.append(one.outcome),
        )
        return refusals.refuse(refused)


def _done(value: Any) -> asyncio.Future[Any]:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.set_result(value)
    return future


def refused(*, past: bool = True, client_id: str | None = None, stream_gone: bool = False) -> Refused:
    question = Check(ref=REF, digest="", tenant="t", client_id=client_id, redelivered=True)
    return Refused(
        BARE, "default", failed(ReplyToNotAllowed("no stream")), None, question if past else None,
        ASKED if stream_gone else None,
    )  # fmt: skip


async def test_a_job_that_nobody_had_is_refused_at_once() -> None:
    desk = Desk(Clear())
    assert await desk.refuse(refused(past=False)) is Finish.PUBLISHED
    assert desk.asked == []
    ((envelope, outcome),) = desk.published
    assert (envelope, desk.counted) == (BARE, [outcome])
    await asyncio.sleep(0)
    assert desk.released == [REF]


@pytest.mark.parametrize("client_id", [None, "mine"])
async def test_its_lost_calls_are_told_and_paid_for_and_its_id_is_free(client_id: str | None) -> None:
    desk = Desk(Clear((LOST,)))
    assert await desk.refuse(refused(client_id=client_id)) is Finish.PUBLISHED
    ((_, outcome),) = desk.published
    assert isinstance(outcome, Failed)
    assert (outcome.code, outcome.cost_nano) == ("reply_to_not_allowed", 5)
    assert [str(one.outcome) for one in outcome.attempts] == ["unknown"]
    freed = [(end.ref, end.outcome, end.client_id) for one in desk.told for end in one.ends]
    assert freed == ([] if client_id is None else [(REF, None, "mine")])


@pytest.mark.parametrize(("stream_gone", "envelope"), [(True, ASKED), (False, BARE)])
async def test_an_outcome_on_record_is_published_where_the_job_wants_it_if_only_a_key_is_in_the_way(
    stream_gone: bool, envelope: Envelope
) -> None:
    """The finish script puts it into the default stream then, and marks it; to a forbidden name nothing is written."""
    desk = Desk(Replay(encode_outcome(ANSWERED), own=True))
    assert await desk.refuse(refused(stream_gone=stream_gone)) is Finish.PUBLISHED
    ((where, outcome),) = desk.published
    assert where == envelope
    assert isinstance(outcome, Answered)
    assert outcome.cost_nano == 7


async def test_an_id_that_is_another_s_says_nothing_of_this_job() -> None:
    desk = Desk(Conflict())
    assert await desk.refuse(refused(client_id="mine")) is Finish.PUBLISHED
    ((_, outcome),) = desk.published
    assert (outcome.cost_nano, desk.told) == (0, [])
