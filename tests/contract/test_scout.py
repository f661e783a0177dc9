"""Looking past what has been read, on a real server: what is found, what is taken, and who comes by it later."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.doubles import RecordedEvents, running, until
from theo_daemon.backlog import Kind
from theo_daemon.held import HeldEntries, Room
from theo_daemon.intake import IntakeRules, StreamIntake
from theo_daemon.job import Delivery, EntryRef
from theo_daemon.keys import Keys
from theo_daemon.lease_scripts import HAND_BACK, RECLAIM, TAKE
from theo_daemon.levelling import LevelRules
from theo_daemon.redis_link import RedisLink
from theo_daemon.scout import Scout, ScoutRules
from theo_daemon.scout_scripts import PASS, PEEK, TAKE_EARLY
from theo_daemon.wire import Script, Wire
from theo_workers.clock import SystemClock

GROUP = "theo"
LANES = {"default": 1, "low": 1}
LOUD = Kind("loud", "", "")
FINISH = Script("""
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
return redis.call('XDEL', KEYS[1], ARGV[2])
""")


class Process:
    """An intake that reads `ahead` entries, and a scout; entries stay held until the test releases them."""

    def __init__(
        self, link: RedisLink, keys: Keys, *, name: str = "me", ahead: int = 4, most: int = 64, few: int = 3
    ) -> None:
        self.seen: list[Delivery] = []
        self.held, self.events = HeldEntries(), RecordedEvents()
        self.ahead, self.most = ahead, most
        self.none_can_start: set[str] = set()
        self.peers = self.looks = 0
        common: Any = {
            "keys": keys, "consumer": name, "held": self.held, "clock": SystemClock(), "rng": random.Random(1),
        }  # fmt: skip
        self.intake = StreamIntake(
            **common, wire=link.wire(), events=self.events,
            rules=IntakeRules(group=GROUP, lanes=LANES, block_s=0.2, level=LevelRules(base=1_000)),
            room=lambda: Room(self.ahead - len(self.held) - self.scout.wanted, 10**9),
        )  # fmt: skip
        self.scout = Scout(
            **common, wire=link.wire(), behind=self.intake.behind, waiting=self.look,
            rules=ScoutRules(group=GROUP, lanes=tuple(LANES), max_job_bytes=1_000_000, few=few),
            room=lambda: Room(self.most - len(self.held), 10**9), give_way=self.give_way, peers=lambda: self.peers,
        )  # fmt: skip

    def give_way(self, count: int) -> list[EntryRef]:
        """Parked ones go, the latest first."""
        parked = [one.ref for one in self.seen if fields_of(one).get("tenant") in self.none_can_start]
        going = [ref for ref in reversed(parked) if ref in self.held][:count]
        for ref in going:
            self.held.release(ref)
        return going

    def look(self) -> Callable[[str, Kind], int | None]:
        self.looks += 1
        return self.waiting

    def waiting(self, lane: str, kind: Kind) -> int | None:
        if kind.tenant in self.none_can_start:
            return None
        return sum(
            fields_of(one).get("tenant") == kind.tenant and one.lane == lane
            for one in self.seen
            if one.ref in self.held
        )

    def deliver(self, batch: Sequence[Delivery]) -> None:
        self.seen += batch

    def run(self) -> Any:
        async def both() -> None:
            async with running(self.intake.run(self.deliver)), running(self.scout.run(self.deliver)):
                await asyncio.Event().wait()

        return running(both())

    def saw(self, tenant: str, count: int) -> Callable[[], bool]:
        return lambda: len(self.of(tenant)) >= count

    def of(self, tenant: str) -> list[str]:
        return [one.ref.entry_id for one in self.seen if fields_of(one).get("tenant") == tenant]

    async def finish(self, wire: Wire, count: int = 10**6, tenant: str | None = None) -> None:
        """End the first entries that are held, as the finish script does."""
        ending = [
            one
            for one in self.seen
            if one.ref in self.held and tenant in (None, fields_of(one).get("tenant"))
        ]
        for one in ending[:count]:
            await wire.run(FINISH, (one.ref.stream,), (GROUP, one.ref.entry_id))
            self.held.release(one.ref)


def fields_of(delivery: Delivery) -> dict[str, str]:
    flat = [word.decode() for word in delivery.fields]
    return dict(zip(flat[::2], flat[1::2], strict=True))


async def push(wire: Wire, key: str, tenant: str, count: int, **more: str) -> list[str]:
    fields = [word for pair in {"prompt": "hi", "tenant": tenant, **more}.items() for word in pair]
    return [entry_id.decode() for entry_id in await wire.ask_all([("XADD", key, "*", *fields)] * count)]


async def pending(wire: Wire, key: str) -> dict[str, str]:
    rows = await wire.ask("XPENDING", key, GROUP, "-", "+", 10_000)
    return {row[0].decode(): row[1].decode() for row in rows}


@pytest.fixture
async def jobs(wire: Wire, keys: Keys) -> str:
    for lane in LANES:
        await wire.ask("XGROUP", "CREATE", keys.jobs(lane), GROUP, "0", "MKSTREAM")
    return keys.jobs()


# -- the scripts --------------------------------------------------------------------------------------------


async def peek(
    wire: Wire, jobs: str, *skip: Kind, at: str = "0-0", most: int = 100, most_bytes: int = 10**6
) -> Any:
    words = [word for kind in skip for word in kind]
    delivered, to, *found = await wire.run(PEEK, (jobs,), (GROUP, at, most, most_bytes, *words))
    texts = [word.decode() for word in found]
    return delivered.decode(), to.decode(), [tuple(texts[i : i + 4]) for i in range(0, len(texts), 4)]


async def test_a_look_tells_whose_jobs_lie_there_in_either_form(wire: Wire, jobs: str) -> None:
    first = (await push(wire, jobs, "a", 1, model="m", workflow="w"))[0]
    bare = (await wire.ask("XADD", jobs, "*", "prompt", "hi")).decode()
    document = json.dumps({"prompt": "x", "tenant": "b", "metadata": {"tenant": "not this"}, "model": None})
    one = (await wire.ask("XADD", jobs, "*", "job", document)).decode()
    assert await peek(wire, jobs) == (
        "0-0", one, [(first, "a", "m", "w"), (bare, "", "", ""), (one, "b", "", "")],
    )  # fmt: skip


@pytest.mark.parametrize(
    "fields",
    [
        ("job", "{"),
        ("job", '"x"'),
        ("job", json.dumps({"tenant": 7})),
        ("job", json.dumps({"tenant": {"a": 1}})),
        ("job", json.dumps({"tenant": "x" * 65})),
        ("job", json.dumps({"prompt": "x" * 70_000, "tenant": "large"})),
        ("job", "[" * 5_000),
        ("tenant", "two\nlines"),
        ("tenant", "x" * 65),
    ],
    ids=lambda fields: fields[1][:20],
)
async def test_what_is_no_job_or_too_large_is_passed_over(
    wire: Wire, jobs: str, fields: tuple[str, str]
) -> None:
    await wire.ask("XADD", jobs, "*", *fields)
    (last,) = await push(wire, jobs, "a", 1)
    assert await peek(wire, jobs) == ("0-0", last, [(last, "a", "", "")])


async def test_a_look_begins_behind_what_was_delivered_and_ends_with_its_page(wire: Wire, jobs: str) -> None:
    ids = await push(wire, jobs, "a", 30)
    await wire.ask("XREADGROUP", "GROUP", GROUP, "c", "COUNT", 5, "STREAMS", jobs, ">")
    delivered, to, found = await peek(wire, jobs, most=10)
    assert (delivered, to, [one[0] for one in found]) == (ids[4], ids[14], ids[5:15])
    assert [one[0] for one in (await peek(wire, jobs, at=to))[2]] == ids[15:]
    assert (await peek(wire, jobs, at=ids[-1])) == (ids[4], ids[-1], [])
    _, to, found = await peek(wire, jobs, LOUD, Kind("a", "", ""))
    assert (to, found) == (ids[-1], [])


async def test_a_look_reads_no_more_bytes_than_it_may_but_for_one_page(wire: Wire, jobs: str) -> None:
    ids = await push(wire, jobs, "a", 40, padding="x" * 50_000)
    _, to, _ = await peek(wire, jobs, most_bytes=500_000)
    assert 8 <= ids.index(to) + 1 <= 16


async def test_without_a_group_there_is_nothing_to_see_or_take(wire: Wire, keys: Keys) -> None:
    (entry_id,) = await push(wire, keys.jobs(), "a", 1)
    assert await peek(wire, keys.jobs()) == ("0-0", "0-0", [])
    assert await wire.run(TAKE_EARLY, (keys.jobs(), keys.early), (GROUP, "c", 1000, entry_id)) == []


async def test_only_what_is_there_and_nobody_s_is_taken(wire: Wire, keys: Keys, jobs: str) -> None:
    ids = await push(wire, jobs, "a", 6)
    await wire.ask("XREADGROUP", "GROUP", GROUP, "peer", "COUNT", 1, "STREAMS", jobs, ">")
    await wire.ask("XDEL", jobs, ids[4])
    take = (jobs, keys.early)
    first = await wire.run(TAKE_EARLY, take, (GROUP, "one", 60_000, ids[0], ids[2], ids[4]))
    assert [entry_id.decode() for entry_id, _ in first] == [ids[2]]
    second = await wire.run(TAKE_EARLY, take, (GROUP, "two", 60_000, ids[2], ids[3]))
    assert [entry_id.decode() for entry_id, _ in second] == [ids[3]]
    assert await pending(wire, jobs) == {ids[0]: "peer", ids[2]: "one", ids[3]: "two"}
    assert [row[3] for row in await wire.ask("XPENDING", jobs, GROUP, "-", "+", 10)] == [1, 1, 1]
    assert await wire.ask("HLEN", keys.early) == 2
    assert 0 < await wire.ask("PTTL", keys.early) <= 60_000


async def test_a_reader_that_comes_by_leaves_it_to_its_owner(wire: Wire, keys: Keys, jobs: str) -> None:
    ids = await push(wire, jobs, "a", 5)
    take = (jobs, keys.early)
    await wire.run(TAKE_EARLY, take, (GROUP, "owner", 60_000, ids[1], ids[2], ids[3]))
    await wire.ask("XREADGROUP", "GROUP", GROUP, "reader", "STREAMS", jobs, ">")
    await wire.ask("XACK", jobs, GROUP, ids[3])
    await wire.ask("XDEL", jobs, ids[3])
    passed = await wire.run(PASS, take, (GROUP, "reader", *ids))
    assert [entry_id.decode() for entry_id in passed] == ids[1:4]
    assert await pending(wire, jobs) == {
        ids[0]: "reader", ids[1]: "owner", ids[2]: "owner", ids[4]: "reader",
    }  # fmt: skip
    assert await wire.ask("HLEN", keys.early) == 0


@pytest.mark.parametrize("how", ["as its owner died", "as nobody kept it"])
async def test_a_reader_leaves_it_to_whoever_has_taken_it_over_by_then(
    how: str, wire: Wire, keys: Keys, jobs: str
) -> None:
    """Given back to the dead, it would be nobody's for a lease, while the heir runs it."""
    (entry_id,) = await push(wire, jobs, "a", 1)
    both = (jobs, keys.early)
    await wire.run(TAKE_EARLY, both, (GROUP, "dead", 60_000, entry_id))
    if how == "as its owner died":
        await wire.run(TAKE, both, (GROUP, "heir", 3, "dead", 0, entry_id))
    else:
        await wire.run(RECLAIM, both, (GROUP, "heir", 3, 0, "0-0", 10))
    await wire.ask("XREADGROUP", "GROUP", GROUP, "reader", "STREAMS", jobs, ">")
    assert await wire.run(PASS, both, (GROUP, "reader", entry_id)) == [entry_id.encode()]
    assert await pending(wire, jobs) == {entry_id: "heir"}


