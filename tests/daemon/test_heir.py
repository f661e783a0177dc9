"""Taking over from the dead: at once what there is room for, the rest later, and not for ever."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.fakes import VirtualClock, settle
from theo_daemon.heir import FULL_S, Heir

LEASE_S = 30.0


class Estate:
    """What the dead hold, and how much of it there is room for at a look."""

    def __init__(self, **held: int) -> None:
        self.held, self.room, self.away = held, 100, False
        self.looks: list[str] = []

    async def take_over(self, consumer: str) -> int:
        self.looks.append(consumer)
        if self.away:
            raise RedisConnectionError("away")
        self.held[consumer] -= min(self.room, self.held[consumer])
        return self.held[consumer]


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
async def heir(clock: VirtualClock) -> Heir:
    return Heir(lease_s=LEASE_S, clock=clock, rng=random.Random(1))


@contextlib.asynccontextmanager
async def inheriting(heir: Heir, estate: Estate) -> AsyncIterator[None]:
    task = asyncio.ensure_future(heir.run(estate.take_over))
    await settle()
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_what_a_dead_process_held_is_taken_at_once_with_one_look(
    heir: Heir, clock: VirtualClock
) -> None:
    estate = Estate(old=7)
    heir.inherit("old")  # before anybody takes over, as when a process has just been started
    async with inheriting(heir, estate):
        await clock.advance(2 * LEASE_S)
    assert estate.held == {"old": 0}
    assert estate.looks == ["old"]


async def test_what_there_was_no_room_for_is_taken_as_room_comes_and_no_other_dead_waits_for_it(
    heir: Heir, clock: VirtualClock
) -> None:
    estate = Estate(big=5, small=1)
    estate.room = 2
    async with inheriting(heir, estate):
        heir.inherit("big")
        heir.inherit("small")
        await clock.advance(FULL_S)
        assert estate.held == {"big": 1, "small": 0}
        await clock.advance(FULL_S)
    assert estate.held == {"big": 0, "small": 0}


async def test_redis_being_away_puts_it_off_until_it_is_back(heir: Heir, clock: VirtualClock) -> None:
    estate = Estate(old=1)
    estate.away = True
    async with inheriting(heir, estate):
        heir.inherit("old")
        await clock.advance(5.0)
        assert 3 <= len(estate.looks) <= 12, "neither gives up nor spins"
        estate.away = False
        await clock.advance(5.0)
    assert estate.held == {"old": 0}


async def test_after_the_lease_it_is_left_to_everybody_s_looks(heir: Heir, clock: VirtualClock) -> None:
    estate = Estate(old=1)
    estate.room = 0
    async with inheriting(heir, estate):
        heir.inherit("old")
        await clock.advance(LEASE_S + FULL_S)
        looks = len(estate.looks)
        await clock.advance(LEASE_S)
    assert len(estate.looks) == looks
