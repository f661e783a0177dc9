"""Who owns a pending entry, on a real server: renewing, losing, taking over and handing back."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest
from redis.exceptions import RedisError

from tests.doubles import RecordedEvents, running, until
from theo_daemon.embedded_valkey import EmbeddedValkey
from theo_daemon.held import HeldEntries, Room
from theo_daemon.job import Delivery, EntryRef
from theo_daemon.keys import Keys
from theo_daemon.lease_scripts import FETCH, TAKE
from theo_daemon.leases import LeaseRules, Leases
from theo_daemon.redis_link import RedisLink
from theo_daemon.suspicion import Suspect
from theo_workers.clock import SystemClock

GROUP = "theo"
LANES = ("default", "high")


class Process:
    """One process's leases, with what it was given and what it lost."""

    def __init__(self, link: RedisLink, keys: Keys, name: str, *, room: int = 10_000, **rules: Any) -> None:
        self.name, self.keys, self.stream, self.outside = name, keys, keys.jobs(), link.wire()
        self.wire, self.held, self.events, self.most = link.wire(), HeldEntries(), RecordedEvents(), room
        self.seen: list[Delivery] = []
        self.lost: list[EntryRef] = []
        self.suspects: list[Suspect] = []
        self.leases = Leases(
            wire=self.wire,
            keys=keys,
            rules=LeaseRules(group=GROUP, lanes=LANES, **rules),
            consumer=name,
            held=self.held,
            room=lambda: Room(self.most - len(self.held), 1_000_000_000_000),
            on_lost=self.lost.extend,
            on_suspects=self.suspects.extend,
            events=self.events,
            clock=SystemClock(),
            rng=random.Random(1),
        )

    def deliver(self, batch: Sequence[Delivery]) -> None:
        self.seen += batch

    async def read(self, count: int, *, hold: bool = True, stream: str | None = None) -> list[EntryRef]:
        """Push and read entries; without `hold` it is as if the answer of Redis had been lost."""
        stream = stream or self.stream
        await self.outside.ask_all([("XADD", stream, "*", "prompt", "hi", "prompt", "\x00")] * count)
        read = await self.outside.ask(
            *("XREADGROUP", "GROUP", GROUP, self.name, "COUNT", count, "STREAMS", stream, ">")
        )
        found = [Delivery(EntryRef(stream, row[0].decode()), "default", row[1]) for row in read[0][1]]
        if hold:
            self.held.take(found)
        return [delivery.ref for delivery in found]

    async def age(self, *refs: EntryRef, by_s: float = 3_600.0) -> None:
        """Make pending entries look as if nobody had kept them for so long; their owner stays."""
        for ref in refs:
            ((_, owner, _, _),) = await self.pending(ref)
            await self.outside.ask(
                *("XCLAIM", ref.stream, GROUP, owner, 0, ref.entry_id, "IDLE", int(by_s * 1000), "JUSTID")
            )

    async def pending(self, ref: EntryRef) -> list[Any]:
        rows: list[Any] = await self.outside.ask("XPENDING", ref.stream, GROUP, ref.entry_id, ref.entry_id, 1)
        return rows

    async def owners(self) -> dict[str, str]:
        rows = await self.outside.ask("XPENDING", self.stream, GROUP, "-", "+", 10_000)
        return {entry_id.decode(): owner.decode() for entry_id, owner, _, _ in rows}

    async def consumers(self) -> set[bytes]:
        rows = await self.outside.ask("XINFO", "CONSUMERS", self.stream, GROUP)
        return {row[1] for row in rows}

    async def close(self) -> None:
        await self.wire.close()
        await self.outside.close()


async def test_renewing_restarts_the_lease_and_leaves_the_delivery_count(me: Process) -> None:
    refs = [*await me.read(1_200), *await me.read(3, stream=me.keys.jobs("high"))]
    await me.age(refs[0], refs[-1])
    await me.leases.renew()
    for ref in (refs[0], refs[-1]):
        ((_, owner, idle_ms, deliveries),) = await me.pending(ref)
        assert (owner, deliveries) == (b"me", 1)
        assert idle_ms < 60_000
    assert (me.lost, me.events.seen) == ([], [])


