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
