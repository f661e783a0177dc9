"""Calls that may have been billed count over all processes: who takes a job over goes on where the dead one was."""

from __future__ import annotations

import pytest

from tests.fakes import MemoryBooks, MemoryLedger, VirtualClock
from tests.scenario.stage import Stage, model, staged
from tests.scenario.test_crash_points import again, entry, told
from theo_daemon.job import Delivery
from theo_workers.failures import FailureClass
from theo_workers.upstreams.script import Fate

BILLED = Fate(
    error="provider_unavailable",
    failure=FailureClass.MAYBE,
    status_code=200,
    message="no JSON",
    latency_ms=100,
)
HELLO = Fate(text="hello", latency_ms=100)


async def fail_once_and_die(books: MemoryBooks, clock: VirtualClock, job: Delivery) -> None:
    """A call that may have been billed, and then the end in the middle of the next one."""
    dying = model("a", BILLED, Fate(hang=True))
    async with staged(dying, books=books, clock=clock, name="victim", routing={"max_attempts": 2}) as victim:
        victim.dispatcher.deliver([job])
        await victim.advance(2)
        assert len(victim.upstreams["a"].prompts) == 2
        assert isinstance(victim.ledger, MemoryLedger)
        victim.ledger.kill()


async def taken_over(heir: Stage, job: Delivery) -> list[str]:
    await heir.advance(2)  # the death is noticed
    heir.dispatcher.deliver([again(job)])
    await heir.advance(5)
    return [heir.end(job.ref), *told(heir.outcome(job.ref))]


@pytest.fixture
def books() -> MemoryBooks:
    return MemoryBooks()


async def test_no_more_calls_are_made_than_all_processes_together_may(books: MemoryBooks) -> None:
    clock, job = VirtualClock(), entry(prompt="hi")
    await fail_once_and_die(books, clock, job)
    async with staged(
        model("a", HELLO), books=books, clock=clock, name="heir", routing={"max_attempts": 2}
    ) as heir:
        assert await taken_over(heir, job) == ["outcome_unknown", "maybe", "unknown"]
        assert heir.upstreams["a"].prompts == []


async def test_a_candidate_that_was_not_tried_yet_is_tried_all_the_same(books: MemoryBooks) -> None:
    clock, job = VirtualClock(), entry(prompt="hi")
    await fail_once_and_die(books, clock, job)
    models = (model("a", HELLO), model("b", HELLO))
    async with staged(*models, books=books, clock=clock, name="heir", routing={"max_attempts": 2}) as heir:
        assert await taken_over(heir, job) == ["ok", "maybe", "unknown", "ok"]
        assert (heir.upstreams["a"].prompts, heir.upstreams["b"].prompts) == ([], ["hi"])


async def test_a_call_that_goes_on_for_another_job_is_told_by_that_one_alone(books: MemoryBooks) -> None:
    """Also where the job that leaves is looked up in the books, which have the call under its entry."""
    clock, leaver, stayer = VirtualClock(), entry(1, prompt="hi"), entry(2, prompt="hi")
    async with staged(model("a", Fate(hang=True)), books=books, clock=clock, name="victim") as victim:
        victim.dispatcher.deliver([leaver])
        await victim.advance(1)
        assert isinstance(victim.ledger, MemoryLedger)
        victim.ledger.kill()
    slow = Fate(text="hello", latency_ms=2_000)
    async with staged(model("a", BILLED, slow), books=books, clock=clock, name="heir") as heir:
        await heir.advance(2)
        heir.dispatcher.deliver([again(leaver), stayer])
        await heir.advance(1.5)
        assert len(heir.upstreams["a"].prompts) == 2, "one has failed, the other is out"
        heir.cancel(leaver.ref.entry_id)
        await heir.advance(5)
        left, answered = heir.outcome(leaver.ref), heir.outcome(stayer.ref)
    assert told(left) == ["unknown"]
    assert told(answered) == ["maybe", "ok"]
    ((charged,),) = books.rows("SELECT sum(cost_nano) FROM attempts")
    assert charged == left.cost_nano + answered.cost_nano


async def test_a_call_that_a_drain_has_cut_off_is_not_sent_again_where_that_is_forbidden(
    books: MemoryBooks,
) -> None:
    clock = VirtualClock()
    strict, other = entry(1, prompt="strict", on_unknown="fail"), entry(2, prompt="other")
    async with staged(model("a", Fate(hang=True)), books=books, clock=clock, name="leaver") as leaver:
        leaver.dispatcher.deliver([strict, other])
        await leaver.advance(1)
        assert await leaver.dispatcher.drain() == []
        await leaver.dispatcher.stop()  # drain_s is over
    async with staged(model("a", HELLO), books=books, clock=clock, name="heir") as heir:
        assert await taken_over(heir, strict) == ["outcome_unknown", "cancelled"]
        assert await taken_over(heir, other) == ["ok", "cancelled", "ok"]
        assert heir.upstreams["a"].prompts == ["other"]


async def test_a_job_whose_call_a_drain_has_cut_off_keeps_its_id(books: MemoryBooks) -> None:
    """Else a push of another payload takes it, and nobody is told what the call cost."""
    clock = VirtualClock()
    first, newcomer = entry(1, prompt="first", id="x"), entry(2, prompt="another", id="x")
    async with staged(model("a", Fate(hang=True)), books=books, clock=clock, name="leaver") as leaver:
        leaver.dispatcher.deliver([first])
        await leaver.advance(1)
        assert await leaver.dispatcher.drain() == []
        await leaver.dispatcher.stop()
    async with staged(model("a", HELLO), books=books, clock=clock, name="heir") as heir:
        heir.dispatcher.deliver([newcomer])
        await heir.advance(1)
        assert await taken_over(heir, first) == ["ok", "cancelled", "ok"]
        assert heir.end(newcomer.ref) == "id_conflict"
