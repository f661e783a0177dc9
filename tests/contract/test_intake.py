"""Reading from a real server: what is seen, in which shares, how soon, and after which disasters."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.doubles import RecordedEvents, running, until
from theo_daemon.embedded_valkey import EmbeddedValkey
from theo_daemon.held import HeldEntries, Room
from theo_daemon.intake import IntakeRules, StreamIntake
from theo_daemon.job import Delivery
from theo_daemon.keys import Keys
from theo_daemon.levelling import LevelRules
from theo_daemon.redis_link import RedisLink
from theo_daemon.wire import Wire
from theo_workers.clock import SystemClock

GROUP = "theo"
LANES = {"high": 6, "default": 3, "low": 1}


class Reader:
    """An intake that remembers what it delivered; entries stay held until the test releases them."""

    def __init__(
        self, link: RedisLink, keys: Keys, *, name: str = "me", room: int = 1_000, **rules: Any
    ) -> None:
        self.seen: list[Delivery] = []
        self.batches: list[int] = []
        self.held, self.events, self.wire, self.most = HeldEntries(), RecordedEvents(), link.wire(), room
        self.arrived = asyncio.Event()
        self.intake = StreamIntake(
            wire=self.wire,
            keys=keys,
            rules=IntakeRules(group=GROUP, lanes=LANES, **rules),
            consumer=name,
            held=self.held,
            room=lambda: Room(self.most - len(self.held), 1_000_000_000),
            events=self.events,
            clock=SystemClock(),
            rng=random.Random(1),
        )

    def deliver(self, batch: Sequence[Delivery]) -> None:
        self.seen += batch
        self.batches.append(len(batch))
        self.arrived.set()

    def run(self) -> Any:
        return running(self.intake.run(self.deliver))

    def saw(self, count: int) -> Callable[[], bool]:
        return lambda: len(self.seen) >= count

    @property
    def ids(self) -> list[str]:
        return [delivery.ref.entry_id for delivery in self.seen]


async def push(wire: Wire, key: str, count: int = 1) -> list[str]:
    added = await wire.ask_all([("XADD", key, "*", "prompt", "hi")] * count)
    return [entry_id.decode() for entry_id in added]


async def is_waiting(wire: Wire) -> bool:
    return b"blocked_clients:0" not in await wire.ask("INFO", "clients")


async def test_sees_jobs_that_were_pushed_before_the_first_start(
    link: RedisLink, keys: Keys, wire: Wire
) -> None:
    ids = await push(wire, keys.jobs(), 3)
    reader = Reader(link, keys)
    async with reader.run():
        await until(reader.saw(3))
    assert reader.ids == ids
    assert reader.events.names.count("group_created") == len(LANES)


async def test_processes_that_start_at_once_share_one_group(link: RedisLink, keys: Keys, wire: Wire) -> None:
    ids = await push(wire, keys.jobs(), 50)
    readers = [Reader(link, keys, name=f"c{number}") for number in range(5)]
    async with readers[0].run(), readers[1].run(), readers[2].run(), readers[3].run(), readers[4].run():
        await until(lambda: sum(len(reader.seen) for reader in readers) >= 50)
    assert sorted(entry_id for reader in readers for entry_id in reader.ids) == sorted(ids)
    assert sum(reader.events.names.count("group_created") for reader in readers) == len(LANES)


async def test_fields_given_twice_and_bytes_of_any_kind_are_visible(
    link: RedisLink, keys: Keys, wire: Wire
) -> None:
    blob = bytes(range(256))
    await wire.ask("XADD", keys.jobs("low"), "*", "prompt", "a", "prompt", blob, b"\xff", "")
    reader = Reader(link, keys)
    async with reader.run():
        await until(reader.saw(1))
    (delivery,) = reader.seen
    assert delivery.fields == [b"prompt", b"a", b"prompt", blob, b"\xff", b""]
    assert (delivery.lane, delivery.ref.stream) == ("low", keys.jobs("low"))


@pytest.mark.parametrize(("room", "shares"), [(10, (6, 3, 1)), (100, (60, 30, 10))])
async def test_lanes_are_read_by_weight_while_all_wait(
    link: RedisLink, keys: Keys, wire: Wire, room: int, shares: tuple[int, int, int]
) -> None:
    for lane in LANES:
        await push(wire, keys.jobs(lane), 200)
    reader = Reader(link, keys, room=room, level=LevelRules(base=1_000))
    async with reader.run():
        await until(reader.saw(room))
    read = Counter(delivery.lane for delivery in reader.seen)
    assert (read["high"], read["default"], read["low"]) == shares


async def test_what_one_lane_leaves_the_others_get(link: RedisLink, keys: Keys, wire: Wire) -> None:
    await push(wire, keys.jobs("low"), 40)
    reader = Reader(link, keys, room=40)
    async with reader.run():
        await until(reader.saw(40))


@pytest.mark.parametrize("lane", LANES)
async def test_a_job_on_any_lane_wakes_a_waiting_reader_at_once(
    link: RedisLink, keys: Keys, wire: Wire, lane: str
) -> None:
    reader = Reader(link, keys, block_s=5.0)
    took = []
    async with reader.run():
        for _ in range(3):
            await until(lambda: is_waiting(wire))
            reader.arrived.clear()
            pushed_at = time.monotonic()
            await push(wire, keys.jobs(lane))
            await asyncio.wait_for(reader.arrived.wait(), 4)
            took.append(time.monotonic() - pushed_at)
    assert min(took) < 0.05  # a busy machine may delay one of them


async def test_reads_nothing_without_room_and_goes_on_when_there_is(
    link: RedisLink, keys: Keys, wire: Wire
) -> None:
    ids = await push(wire, keys.jobs(), 7)
    reader = Reader(link, keys, room=3)
    async with reader.run():
        for already in range(0, 7, 3):
            await until(reader.saw(min(7, already + 3)))
            assert len(reader.held) <= 3
            assert (await wire.ask("XPENDING", keys.jobs(), GROUP))[0] == min(7, already + 3)
            for ref in list(reader.held):
                reader.held.release(ref)
    assert reader.ids == ids


async def test_stop_cuts_a_waiting_read_off(link: RedisLink, keys: Keys, wire: Wire) -> None:
    reader = Reader(link, keys, block_s=60.0)
    async with reader.run() as task:
        await until(lambda: is_waiting(wire))
        reader.intake.stop()
        await asyncio.wait_for(task, 1)
    assert not reader.intake.connected


@pytest.mark.parametrize("base", [1, 1_000])
async def test_stop_ends_a_reader_without_room(link: RedisLink, keys: Keys, wire: Wire, base: int) -> None:
    await push(wire, keys.jobs(), 10)
    reader = Reader(link, keys, room=4, level=LevelRules(base=base))
    async with reader.run() as task:
        await until(reader.saw(4))
        reader.intake.stop()
        await asyncio.wait_for(task, 1)


async def test_heals_a_lost_group_while_waiting_and_reads_on(own_valkey: EmbeddedValkey, keys: Keys) -> None:
    link = RedisLink(own_valkey.url)
    wire, reader = link.wire(), Reader(link, keys, block_s=0.5)
    async with reader.run():
        for lost in range(1, 4):
            await until(lambda: is_waiting(wire))
            await wire.ask("FLUSHALL")
            await push(wire, keys.jobs("high"), 2)
            await until(reader.saw(2 * lost))
    assert len(set(reader.ids)) == 6
    assert reader.events.names.count("group_created") >= 4 * len(LANES) - 2
    assert "redis_lost" not in reader.events.names
    await wire.close()


async def test_an_entry_that_is_delivered_again_is_not_worked_on_twice(
    link: RedisLink, keys: Keys, wire: Wire
) -> None:
    ids = await push(wire, keys.jobs(), 2)
    reader = Reader(link, keys, block_s=0.2)
    async with reader.run():
        await until(reader.saw(2))
        await wire.ask("XGROUP", "DESTROY", keys.jobs(), GROUP)
        await until(lambda: reader.events.names.count("group_created") > len(LANES))
        ids += await push(wire, keys.jobs())
        await until(reader.saw(3))
    assert reader.ids == ids


@pytest.mark.parametrize("fault", ["the connection is killed", "the server is killed"])
async def test_survives_a_lost_connection(own_valkey: EmbeddedValkey, keys: Keys, fault: str) -> None:
    link = RedisLink(own_valkey.url)
    wire, reader = link.wire(), Reader(link, keys)
    async with reader.run():
        await until(lambda: is_waiting(wire))
        if fault == "the server is killed":
            own_valkey.kill()
            await until(lambda: not reader.intake.connected)
            own_valkey.start()
            wire = link.wire()
        else:
            await wire.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await push(wire, keys.jobs())
        await until(reader.saw(1))
        assert reader.intake.connected
    assert [name for name in reader.events.names if name.startswith("redis")] == ["redis_lost", "redis_back"]
    await wire.close()


async def test_two_idle_processes_share_a_burst(link: RedisLink, keys: Keys, wire: Wire) -> None:
    one, two = Reader(link, keys, name="one"), Reader(link, keys, name="two")
    async with one.run(), two.run():
        await until(lambda: one.intake.connected and two.intake.connected)
        await until(lambda: is_waiting(wire))
        await push(wire, keys.jobs(), 300)
        await until(lambda: len(one.seen) + len(two.seen) == 300)
    assert min(len(one.seen), len(two.seen)) >= 100


@pytest.mark.parametrize("peer", ["none", "dead", "full"])
async def test_no_process_waits_for_a_peer_that_will_not_read(
    link: RedisLink, keys: Keys, wire: Wire, peer: str
) -> None:
    """`dead` reads no more and is taken for dead at once; `full` is alive, with room for one job."""
    level = LevelRules(alive_s=0.0 if peer == "dead" else 3.0, patience_s=0.05)
    await push(wire, keys.jobs(), 400)
    other = Reader(link, keys, name="other", room=1)
    if peer != "none":
        async with other.run():
            await until(other.saw(1))
    reader = Reader(link, keys, level=level)
    async with reader.run():
        await until(reader.saw(400 - len(other.seen)))


@pytest.mark.parametrize("delayed_s", [0.0, 0.5])
async def test_the_lease_of_what_was_read_begins_when_redis_gave_it_however_late_its_answer_comes(
    link: RedisLink, keys: Keys, wire: Wire, monkeypatch: pytest.MonkeyPatch, delayed_s: float
) -> None:
    reader = Reader(link, keys, lease_s=0.3, block_s=0.1)
    ask_all = reader.wire.ask_all

    async def late(commands: Any) -> Any:
        replies = await ask_all(commands)
        if any(command[0] == "XREADGROUP" for command in commands):
            await asyncio.sleep(delayed_s)
        return replies

    monkeypatch.setattr(reader.wire, "ask_all", late)
    await push(wire, keys.jobs())
    async with reader.run():
        await until(reader.saw(1))
        kept = reader.held.kept_until > SystemClock().monotonic()
    # After the lease a peer may have it: no call is made for it before a renewal has told whose it is.
    assert kept == (delayed_s == 0.0)


async def test_the_lease_of_what_a_blocking_read_brings_begins_no_later_than_redis_can_have_given_it(
    link: RedisLink, keys: Keys, wire: Wire
) -> None:
    reader = Reader(link, keys, lease_s=20.0, block_s=10.0)
    async with reader.run():
        await until(lambda: is_waiting(wire))
        asked_before = SystemClock().monotonic()
        await push(wire, keys.jobs())
        await until(reader.saw(1))
        assert reader.held.kept_until <= asked_before + 20.0