async def test_renewing_does_not_steal_back_what_a_peer_has_taken(me: Process, peer: Process) -> None:
    kept, taken = await me.read(2)
    await me.age(taken)
    assert await peer.leases.reclaim(peer.deliver) == 1
    await me.leases.renew()
    assert await me.owners() == {kept.entry_id: "me", taken.entry_id: "peer"}
    await me.leases.renew()
    assert me.lost == [
        taken,
        taken,
    ]  # for as long as it is held: its flight may have been in the middle of a call
    assert me.events.seen == [("lease_lost", {"job_stream": me.stream, "count": 1, "why": "claimed"})]


async def test_an_entry_that_is_gone_is_lost_only_if_it_is_still_held_at_the_next_look(me: Process) -> None:
    finished, deleted = await me.read(2)
    for ref in (finished, deleted):
        await me.outside.ask_all(
            [("XACK", ref.stream, GROUP, ref.entry_id), ("XDEL", ref.stream, ref.entry_id)]
        )
    await me.leases.renew()
    assert me.lost == []
    me.held.release(finished)
    await me.leases.renew()
    assert me.lost == [deleted]
    await me.leases.renew()
    assert me.lost == [deleted, deleted]
    assert [details["why"] for _, details in me.events.seen] == ["gone"]


async def test_a_renewal_that_comes_late_tells_what_a_peer_has_answered_from_what_redis_has_lost(
    me: Process,
) -> None:
    """After a stall it matters at once: what a peer has answered must not be paid for again."""
    answered, vanished, kept = await me.read(3)
    for ref in (answered, vanished):
        await me.outside.ask_all(
            [("XACK", ref.stream, GROUP, ref.entry_id), ("XDEL", ref.stream, ref.entry_id)]
        )
    await me.outside.ask("SET", me.keys.done(answered), "1token")
    me.held.keep(until=0.0)
    await me.leases.renew()
    assert me.lost == [answered]
    assert kept in me.held
    assert vanished in me.held