async def test_what_was_handed_back_is_not_new_to_a_reader_but_anybody_s(
    wire: Wire, keys: Keys, jobs: str
) -> None:
    """A process that died may have called for it: that is looked up for what is taken over, not for new jobs."""
    (entry_id,) = await push(wire, jobs, "a", 1)
    both = (jobs, keys.early)
    await wire.run(TAKE_EARLY, both, (GROUP, "leaver", 60_000, entry_id))
    await wire.run(HAND_BACK, both, (GROUP, "leaver", 1_000, entry_id))
    await wire.ask("XREADGROUP", "GROUP", GROUP, "reader", "STREAMS", jobs, ">")
    assert await wire.run(PASS, both, (GROUP, "reader", entry_id)) == [entry_id.encode()]
    _, taken, _, _ = await wire.run(RECLAIM, both, (GROUP, "heir", 3, 3_600_000, "0-0", 10))
    assert [row[0].decode() for row in taken] == [entry_id]
    assert [row[3] for row in await wire.ask("XPENDING", jobs, GROUP, "-", "+", 10)] == [1]


# -- the scout ----------------------------------------------------------------------------------------------


async def test_a_quiet_tenant_is_fetched_from_behind_a_loud_one(
    link: RedisLink, keys: Keys, wire: Wire, jobs: str
) -> None:
    await push(wire, jobs, "loud", 3_000)
    quiet = await push(wire, jobs, "quiet", 10)
    process = Process(link, keys)
    async with process.run():
        await until(process.saw("quiet", 3))
        assert process.of("quiet") == quiet[:3], "no more than few at a time"
        assert len(process.of("loud")) == 4
        for done in range(3, 11):
            await process.finish(wire, 1, "quiet")
            await until(process.saw("quiet", min(10, done + 1)))
    assert process.of("quiet") == quiet


