"""Entries that were read and are nobody's, on a real server: found in the gaps between pending ones."""

from __future__ import annotations

from typing import Any

import pytest

from theo_daemon.keys import Keys
from theo_daemon.scout_scripts import TAKE_EARLY
from theo_daemon.strays import PAGE, Strays
from theo_daemon.wire import Wire

GROUP, ME, PEER = "g", "me", "peer"
IDLE_MS = 60_000


class Desk:
    """A job stream, what was read from it, and what an operator did to that."""

    def __init__(self, wire: Wire, keys: Keys) -> None:
        self.wire, self.stream = wire, keys.jobs()
        self.strays = Strays(wire, [self.stream], group=GROUP, consumer=ME, idle_ms=IDLE_MS)

    async def push(self, count: int) -> list[str]:
        added = await self.wire.ask_all([("XADD", self.stream, "*", "prompt", "x")] * count)
        return [one.decode() for one in added]

    async def read(self, count: int, consumer: str = PEER) -> None:
        await self.wire.ask(
            "XREADGROUP", "GROUP", GROUP, consumer, "COUNT", count, "STREAMS", self.stream, ">"
        )

    async def ack(self, ids: list[str]) -> None:
        await self.wire.ask("XACK", self.stream, GROUP, *ids)

    async def pending(self) -> dict[str, tuple[str, bool, int]]:
        """Owner, whether its lease is over, and deliveries of each."""
        rows: list[Any] = await self.wire.ask("XPENDING", self.stream, GROUP, "-", "+", 10_000)
        return {row[0].decode(): (row[1].decode(), row[2] >= IDLE_MS, row[3]) for row in rows}

    async def look(self) -> int:
        return (await self.strays.look()).get(self.stream, 0)


RESTORED = (ME, True, 1)
KEPT = (PEER, False, 1)


@pytest.fixture
async def desk(wire: Wire, keys: Keys) -> Desk:
    await wire.ask("XGROUP", "CREATE", keys.jobs(), GROUP, "0", "MKSTREAM")
    return Desk(wire, keys)


async def test_where_nothing_is_missing_nothing_is_touched(desk: Desk) -> None:
    assert await desk.look() == 0
    ids = await desk.push(10)
    assert await desk.look() == 0
    await desk.read(7)
    assert await desk.look() == 0
    assert await desk.pending() == dict.fromkeys(ids[:7], KEPT)


async def test_what_was_acknowledged_and_not_answered_is_pending_again_and_free_to_be_taken(
    desk: Desk,
) -> None:
    ids = await desk.push(10)
    await desk.read(8)
    stray = [ids[0], ids[3], ids[4], ids[7]]
    await desk.ack(stray)
    assert await desk.look() == 4
    assert await desk.pending() == {one: RESTORED if one in stray else KEPT for one in ids[:8]}
    assert await desk.look() == 0
    await desk.read(10)
    assert set(await desk.pending()) == set(ids)


async def test_what_a_deleted_consumer_held_is_pending_again(desk: Desk) -> None:
    ids = await desk.push(6)
    await desk.read(3, "victim")
    await desk.read(3)
    await desk.wire.ask("XGROUP", "DELCONSUMER", desk.stream, GROUP, "victim")
    assert await desk.look() == 3
    assert await desk.pending() == dict(zip(ids, [RESTORED] * 3 + [KEPT] * 3, strict=True))


@pytest.mark.parametrize("pending_every", [1_000, 2, 1])
async def test_any_number_is_found_page_by_page(desk: Desk, pending_every: int) -> None:
    ids = await desk.push(5 * PAGE + 1)
    await desk.read(len(ids))
    stray = [one for number, one in enumerate(ids) if number % pending_every or number == len(ids) - 1]
    await desk.ack(stray)
    looks = [await desk.look() for _ in range(12)]
    assert (sum(looks), max(looks) <= PAGE) == (len(stray), True)
    assert set(await desk.pending()) == set(ids)


async def test_a_job_taken_before_its_time_and_those_before_it_are_left_alone(desk: Desk, keys: Keys) -> None:
    ids = await desk.push(6)
    await desk.read(2)
    await desk.wire.run(TAKE_EARLY, (desk.stream, keys.early), (GROUP, PEER, 60_000, ids[4]))
    assert await desk.look() == 0
    assert set(await desk.pending()) == {ids[0], ids[1], ids[4]}
    await desk.ack([ids[1]])
    assert await desk.look() == 1
    assert set(await desk.pending()) == {ids[0], ids[1], ids[4]}


async def test_what_waits_for_a_group_that_was_made_anew_waits_for_it(desk: Desk) -> None:
    ids = await desk.push(3)
    await desk.read(3)
    await desk.wire.ask("XGROUP", "DESTROY", desk.stream, GROUP)
    assert await desk.look() == 0
    await desk.wire.ask("XGROUP", "CREATE", desk.stream, GROUP, "0")
    assert await desk.look() == 0
    await desk.read(3)
    assert await desk.pending() == dict.fromkeys(ids, KEPT)


async def test_a_stream_of_another_type_or_none_is_passed_over(desk: Desk) -> None:
    await desk.wire.ask("DEL", desk.stream)
    assert await desk.look() == 0
    await desk.wire.ask("SET", desk.stream, "x")
    assert await desk.look() == 0