async def test_a_renewal_whose_answer_comes_late_tells_what_a_peer_has_answered(
    me: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was asked for in time, and the lease was over when Redis answered."""
    (answered,) = await me.read(1)
    run = me.wire.run

    async def late(*args: Any) -> Any:
        await me.outside.ask_all(
            [
                ("XACK", answered.stream, GROUP, answered.entry_id),
                ("XDEL", answered.stream, answered.entry_id),
            ]
        )
        await me.outside.ask("SET", me.keys.done(answered), "1token")
        reply = await run(*args)
        me.held.keep(until=SystemClock().monotonic())
        return reply

    monkeypatch.setattr(me.wire, "run", late)
    await me.leases.renew()
    assert me.lost == [answered]


async def test_what_is_held_is_certainly_ours_for_a_lease_from_each_renewal(me: Process) -> None:
    clock = SystemClock()
    assert clock.monotonic() < me.held.kept_until <= clock.monotonic() + 30  # from the first read on
    me.held.keep(until=0.0)
    doubting = asyncio.ensure_future(me.held.kept())
    await asyncio.sleep(0)
    before = clock.monotonic()
    await me.leases.renew()
    await doubting
    assert before + 30 <= me.held.kept_until <= clock.monotonic() + 30


@pytest.mark.parametrize("how", ["taken over", "reclaimed"])
async def test_the_lease_of_what_was_taken_begins_when_redis_gave_it_however_late_its_answer_comes(
    me: Process, peer: Process, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    (ref,) = await peer.read(1)
    await me.age(ref)
    run, run_all, asked_at = me.wire.run, me.wire.run_all, SystemClock().monotonic()

    async def late(*args: Any) -> Any:
        reply = await run(*args)
        me.held.keep(SystemClock().monotonic() + 1_000)  # a renewal, which was not for this one
        return reply

    async def late_all(*args: Any) -> Any:
        replies = await run_all(*args)
        me.held.keep(SystemClock().monotonic() + 1_000)
        return replies

    monkeypatch.setattr(me.wire, "run", late)
    monkeypatch.setattr(me.wire, "run_all", late_all)
    if how == "taken over":
        await me.leases.take_over("peer", me.deliver)
    else:
        await me.leases.reclaim(me.deliver)
    assert [delivery.ref for delivery in me.seen] == [ref]
    assert asked_at + 30 <= me.held.kept_until <= SystemClock().monotonic() + 30


async def test_a_renewal_that_failed_proves_nothing(own_valkey: EmbeddedValkey, keys: Keys) -> None:
    process = Process(RedisLink(own_valkey.url), keys, "me")
    await process.outside.ask("XGROUP", "CREATE", process.stream, GROUP, "0", "MKSTREAM")
    await process.read(1)
    process.held.keep(until=0.0)
    own_valkey.kill()
    with pytest.raises(RedisError):
        await process.leases.renew()
    assert process.held.kept_until == 0.0
    await process.close()


async def test_a_lost_group_loses_every_lease_without_an_error(me: Process) -> None:
    refs = await me.read(2)
    await me.outside.ask("XGROUP", "DESTROY", me.stream, GROUP)
    await me.leases.renew()
    assert me.lost == refs
    assert await me.leases.reclaim(me.deliver) == 0
    assert await me.leases.adopt(me.deliver) == 0
    await me.leases.leave()


async def test_takes_over_only_what_nobody_has_kept_for_a_lease(me: Process, peer: Process) -> None:
    old, fresh = await peer.read(2)
    await me.age(old, by_s=31)
    await me.age(fresh, by_s=20)
    assert await me.leases.reclaim(me.deliver) == 1
    (delivery,) = me.seen
    fields = [b"prompt", b"hi", b"prompt", b"\x00"]
    assert delivery == Delivery(old, "default", fields, redelivered=True)
    assert old in me.held
    assert await me.owners() == {old.entry_id: "me", fresh.entry_id: "peer"}
    assert me.events.seen == [("entries_reclaimed", {"job_stream": me.stream, "count": 1})]


async def test_finds_abandoned_entries_behind_many_that_are_kept(me: Process, peer: Process) -> None:
    await peer.read(3_000)
    (old,) = await peer.read(1)
    await me.age(old)
    me.most = 2
    assert await me.leases.reclaim(me.deliver) == 1


async def test_takes_over_no_more_than_there_is_room_for(me: Process, peer: Process) -> None:
    await me.age(*await peer.read(50))
    me.most = 20
    await me.leases.reclaim(me.deliver)
    assert len(me.seen) == 20
    for ref in list(me.held):
        me.held.release(ref)
    me.most = 1_000
    await me.leases.reclaim(me.deliver)
    assert len({delivery.ref for delivery in me.seen}) == 50


async def test_an_own_entry_whose_lease_ran_out_is_not_worked_on_twice(me: Process) -> None:
    (ref,) = await me.read(1)
    await me.age(ref)
    assert await me.leases.reclaim(me.deliver) == 0
    assert me.seen == []


async def test_deleted_entries_are_reported_as_lost_jobs(me: Process, peer: Process) -> None:
    refs = await peer.read(3)
    await me.age(*refs)
    await me.outside.ask("XDEL", me.stream, refs[0].entry_id, refs[1].entry_id)
    assert await me.leases.reclaim(me.deliver) == 1
    assert ("entries_vanished", {"job_stream": me.stream, "count": 2}) in me.events.seen
    assert await me.owners() == {refs[2].entry_id: "me"}


async def test_adopts_own_entries_that_never_arrived(me: Process) -> None:
    (held,) = await me.read(1)
    lost, recent = await me.read(2, hold=False)
    await me.age(held, lost, by_s=61)
    assert await me.leases.adopt(me.deliver) == 1
    assert [delivery.ref for delivery in me.seen] == [lost]
    assert recent not in me.held  # it may still be on its way
    assert await me.leases.adopt(me.deliver) == 0


async def test_adopts_any_number(me: Process) -> None:
    lost = await me.read(1_200, hold=False)
    ids = [ref.entry_id for ref in lost]
    await me.outside.ask("XCLAIM", me.stream, GROUP, "me", 0, *ids, "IDLE", 61_000, "JUSTID")
    assert await me.leases.adopt(me.deliver) == 1_200


async def test_adopting_leaves_held_entries_alone(me: Process) -> None:
    held, _ = await me.read(1), await me.read(1, hold=False)
    await me.age(*held, by_s=61)
    await me.leases.adopt(me.deliver)
    ((_, _, idle_ms, deliveries),) = await me.pending(held[0])
    assert idle_ms > 60_000
    assert deliveries == 1


async def test_an_entry_that_found_another_owner_meanwhile_is_not_taken(me: Process, peer: Process) -> None:
    ref, fresh = await peer.read(2)
    await me.age(ref)
    args: list[str] = [GROUP, "me", "3", "dead", "0", ref.entry_id]
    assert await me.wire.run(TAKE, (me.stream, me.keys.early), args) == [[], [], 0]
    args = [GROUP, "me", "3", "peer", "60000", ref.entry_id, fresh.entry_id]
    entries, suspects, vanished = await me.wire.run(TAKE, (me.stream, me.keys.early), args)
    assert ([row[0].decode() for row in entries], suspects, vanished) == ([ref.entry_id], [], 0)


async def test_survivors_share_what_a_dead_consumer_held_each_entry_once(
    me: Process, peer: Process, link: RedisLink, keys: Keys
) -> None:
    dead = Process(link, keys, "dead")
    refs = await dead.read(30)
    me.most = 10
    assert await me.leases.take_over("dead", me.deliver) == 20  # are left
    assert await peer.leases.take_over("dead", peer.deliver) == 0
    assert {delivery.ref for delivery in me.seen + peer.seen} == set(refs)
    assert await me.leases.take_over("dead", me.deliver) == 0
    await dead.close()


async def test_what_is_handed_back_a_peer_takes_at_once(me: Process, peer: Process) -> None:
    kept, given = await me.read(2)
    await me.leases.hand_back([given])
    assert list(me.held) == [kept]
    await me.leases.renew()  # must not take it back
    assert await peer.leases.reclaim(peer.deliver) == 1
    assert await me.owners() == {kept.entry_id: "me", given.entry_id: "peer"}


async def test_handing_back_does_not_touch_what_a_peer_has_taken(me: Process, peer: Process) -> None:
    (ref,) = await me.read(1)
    await me.age(ref)
    await peer.leases.reclaim(peer.deliver)
    await me.leases.hand_back([ref])
    ((_, owner, idle_ms, _),) = await me.pending(ref)
    assert owner == b"peer"
    assert idle_ms < 30_000


async def test_what_was_handed_back_politely_counts_as_no_delivery(me: Process, peer: Process) -> None:
    (ref,) = await me.read(1)
    for giver, taker in ((me, peer), (peer, me)) * 5:
        await giver.leases.hand_back([ref])
        assert await taker.leases.reclaim(taker.deliver) == 1
    ((_, owner, _, deliveries),) = await me.pending(ref)
    assert (owner, deliveries) == (b"me", 1)
    assert me.suspects == peer.suspects == []


async def delivered(me: Process, refs: Sequence[EntryRef], times: int) -> None:
    """As if they had come to so many processes, the present owner included."""
    for ref in refs:
        ((_, owner, _, _),) = await me.pending(ref)
        words = (
            "XCLAIM",
            ref.stream,
            GROUP,
            owner,
            0,
            ref.entry_id,
            "IDLE",
            60_000,
            "RETRYCOUNT",
            times,
            "JUSTID",
        )
        await me.outside.ask(*words)


@pytest.mark.parametrize("way", ["reclaimed", "taken over", "adopted"])
async def test_what_came_to_many_processes_changes_hands_without_being_read(
    me: Process, peer: Process, way: str
) -> None:
    owner = me if way == "adopted" else peer
    clear, worn, gone = await owner.read(3, hold=False)
    await delivered(me, [clear], 1)
    await delivered(me, [worn, gone], 2)
    await me.outside.ask("XDEL", gone.stream, gone.entry_id)
    match way:
        case "reclaimed":
            assert await me.leases.reclaim(me.deliver) == 2
        case "taken over":
            assert await me.leases.take_over("peer", me.deliver) == 1  # was gone
        case _:
            assert await me.leases.adopt(me.deliver) == 2
    assert [delivery.ref for delivery in me.seen] == [clear]
    assert me.suspects == [Suspect(worn, "default", 3)]
    assert worn in me.held
    assert me.held.bytes == sum(map(len, me.seen[0].fields))
    ((_, holder, idle_ms, deliveries),) = await me.pending(worn)
    assert (holder, deliveries) == (b"me", 3)
    assert idle_ms < 30_000
    assert ("entries_vanished", {"job_stream": me.stream, "count": 1}) in me.events.seen
    await me.leases.renew()
    assert me.lost == []


async def test_a_suspect_is_told_once_while_it_is_held(me: Process, peer: Process) -> None:
    (worn,) = await peer.read(1)
    await delivered(me, [worn], 7)
    assert await me.leases.reclaim(me.deliver) == 1
    await me.age(worn)
    assert await me.leases.reclaim(me.deliver) == 0
    assert len(me.suspects) == 1


async def test_an_entry_is_fetched_by_its_owner_whole_or_if_it_is_large_in_parts(
    me: Process, peer: Process
) -> None:
    await me.outside.ask("XADD", me.stream, "*", "prompt", "x" * 5_000, "a", "b")
    read = await me.outside.ask("XREADGROUP", "GROUP", GROUP, "me", "STREAMS", me.stream, ">")
    ((entry_id, fields),) = read[0][1]
    whole = await me.wire.run(FETCH, (me.stream,), (GROUP, "me", entry_id, 5_008, 1_024, 4))
    assert whole == [5_008, fields]
    part = await me.wire.run(FETCH, (me.stream,), (GROUP, "me", entry_id, 5_007, 1_024, 4))
    assert part == [5_008, [b"prompt", b"x" * 1_024, b"a", b"b"]]
    few = await me.wire.run(FETCH, (me.stream,), (GROUP, "me", entry_id, 0, 3, 2))
    assert few == [5_008, [b"pro", b"xxx"]]
    assert await me.wire.run(FETCH, (me.stream,), (GROUP, "peer", entry_id, 9_999, 1_024, 4)) == []
    await me.outside.ask("XDEL", me.stream, entry_id)
    assert await me.wire.run(FETCH, (me.stream,), (GROUP, "me", entry_id, 9_999, 1_024, 4)) == []
    assert await me.wire.run(FETCH, ("nowhere",), (GROUP, "me", entry_id, 9_999, 1_024, 4)) == []


async def test_leaving_gives_back_what_never_arrived_and_keeps_the_name_while_something_is_pending(
    me: Process, peer: Process
) -> None:
    (lost,) = await me.read(1, hold=False)
    await me.leases.leave()
    assert b"me" in await me.consumers()
    assert await peer.leases.reclaim(peer.deliver) == 1
    assert peer.seen[0].ref == lost


async def test_leaving_with_nothing_pending_deletes_the_own_name_alone(me: Process, peer: Process) -> None:
    for process in (me, peer):
        (ref,) = await process.read(1)
        await me.outside.ask("XACK", ref.stream, GROUP, ref.entry_id)
        process.held.release(ref)
    await me.leases.leave()
    assert await me.consumers() == {b"peer"}


async def test_a_drain_goes_on_while_redis_is_away(own_valkey: EmbeddedValkey, keys: Keys) -> None:
    link = RedisLink(own_valkey.url)
    process = Process(link, keys, "me")
    await process.outside.ask("XGROUP", "CREATE", process.stream, GROUP, "0", "MKSTREAM")
    given, kept = await process.read(2)
    own_valkey.kill()
    assert not await process.leases.hand_back([given])
    assert not await process.leases.leave()
    assert list(process.held) == [kept]
    await process.close()


async def test_only_silent_and_empty_names_are_deleted(link: RedisLink, keys: Keys, me: Process) -> None:
    busy, empty = Process(link, keys, "busy"), Process(link, keys, "empty")
    (pending,) = await busy.read(1)
    (done,) = await empty.read(1)
    await me.outside.ask("XACK", done.stream, GROUP, done.entry_id)
    cleaner = Process(link, keys, "cleaner", forget_s=0.05, reclaim_s=0.02)
    async with running(cleaner.leases.run(cleaner.deliver)):
        await until(lambda: "consumer_removed" in cleaner.events.names)
    assert ("consumer_removed", {"consumer": "empty"}) in cleaner.events.seen
    assert b"busy" in await me.consumers()
    assert pending.entry_id in await me.owners()
    for process in (busy, empty, cleaner):
        await process.close()


async def test_keeps_its_leases_and_takes_over_the_dead_while_running(
    link: RedisLink, keys: Keys, groups: None
) -> None:
    one, two = (
        Process(link, keys, name, lease_s=0.4, reclaim_s=0.05, adopt_after_s=9.0) for name in ("one", "two")
    )
    dead = Process(link, keys, "dead")
    kept = await one.read(5)
    orphans = await dead.read(5)
    async with running(one.leases.run(one.deliver)), running(two.leases.run(two.deliver)):
        await until(lambda: len(one.seen) + len(two.seen) == 5)
        assert {delivery.ref for delivery in one.seen + two.seen} == set(orphans)
        owners = await one.owners()
        assert {owners[ref.entry_id] for ref in kept} == {"one"}
    for process in (one, two, dead):
        await process.close()


async def test_goes_on_after_a_lost_connection(me: Process, link: RedisLink) -> None:
    fast = Process(link, me.keys, "fast", reclaim_s=0.02)
    async with running(fast.leases.run(fast.deliver)):
        await me.age(*await me.read(1))
        await until(lambda: len(fast.seen) == 1)
        await me.outside.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await me.close()
        await me.age(*await me.read(1))
        await until(lambda: len(fast.seen) == 2)
    await fast.close()
