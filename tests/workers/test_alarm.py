"""One timer for many moments."""

from __future__ import annotations

import pytest

from theo_workers.alarm import Alarm
from theo_workers.clock import FakeClock

START = 1_000.0


@pytest.mark.parametrize(
    ("asked_for", "rings"),
    [
        ([], []),
        ([None], []),
        ([5.0], [5.0]),
        ([5.0, 10.0], [5.0]),
        ([10.0, 5.0], [5.0]),
        ([10.0, 5.0, 5.0, None, 7.0], [5.0]),
        ([-1.0], [0.0]),
    ],
)
async def test_rings_once_at_the_earliest_moment_asked_for(
    asked_for: list[float | None], rings: list[float]
) -> None:
    clock, heard = FakeClock(monotonic=START), list[float]()
    alarm = Alarm(clock, lambda: heard.append(clock.monotonic() - START))
    for at in asked_for:
        alarm.arm(None if at is None else START + at)
    for _ in range(20):
        await clock.advance(1)
    assert heard == rings


async def test_rings_again_when_asked_again() -> None:
    clock, heard = FakeClock(monotonic=START), list[float]()

    def ring() -> None:
        heard.append(clock.monotonic() - START)
        if len(heard) < 3:
            alarm.arm(clock.monotonic() + 2)

    alarm = Alarm(clock, ring)
    alarm.arm(START + 1)
    await clock.advance(10)
    assert heard == [1.0, 3.0, 5.0]


async def test_is_silent_once_disarmed() -> None:
    clock, heard = FakeClock(monotonic=START), list[float]()
    alarm = Alarm(clock, lambda: heard.append(clock.monotonic()))
    alarm.arm(START + 5)
    alarm.disarm()
    await clock.advance(10)
    assert heard == []
