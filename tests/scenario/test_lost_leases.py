"""A process stood still for longer than its leases: what peers took over is theirs, and is not paid for twice."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.fakes import MemoryBooks, MemoryLedger
from tests.scenario.stage import Stage, model, staged
from theo_daemon.job import EntryRef
from theo_daemon.ledger.shared import CircuitOpened, SharedStanding
from theo_workers.failures import FailureClass
from theo_workers.upstreams.script import Fate

SLOW = Fate(text="hello", latency_ms=1000)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with staged(model("m", SLOW, concurrency=1)) as stage:
        yield stage


def doubt(stage: Stage) -> None:
    """The leases may have ended."""
    stage.replies.kept_until = stage.clock.monotonic()


def be_sure(stage: Stage) -> None:
    stage.replies.kept_until = math.inf


async def test_nothing_is_called_for_until_the_leases_are_known_to_hold(stage: Stage) -> None:
    doubt(stage)
    ref = stage.push()
    await stage.advance(5)
    assert stage.upstreams["m"].prompts == []
    be_sure(stage)
    await stage.advance(2)
    assert stage.end(ref) == "ok"


async def test_what_a_peer_has_taken_over_is_neither_called_for_nor_answered(stage: Stage) -> None:
    doubt(stage)
    lost, kept = stage.push("lost", id="mine"), stage.push("kept")
    await stage.advance(1)
    stage.dispatcher.lose([lost])
    be_sure(stage)
    await stage.advance(3)
    assert stage.ends([lost, kept]) == ["waiting", "ok"]
    assert stage.upstreams["m"].prompts == ["kept"]
    assert lost in stage.replies.released
    assert stage.rows(
        "SELECT count(*) FROM inflight UNION ALL SELECT count(*) FROM attempts WHERE state = 'sent'"
    ) == [
        (0,),
        (0,),
    ]


async def test_a_call_that_is_on_record_goes_on_since_the_peer_waits_for_it(stage: Stage) -> None:
    ref = stage.push()
    await stage.advance(0.5)
    stage.dispatcher.lose([ref])
    await stage.advance(1)
    assert (stage.end(ref), stage.upstreams["m"].closed) == ("ok", [])


@pytest.mark.parametrize("lost", [0, 1], ids=["the first is lost", "the second is lost"])
async def test_who_shares_a_question_with_a_lost_job_is_answered(stage: Stage, lost: int) -> None:
    doubt(stage)
    refs = stage.push_all(["same", "same"])
    await stage.advance(1)
    stage.dispatcher.lose([refs[lost]])
    be_sure(stage)
    await stage.advance(3)
    assert (stage.end(refs[lost]), stage.end(refs[1 - lost])) == ("waiting", "ok")
    assert stage.upstreams["m"].prompts == ["same"]


async def test_a_job_that_waits_in_line_is_left_to_the_peer(stage: Stage) -> None:
    first = stage.push("first")
    await stage.advance(0.1)
    waiting = stage.push("waiting")
    await stage.advance(0.1)
    stage.dispatcher.lose([waiting])
    await stage.advance(5)
    assert stage.ends([first, waiting]) == ["ok", "waiting"]
    assert stage.upstreams["m"].prompts == ["first"]


async def test_a_claim_that_takes_longer_than_the_lease_is_given_back() -> None:
    books = MemoryBooks()
    async with staged(model("m", SLOW), books=books) as stage:
        assert isinstance(stage.ledger, MemoryLedger)
        stage.ledger._writer._lag = lambda: 1.0  # type: ignore[attr-defined]
        ref = stage.push()
        await stage.advance(0.5)
        doubt(stage)
        await stage.advance(5)
        assert stage.upstreams["m"].prompts == []
        assert stage.rows("SELECT state FROM attempts") == [("void",)]
        be_sure(stage)
        await stage.advance(10)
        assert stage.end(ref) == "ok"
    books.close()


async def test_a_claim_that_is_granted_as_its_entry_is_lost_is_not_sent(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both in one turn of the loop: the flight hears of its end after its worker has heard that it may call."""
    ask = stage.ledger.ask

    def losing(*asked: Any, **more: Any) -> Any:
        verdict = ask(*asked, **more)
        verdict.add_done_callback(lambda _: stage.dispatcher.lose([ref]))
        return verdict

    monkeypatch.setattr(stage.ledger, "ask", losing)
    ref = stage.push()
    await stage.advance(5)
    assert stage.upstreams["m"].prompts == []
    assert stage.end(ref) == "waiting"
    assert stage.rows("SELECT state FROM attempts") == [("void",)]
    assert stage.rows("SELECT count(*) FROM inflight") == [(0,)]


async def test_a_circuit_that_opened_while_the_leases_were_in_doubt_lets_nothing_out(stage: Stage) -> None:
    """What was admitted before the wait is admitted once more."""
    doubt(stage)
    waiting = stage.push("waiting")
    await stage.advance(1)
    assert stage.upstreams["m"].prompts == []
    opened = CircuitOpened("m", 0, int((stage.clock.wall() + 20) * 1000), 1)
    await stage.core.ledger.change(opened)
    stage.core.standings.learn((await stage.core.ledger.standings())[0])
    await stage.advance(1)
    be_sure(stage)
    await stage.advance(15)
    assert stage.upstreams["m"].prompts == []
    await stage.advance(5)
    assert (stage.upstreams["m"].prompts, stage.end(waiting)) == (["waiting"], "ok")


