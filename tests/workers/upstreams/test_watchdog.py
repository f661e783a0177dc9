from __future__ import annotations

import asyncio

from theo_workers.clock import FakeClock
from theo_workers.upstreams.watchdog import READ_WITHIN_S, STOOD_STILL_S, Phase, Watchdog


class CountingClock(FakeClock):
    """Counts the alarms that are armed."""

    armed = 0

    def call_at(self, deadline: float, callback: asyncio.Future[None]) -> asyncio.TimerHandle | None:
        self.armed += 1
        return super().call_at(deadline, callback)


async def waits_for_ever() -> None:
    await asyncio.get_running_loop().create_future()


def begin() -> asyncio.Task[object]:
    return asyncio.ensure_future(waits_for_ever())


async def test_cancels_exactly_the_overdue_ones_when_they_are_due() -> None:
    clock = FakeClock()
    dog = Watchdog(clock)
    tasks = [begin() for _ in range(3)]
    watches = [dog.start(task, s, deadline=2_000) for task, s in zip(tasks, (3, 1, 2), strict=True)]
    await clock.advance(0.9)
    assert [watch.fired for watch in watches] == [False, False, False]
    await clock.advance(0.1)
    assert [watch.fired for watch in watches] == [False, True, False]
    await clock.advance(1)
    assert [task.cancelled() for task in tasks] == [False, True, True]
    tasks[0].cancel()


async def test_a_later_phase_can_be_due_earlier_or_later() -> None:
    clock = FakeClock()
    dog = Watchdog(clock)
    shortened, extended = begin(), begin()
    dog.move(dog.start(shortened, 50, deadline=2_000), Phase.BODY, 1)
    dog.move(dog.start(extended, 1, deadline=2_000), Phase.FIRST_BYTE, 50)
    await clock.advance(1)
    assert (shortened.cancelled(), extended.cancelled()) == (True, False)
    await clock.advance(49)
    assert extended.cancelled()


async def test_no_phase_outlasts_the_deadline() -> None:
    clock = FakeClock()
    dog = Watchdog(clock)
    task = begin()
    dog.move(dog.start(task, 50, deadline=clock.monotonic() + 2), Phase.BODY, 50)
    await clock.advance(2)
    assert task.cancelled()


async def test_calls_that_end_in_time_arm_no_alarm_of_their_own() -> None:
    clock = CountingClock()
    dog = Watchdog(clock)
    task = begin()
    for _ in range(1_000):
        watch = dog.start(task, 5, deadline=2_000)
        dog.move(watch, Phase.FIRST_BYTE, 120)
        dog.stop(watch)
        await clock.advance(0.001)
    assert clock.armed == 1
    task.cancel()


async def test_nothing_rings_after_close() -> None:
    clock = FakeClock()
    dog = Watchdog(clock)
    task = begin()
    watch = dog.start(task, 1, deadline=2_000)
    dog.close()
    dog.close()
    await clock.advance(2)
    assert not watch.fired
    task.cancel()


class JumpingClock(FakeClock):
    """As a process sees time that was stopped and goes on: the next timers ring late, all at once."""

    def jump(self, seconds: float) -> None:
        self._now += seconds
        while self._timers and self._timers[0][0] <= self._now:
            ringing = self._timers.pop(0)[2]
            if not ringing.done():
                ringing.set_result(None)


async def test_what_came_while_the_process_stood_still_is_read_before_its_call_is_given_up() -> None:
    clock = JumpingClock()
    dog = Watchdog(clock)
    answered, silent = begin(), begin()
    watch, _ = dog.start(answered, 1, deadline=2_000), dog.start(silent, 1, deadline=2_000)
    clock.jump(3)
    await asyncio.sleep(0)
    assert not watch.fired
    dog.stop(watch)  # its answer lay there
    await clock.advance(READ_WITHIN_S)
    assert (answered.cancelled(), silent.cancelled()) == (False, True)
    answered.cancel()


async def test_a_process_that_is_merely_busy_gives_calls_up_at_once() -> None:
    clock = JumpingClock()
    dog = Watchdog(clock)
    task = begin()
    dog.start(task, 1, deadline=2_000)
    clock.jump(1 + STOOD_STILL_S / 2)
    for _ in range(3):
        await asyncio.sleep(0)
    assert task.cancelled()
