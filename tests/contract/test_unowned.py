"""Entries that somebody else acknowledged, or dropped with their consumer, on a real server: none stays unanswered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.contract.test_leases import GROUP, Process
from theo_daemon.job import Delivery, EntryRef
from theo_daemon.keys import Keys
from theo_daemon.redis_link import RedisLink
from theo_daemon.scout_scripts import TAKE_EARLY
from theo_daemon.unowned import FIND, Unowned

LEASE_S = 30.0


class Looker:
    """What one process looks for, at times that the test says."""

    def __init__(self, process: Process, *, room: int = 1_000) -> None:
        self.process, self.room, self.taken = process, room, list[str]()
        self.unowned = Unowned(
            wire=process.wire, held=process.held, group=GROUP, consumer=process.name, lease_s=LEASE_S
        )

    async def look(self, at: float) -> list[str]:
        """The ids that are taken."""
        self.taken = []
        await self.unowned.look([self.process.stream], at, lambda: self.room - len(self.taken), self._take)
        return self.taken

    def _take(self, _stream: str, found: Any, _asked_at: float) -> int:
        entries, suspects, gone = found
        assert (suspects, gone) == ([], 0)
        self.taken += [entry_id.decode() for entry_id, fields in entries if fields]
        return len(entries)


def ids(refs: Sequence[EntryRef]) -> list[str]:
    return [ref.entry_id for ref in refs]


async def acknowledge(process: Process, *refs: EntryRef) -> None:
    await process.outside.ask("XACK", process.stream, GROUP, *ids(refs))


# -- who holds it ----------------------------------------------------------------------------------------


async def test_who_works_on_an_entry_that_somebody_else_acknowledges_takes_it_back(me: Process) -> None:
    refs = await me.read(3)
    await acknowledge(me, *refs[:2])
    await me.leases.renew()
    assert await me.owners() == dict.fromkeys(ids(refs), "me")
    assert me.lost == []
    assert me.events.seen == [("entries_orphaned", {"job_stream": me.stream, "count": 2})]


async def test_who_lost_an_entry_to_a_peer_does_not_take_it_back_when_it_is_nobody_s(
    me: Process, peer: Process
) -> None:
    (ref,) = await me.read(1)
    await me.age(ref)
    assert await peer.leases.reclaim(peer.deliver) == 1
    await me.leases.renew()
    await acknowledge(me, ref)
    await me.leases.renew()
    assert await me.owners() == {}
    await peer.leases.renew()
    assert await me.owners() == {ref.entry_id: "peer"}


async def test_who_was_away_for_a_lease_takes_nothing_back_that_a_peer_may_have_had_meanwhile(
    link: RedisLink, keys: Keys, groups: None
) -> None:
    late = Process(link, keys, "late", lease_s=0.0)
    (ref,) = await late.read(1)
    await acknowledge(late, ref)
    await late.leases.renew()
    assert late.lost == [ref]
    assert await late.owners() == {}
    await late.close()


async def test_an_entry_taken_early_is_taken_back_by_who_had_it_and_by_no_other(
    me: Process, peer: Process
) -> None:
    added = await me.outside.ask_all([("XADD", me.stream, "*", "prompt", "hi")] * 2)
    refs = [EntryRef(me.stream, entry_id.decode()) for entry_id in added]
    args = (GROUP, "me", 60_000, refs[1].entry_id)
    assert len(await me.wire.run(TAKE_EARLY, (me.stream, me.keys.early), args)) == 1
    await acknowledge(me, refs[1])
    args = (GROUP, "peer", 60_000, refs[1].entry_id)
    assert await me.wire.run(TAKE_EARLY, (me.stream, me.keys.early), args) == []
    for process in (peer, me):
        process.held.take([Delivery(refs[1], "default", [])])
        await process.leases.renew()
    assert (peer.lost, me.lost) == ([refs[1]], [])
    assert await me.owners() == {refs[1].entry_id: "me"}


async def test_an_entry_whose_group_was_set_back_is_left_to_its_next_delivery(me: Process) -> None:
    (ref,) = await me.read(1)
    await me.outside.ask("XGROUP", "DESTROY", me.stream, GROUP)
    await me.outside.ask("XGROUP", "CREATE", me.stream, GROUP, "0")
    await me.leases.renew()
    assert me.lost == [ref]
    assert await me.owners() == {}


# -- the others ------------------------------------------------------------------------------------------


async def test_what_a_deleted_consumer_held_is_taken_a_lease_after_it_was_first_seen(
    me: Process, peer: Process
) -> None:
    refs = await peer.read(5)
    looker = Looker(me)
    assert await looker.look(0.0) == []
    await me.outside.ask("XGROUP", "DELCONSUMER", me.stream, GROUP, "peer")
    assert await looker.look(10.0) == []
    assert await looker.look(10.0 + LEASE_S - 1) == []
    assert await looker.look(10.0 + LEASE_S) == ids(refs)
    assert await me.owners() == dict.fromkeys(ids(refs), "me")


async def test_what_its_holder_takes_back_meanwhile_stays_his_and_the_rest_is_taken(
    me: Process, peer: Process
) -> None:
    kept, dropped = await peer.read(2)
    peer.held.release(dropped)
    await acknowledge(me, kept, dropped)
    looker = Looker(me)
    await looker.look(0.0)
    await peer.leases.renew()
    assert await looker.look(LEASE_S) == [dropped.entry_id]
    assert await me.owners() == {kept.entry_id: "peer", dropped.entry_id: "me"}


async def test_two_who_look_take_each_entry_once_as_far_as_they_have_room(me: Process, peer: Process) -> None:
    refs = await me.read(4, hold=False)
    await acknowledge(me, *refs)
    lookers = [Looker(me, room=3), Looker(peer)]
    for looker in lookers:
        await looker.look(0.0)
    assert [await looker.look(LEASE_S) for looker in lookers] == [ids(refs)[:3], ids(refs)[3:]]
    assert [await looker.look(2 * LEASE_S) for looker in lookers] == [[], []]


async def test_what_waits_for_its_first_delivery_is_nobody_s_loss(me: Process) -> None:
    await me.outside.ask_all([("XADD", me.stream, "*", "prompt", "hi")] * 3)
    looker = Looker(me)
    await looker.look(0.0)
    assert await looker.look(LEASE_S) == []
    assert await me.owners() == {}


async def test_what_this_process_holds_is_not_delivered_to_it_again(me: Process) -> None:
    refs = await me.read(2)
    await acknowledge(me, *refs)
    looker = Looker(me)
    await looker.look(0.0)
    assert await looker.look(LEASE_S) == []


async def test_a_look_reads_no_more_than_it_may_and_the_next_goes_on_from_there(me: Process) -> None:
    refs = await me.read(60, hold=False)
    await acknowledge(me, *refs[1::2])
    found, at, looks = list[str](), b"-", 0
    while looks == 0 or at != b"-":
        at, more = await me.wire.run(FIND, (me.stream,), (GROUP, at, 25, 1_000_000))
        found, looks = [*found, *(one.decode() for one in more)], looks + 1
    assert (found, looks) == (ids(refs[1::2]), 3)
    at, few = await me.wire.run(FIND, (me.stream,), (GROUP, "-", 500, 100))
    assert at != b"-"
    assert len(few) < 10


async def test_a_lease_looks_by_itself_and_says_what_it_took(
    link: RedisLink, keys: Keys, groups: None
) -> None:
    process = Process(link, keys, "me", lease_s=0.0)
    (ref,) = await process.read(1, hold=False)
    await acknowledge(process, ref)
    for _ in range(2):  # to find it, and to take it
        await process.leases.take_in(process.deliver)
    assert [(one.ref, one.redelivered) for one in process.seen] == [(ref, True)]
    assert ("entries_orphaned", {"job_stream": process.stream, "count": 1}) in process.events.seen
    assert ref in process.held
    await process.close()


async def test_without_a_group_there_is_nothing_to_look_for(me: Process) -> None:
    await me.read(1, hold=False)
    await me.outside.ask("XGROUP", "DESTROY", me.stream, GROUP)
    looker = Looker(me)
    await looker.look(0.0)
    assert await looker.look(LEASE_S) == []