async def test_a_circuit_that_opened_while_the_claim_was_on_its_way_lets_nothing_out(stage: Stage) -> None:
    """A disk that is full for a while, say, holds it up; what others learnt meanwhile is known here all the same."""
    stage.ledger._writer._lag = lambda: 0.5  # type: ignore[attr-defined]
    ref = stage.push()
    await stage.advance(0.7)
    until_ms = int((stage.clock.wall() + 20) * 1000)
    stage.core.standings.learn(
        [SharedStanding(model="m", version=1, generation=1, openings=1, open_until_ms=until_ms)]
    )
    await stage.advance(15)
    assert stage.upstreams["m"].prompts == []
    assert stage.rows("SELECT state FROM attempts") == [("void",)]
    stage.ledger._writer._lag = lambda: 0.0  # type: ignore[attr-defined]
    await stage.advance(15)
    assert (stage.upstreams["m"].prompts, stage.end(ref)) == (["hi"], "ok")


async def test_a_failure_is_on_record_before_the_next_call_waits_for_leases_in_doubt() -> None:
    """Else a circuit would open when its time is long over, and a crash would book the call as lost."""
    failing = Fate(error="provider_unavailable", status_code=500, latency_ms=100)
    async with staged(model("m", failing), model("n", failing)) as stage:
        stage.push()
        await stage.advance(0.05)
        doubt(stage)
        await stage.advance(2)
        assert stage.rows("SELECT state FROM attempts") == [("failed",)]


STATES = "SELECT state, count(*) FROM attempts GROUP BY state ORDER BY 1"


async def test_what_its_first_owner_answered_while_it_waited_here_is_not_called_for_again(
    stage: Stage,
) -> None:
    """That one had been taken for dead, came back, answered, and its ledger forgot what is published."""
    stage.push("blocks")
    answered, mine = stage.entry("answered", cache="off"), stage.entry("mine")
    stage.dispatcher.deliver([one._replace(redelivered=True) for one in (answered, mine)])
    await stage.advance(0.5)
    stage.replies.answered_by_peers.add(answered.ref)
    await stage.advance(5)
    assert stage.ends([answered.ref, mine.ref]) == ["waiting", "ok"]
    assert stage.upstreams["m"].prompts == ["blocks", "mine"]
    assert stage.rows(STATES) == [("ok", 2), ("void", 1)]
    assert stage.rows("SELECT count(*) FROM inflight") == [(0,)]
    assert stage.dispatcher.held == 0


async def test_while_nobody_can_say_whether_it_was_answered_it_is_not_called_for(stage: Stage) -> None:
    """Redis is away; what its first owner had to say may be the last thing that it took."""
    answered, mine = stage.entry("answered", cache="off"), stage.entry("mine")
    stage.replies.away = True
    stage.dispatcher.deliver([one._replace(redelivered=True) for one in (answered, mine)])
    await stage.advance(3)
    assert stage.calls == 0
    assert stage.rows("SELECT count(*) <= 2 * 3 / 0.2 FROM attempts") == [(1,)]
    assert stage.rows("SELECT DISTINCT state FROM attempts") == [("void",)]
    stage.replies.away = False
    stage.replies.answered_by_peers.add(answered.ref)
    await stage.advance(5)
    assert stage.ends([answered.ref, mine.ref]) == ["waiting", "ok"]
    assert stage.upstreams["m"].prompts == ["mine"]
    assert stage.dispatcher.held == 0


async def test_who_waits_for_the_same_answer_is_called_for_though_the_first_of_them_has_its_own(
    stage: Stage,
) -> None:
    answered, other = stage.entry("same"), stage.entry("same")
    stage.replies.answered_by_peers.add(answered.ref)
    stage.dispatcher.deliver([answered._replace(redelivered=True), other])
    await stage.advance(3)
    assert stage.ends([answered.ref, other.ref]) == ["waiting", "ok"]
    assert not stage.ok(other.ref).coalesced
    assert stage.rows(STATES) == [("ok", 1), ("void", 1)]
    assert stage.dispatcher.held == 0


async def test_a_job_withdrawn_while_that_is_asked_leaves_no_claim(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(_ref: EntryRef) -> bool:
        await asyncio.Event().wait()
        return False

    monkeypatch.setattr(stage.replies, "answered", never)
    entry = stage.entry("x", ttl_ms=2_000)
    stage.dispatcher.deliver([entry._replace(redelivered=True)])
    await stage.advance(3)
    assert stage.end(entry.ref) == "deadline_exceeded"
    assert stage.rows(STATES) == [("void", 1)]
    assert stage.rows("SELECT count(*) FROM inflight") == [(0,)]


async def test_the_ended_call_of_a_job_that_a_peer_may_have_is_told_with_that_job_alone() -> None:
    """The peer finds it on record for its entry, and tells and charges it there."""
    billed = Fate(
        error="provider_unavailable", failure=FailureClass.MAYBE, status_code=200, message="no JSON",
        latency_ms=100,
    )  # fmt: skip
    async with staged(model("m", billed, SLOW, output_cost_per_mtok=1.0, max_output_tokens=1000)) as stage:
        leaver, stayer = stage.push("same"), stage.push("same")
        await stage.advance(0.15)
        doubt(stage)  # the second call waits
        await stage.advance(0.5)
        stage.cancel(leaver.entry_id)
        await stage.advance(0.1)
        be_sure(stage)
        await stage.advance(5)
        assert [str(one.outcome) for one in stage.outcome(stayer).attempts] == ["ok"]
        assert stage.rows("SELECT state, entry_id FROM attempts ORDER BY id") == [
            ("maybe", leaver.entry_id),
            ("ok", stayer.entry_id),
        ]
        left = stage.outcome(leaver)
        assert [str(one.outcome) for one in left.attempts] == ["maybe"]
        assert left.cost_nano > 0
