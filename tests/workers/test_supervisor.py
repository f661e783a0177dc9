"""Restarts within a budget, and the drain."""

from __future__ import annotations

import asyncio

import pytest
from worker_fakes import HANG, Listener, Stage, outcome

from theo_workers.clock import FakeClock
from theo_workers.errors import WorkerStopped
from theo_workers.supervisor import CrashedTooOften, RestartBudget, Supervisor


class Crasher:
    """Crashes whenever it is told to, and notes how often it was run."""

    name = "crasher"

    def __init__(self) -> None:
        self.runs = 0
        self.cancelled = False
        self._order: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        self.runs += 1
        self._order = asyncio.get_running_loop().create_future()
        try:
            await self._order
        except asyncio.CancelledError:
            self.cancelled = True
            raise

    def crash(self) -> None:
        self._order.set_exception(LookupError("planted"))

    def drain(self) -> None:
        if not self._order.done():
            self._order.set_result(None)


@pytest.mark.parametrize(
    ("crashes_at", "allowed"),
    [
        ([0.0] * 5, [True] * 5),
        ([0.0] * 6, [True] * 5 + [False]),
        ([0.0, 10.0, 20.0, 30.0, 40.0, 59.9], [True] * 5 + [False]),
        ([0.0, 10.0, 20.0, 30.0, 40.0, 60.0, 69.0], [True] * 6 + [False]),
    ],
)
def test_the_budget_allows_five_restarts_in_any_sixty_seconds(
    crashes_at: list[float], allowed: list[bool]
) -> None:
    budget = RestartBudget()
    assert [budget.spend("fast", now) for now in crashes_at] == allowed


def test_each_actor_has_a_budget_of_its_own() -> None:
    budget = RestartBudget(restarts=1)
    assert [budget.spend(name, 0.0) for name in ("a", "b", "a")] == [True, True, False]


async def test_a_crashed_actor_runs_again_and_the_crash_is_heard_of() -> None:
    clock, listener, crasher = FakeClock(), Listener(), Crasher()
    supervising = asyncio.create_task(Supervisor([crasher], clock=clock, observer=listener).run())
    await clock.advance(0)
    crasher.crash()
    await clock.advance(0)
    assert crasher.runs == 2
    assert [type(error) for error in listener.defects] == [LookupError]
    crasher.drain()
    await supervising


async def test_one_crash_too_many_ends_everything_with_its_cause() -> None:
    clock, crasher, bystander = FakeClock(), Crasher(), Crasher()
    bystander.name = "bystander"
    supervisor = Supervisor([crasher, bystander], clock=clock, observer=Listener())
    supervising = asyncio.create_task(supervisor.run())
    await clock.advance(0)
    for _ in range(6):
        assert not supervising.done()
        crasher.crash()
        await clock.advance(1)
    error = supervising.exception()
    assert isinstance(error, CrashedTooOften)
    assert isinstance(error.__cause__, LookupError)
    assert (crasher.runs, bystander.runs, bystander.cancelled) == (6, 1, True)


async def test_crashes_far_apart_never_exhaust_the_budget() -> None:
    clock, crasher = FakeClock(), Crasher()
    supervising = asyncio.create_task(Supervisor([crasher], clock=clock, observer=Listener()).run())
    for _ in range(20):
        await clock.advance(13)
        crasher.crash()
    await clock.advance(0)
    assert crasher.runs == 21
    crasher.drain()
    await supervising


async def test_a_restarted_worker_serves_again() -> None:
    stage = Stage()
    supervisor = Supervisor([stage.worker], clock=stage.clock, observer=stage.listener)
    supervising = asyncio.create_task(supervisor.run())
    stage.listener.crash_on_attempt = True
    assert await stage.outcomes(2) == ["Completed", "Completed"]
    assert [type(error) for error in stage.listener.defects] == [LookupError]
    await supervisor.drain(stage.clock.monotonic() + 1)
    await supervising


async def test_a_drain_waits_for_sent_calls() -> None:
    stage = Stage(takes_s=5.0)
    supervisor = Supervisor([stage.worker], clock=stage.clock, observer=stage.listener)
    supervising = asyncio.create_task(supervisor.run())
    reply = stage.submit()
    await stage.clock.advance(1)
    draining = asyncio.create_task(supervisor.drain(stage.clock.monotonic() + 30))
    await stage.clock.advance(3.9)
    assert not draining.done()
    await stage.clock.advance(0.1)
    assert outcome(reply) == "Completed"
    assert draining.done()
    assert supervising.done()


async def test_a_drain_cancels_what_is_left_at_its_deadline() -> None:
    stage = Stage(takes_s=HANG)
    supervisor = Supervisor([stage.worker], clock=stage.clock, observer=stage.listener)
    supervising = asyncio.create_task(supervisor.run())
    reply = stage.submit()
    await stage.clock.advance(1)
    draining = asyncio.create_task(supervisor.drain(stage.clock.monotonic() + 30))
    await stage.clock.advance(29.9)
    assert not draining.done()
    await stage.clock.advance(0.2)
    assert draining.done()
    error = reply.exception()
    assert isinstance(error, WorkerStopped)
    assert error.sent
    assert (stage.upstream.closed_early, supervising.done()) == (1, True)


async def test_an_actor_that_crashes_while_draining_is_not_revived() -> None:
    stage = Stage(takes_s=1.0)
    supervisor = Supervisor([stage.worker], clock=stage.clock, observer=stage.listener)
    supervising = asyncio.create_task(supervisor.run())
    stage.submit()
    await stage.clock.advance(0.5)
    draining = asyncio.create_task(supervisor.drain(stage.clock.monotonic() + 30))
    stage.listener.crash_on_attempt = True
    await stage.clock.advance(1)
    assert [type(error) for error in stage.listener.defects] == [LookupError]
    assert draining.done()
    assert supervising.exception() is None


async def test_cancelling_the_supervisor_cancels_its_actors() -> None:
    clock, crasher = FakeClock(), Crasher()
    supervising = asyncio.create_task(Supervisor([crasher], clock=clock, observer=Listener()).run())
    await clock.advance(0)
    supervising.cancel()
    await clock.advance(0)
    assert supervising.cancelled()
    assert crasher.cancelled