async def test_jobs_pushed_later_are_found_too_and_on_every_lane(
    link: RedisLink, keys: Keys, wire: Wire, jobs: str
) -> None:
    await push(wire, jobs, "loud", 200)
    process = Process(link, keys)
    async with process.run():
        await until(process.saw("loud", 4))
        for lane in LANES:
            await push(wire, keys.jobs(lane), "loud", 50)
            await push(wire, keys.jobs(lane), "quiet", 1)
        await until(process.saw("quiet", 2))
    assert {one.lane for one in process.seen if fields_of(one)["tenant"] == "quiet"} == set(LANES)


async def test_the_first_looks_follow_one_another_at_once_and_begin_with_the_backlog(
    link: RedisLink, keys: Keys, wire: Wire, jobs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("theo_daemon.scout.LOOK_EVERY_S", 600.0)
    monkeypatch.setattr("theo_daemon.scout.REST_S", 600.0)
    process = Process(link, keys)
    async with process.run():
        await until(lambda: process.intake.connected)
        await push(wire, jobs, "loud", 1_800)
        await push(wire, jobs, "quiet", 3)
        await until(process.saw("quiet", 3))


async def test_jobs_that_could_not_start_are_left_where_they_are(
    link: RedisLink, keys: Keys, wire: Wire, jobs: str
) -> None:
    await push(wire, jobs, "loud", 100)
    await push(wire, jobs, "parked", 5)
    await push(wire, jobs, "quiet", 2)
    process = Process(link, keys)
    process.none_can_start.add("parked")
    async with process.run():
        await until(process.saw("quiet", 2))
        assert process.of("parked") == []
        process.none_can_start.clear()
        await until(process.saw("parked", 3))


async def test_a_full_process_takes_a_rare_job_before_any_other_when_there_is_room(
    link: RedisLink, keys: Keys, wire: Wire, jobs: str
) -> None:
    await push(wire, jobs, "loud", 100)
    process = Process(link, keys, ahead=8, most=8)
    async with process.run():
        await until(process.saw("loud", 8))
        await push(wire, jobs, "quiet", 1)
        await until(lambda: process.scout.wanted == 1)
        await process.finish(wire, 1)
        await until(process.saw("quiet", 1))
        assert len(process.of("loud")) == 8


async def test_parked_jobs_that_fill_a_process_give_way_and_come_back_later(
    link: RedisLink, keys: Keys, wire: Wire, jobs: str
) -> None:
    ids = await push(wire, jobs, "parked", 8)
    process = Process(link, keys, ahead=8, most=8)
    async with process.run():
        await until(process.saw("parked", 8))
        await push(wire, jobs, "quiet", 2)
        await until(lambda: process.scout.wanted == 2)
        assert process.of("quiet") == [], "nobody gives way who could start"
        process.none_can_start.add("parked")
        await until(process.saw("quiet", 2))
    assert len(process.held) == 8
    shelved = [entry_id for entry_id in ids if entry_id not in {ref.entry_id for ref in process.held}]
    assert shelved == ids[-2:]
    rows = await wire.ask("XPENDING", jobs, GROUP, shelved[0], shelved[1], 10)
    for _, consumer, idle_ms, deliveries in rows:
        assert (consumer, deliveries) == (b"me", 0)
        assert 25_000 <= idle_ms < 30_000


async def test_no_more_parked_jobs_give_way_while_a_few_of_them_are_on_the_shelf(
    link: RedisLink, keys: Keys, wire: Wire, jobs: str
) -> None:
    await push(wire, jobs, "parked", 8)
    process = Process(link, keys, ahead=8, most=8, few=2)
    process.none_can_start.add("parked")
    async with process.run():
        await until(process.saw("parked", 8))
        for quiet in range(6):
            await push(wire, jobs, f"quiet{quiet}", 1)
        await until(lambda: process.scout.wanted == 4)
        looks = process.looks
        await until(lambda: process.looks >= looks + 5)
    assert len(process.seen) == 10
    assert len(await pending(wire, jobs)) == 10


async def test_every_job_is_worked_on_once_by_several_processes_that_read_and_scout(
    link: RedisLink, keys: Keys, wire: Wire, jobs: str
) -> None:
    tenants = [f"t{n % 7}" for n in range(400)] + ["loud"] * 400 + ["late"] * 50
    random.Random(3).shuffle(tenants)
    for tenant in tenants:
        await push(wire, jobs, tenant, 1)
    processes = [Process(link, keys, name=f"p{n}") for n in range(3)]
    async with processes[0].run(), processes[1].run(), processes[2].run():
        while await wire.ask("XLEN", jobs):
            for process in processes:
                await process.finish(wire, 2)
            await asyncio.sleep(0)
    seen = Counter(one.ref.entry_id for process in processes for one in process.seen)
    assert len(seen) == len(tenants)
    assert set(seen.values()) == {1}
    assert sum(len(process.scout._taken) for process in processes) > 20, "scouts had something to do"


async def test_what_is_on_record_as_taken_early_is_forgotten_once_it_is_long_finished(
    link: RedisLink, keys: Keys, wire: Wire, jobs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("theo_daemon.scout.FORGET_AFTER_S", 0.1)
    await push(wire, jobs, "loud", 50)
    await push(wire, jobs, "quiet", 2)
    process = Process(link, keys)
    async with process.run():
        await until(process.saw("quiet", 2))
        assert await wire.ask("HLEN", keys.early) == 2
        await process.finish(wire, 1, "quiet")

        async def one_left() -> bool:
            return bool(await wire.ask("HLEN", keys.early) == 1)

        await until(one_left)


async def test_the_lease_of_what_was_taken_early_begins_when_redis_gave_it_however_late_its_answer_comes(
    link: RedisLink, keys: Keys, wire: Wire, jobs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Process(link, keys)
    run, asked_at = process.scout._wire.run, SystemClock().monotonic()

    async def late(*args: Any) -> Any:
        reply = await run(*args)
        process.held.keep(SystemClock().monotonic() + 1_000)  # a renewal, which was not for this one
        return reply

    monkeypatch.setattr(process.scout._wire, "run", late)
    await push(wire, jobs, "quiet", 1)
    process.intake.behind.set()
    async with running(process.scout.run(process.deliver)):
        await until(process.saw("quiet", 1))
    assert asked_at + 30 <= process.held.kept_until <= SystemClock().monotonic() + 30


async def test_when_jobs_that_room_was_kept_for_are_gone_reading_goes_on_though_nothing_is_held(
    link: RedisLink, keys: Keys, wire: Wire, jobs: str
) -> None:
    """Redis lost them. A process that waited for one of its jobs to end would wait for ever."""
    me = Process(link, keys, ahead=3, most=0, few=3)
    await push(wire, jobs, "loud", 10)
    await push(wire, jobs, "quiet", 3)
    async with me.run():
        await until(me.saw("loud", 3))
        await until(lambda: me.scout.wanted >= 3)  # which has no room for them itself
        await me.finish(wire)
        await asyncio.sleep(0.1)
        assert len(me.seen) == 3, "the room is kept"
        await wire.ask("DEL", jobs)
        await push(wire, jobs, "new", 1)
        me.most = 64  # it finds that they are not there any more
        await until(me.saw("new", 1))
