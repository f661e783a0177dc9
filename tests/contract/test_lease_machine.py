"""Random walks of several processes over one stream: whose each entry is, compared with a model after each step."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.contract.test_leases import GROUP, LANES, Process
from tests.deep import deep
from theo_daemon.embedded_valkey import EmbeddedValkey
from theo_daemon.job import EntryRef
from theo_daemon.keys import Keys
from theo_daemon.redis_link import RedisLink
from theo_daemon.suspicion import Suspect

SUSPECT_FROM = 3
SLOTS = st.sampled_from([0, 1, 2])
STILL = st.sets(SLOTS, min_size=1)


class OwnershipMachine(RuleBasedStateMachine):
    """Reads that arrive or not, renewals, take-overs, adoption, hand-backs, crashes: each entry has one owner.

    An entry is `old` once nobody has kept it for a lease.
    """

    server: EmbeddedValkey

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.link, self.keys, self.boots = RedisLink(self.server.url), Keys("m"), 0
        self.processes = [self.boot() for _ in range(3)]
        self.outside = self.processes[0].outside
        self.waiting: list[EntryRef] = []
        self.owner: dict[EntryRef, str] = {}
        self.deliveries: dict[EntryRef, int] = {}
        self.old: set[EntryRef] = set()
        self.gone: dict[str, set[EntryRef]] = {}  # what a process missed when it last renewed

    def boot(self) -> Process:
        self.boots += 1
        name = f"boot-{self.boots}"
        return Process(self.link, self.keys, name, adopt_after_s=40.0, suspect_from=SUSPECT_FROM)

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        for process in self.processes:
            self.run(process.close())
        self.run(self.outside.close())
        self.loop.close()

    @initialize()
    def start(self) -> None:
        self.run(self.outside.ask("FLUSHALL"))
        lanes = [("XGROUP", "CREATE", self.keys.jobs(lane), GROUP, "0", "MKSTREAM") for lane in LANES]
        self.run(self.outside.ask_all(lanes))

    @rule(slot=SLOTS, count=st.integers(1, 3), arrives=st.sampled_from([True, True, True, False]))
    def read(self, slot: int, count: int, arrives: bool) -> None:
        """Without arriving it is as if the answer of Redis had been lost."""
        process = self.processes[slot]
        for ref in self.run(process.read(count, hold=arrives)):
            self.owner[ref], self.deliveries[ref] = process.name, 1

    @rule(slots=STILL)
    def stand_still(self, slots: set[int]) -> None:
        """For longer than a lease: these processes, as those that are dead do anyway."""
        living = {one.name for one in self.processes}
        still = {self.processes[slot].name for slot in slots}
        refs = [ref for ref, owner in self.owner.items() if owner in still or owner not in living]
        self.run(self.processes[0].age(*refs))
        self.old.update(refs)

    @rule(slot=SLOTS)
    def renew(self, slot: int) -> None:
        process = self.processes[slot]
        process.lost.clear()
        self.run(process.leases.renew())
        held = set(process.held)
        gone = {ref for ref in held if ref not in self.owner}
        missed = gone & self.gone.get(process.name, set())
        self.gone[process.name] = gone
        others = {ref for ref in held - gone if self.owner[ref] != process.name}
        assert set(process.lost) == others | missed
        self.old -= held - gone - others

    @rule(slot=SLOTS, still=STILL)
    def reclaim(self, slot: int, still: set[int]) -> None:
        self.stand_still(still)
        process = self.processes[slot]
        with_it = self.expecting(process, sorted(self.old))
        self.run(process.leases.reclaim(process.deliver))
        with_it()

    @rule(slot=SLOTS)
    def adopt(self, slot: int) -> None:
        self.stand_still({slot})
        process = self.processes[slot]
        own = [ref for ref in self.old if self.owner[ref] == process.name and ref not in process.held]
        with_it = self.expecting(process, own)
        assert self.run(process.leases.adopt(process.deliver)) == len(own)
        with_it()

    @rule(slot=SLOTS, data=st.data())
    def take_over(self, slot: int, data: st.DataObject) -> None:
        process = self.processes[slot]
        living = {one.name for one in self.processes}
        dead = sorted({name for name in self.owner.values() if name not in living})
        if dead:
            name = data.draw(st.sampled_from(dead))
            found = [ref for ref, owner in self.owner.items() if owner == name and ref not in process.held]
            with_it = self.expecting(process, found)
            self.run(process.leases.take_over(name, process.deliver))
            with_it()

    @rule(slot=SLOTS, data=st.data())
    def hand_back(self, slot: int, data: st.DataObject) -> None:
        held = list(self.processes[slot].held)
        if held:
            self.give(slot, data.draw(st.lists(st.sampled_from(held), min_size=1, unique=True)))

    @rule(slot=SLOTS, data=st.data())
    def finish(self, slot: int, data: st.DataObject) -> None:
        """By whoever holds it, its owner or not: the finish script asks nobody."""
        process = self.processes[slot]
        held = list(process.held)
        if held:
            ref = data.draw(st.sampled_from(held))
            ends = [
                (word, ref.stream, *more, ref.entry_id) for word, more in (("XACK", (GROUP,)), ("XDEL", ()))
            ]
            self.run(self.outside.ask_all(ends))
            process.held.release(ref)
            self.owner.pop(ref, None)
            self.old.discard(ref)

    @rule(slot=SLOTS, politely=st.booleans())
    def end(self, slot: int, politely: bool) -> None:
        """Another process starts in its place. Who leaves politely lets nobody wait for the end of a lease."""
        if politely:
            self.leave(slot)
        self.replace(slot)

    def leave(self, slot: int) -> None:
        process = self.processes[slot]
        self.give(slot, list(process.held))
        self.run(process.leases.leave())
        for ref, owner in self.owner.items():  # what never arrived, too; what was given back is so once more
            if owner == process.name:
                self.deliveries[ref] = max(self.deliveries[ref] - 1, 0)
                self.old.add(ref)
        if process.name not in self.owner.values():
            assert process.name.encode() not in self.run(process.consumers())

    def give(self, slot: int, refs: Sequence[EntryRef]) -> None:
        process = self.processes[slot]
        self.run(process.leases.hand_back(refs))
        for ref in refs:
            if self.owner.get(ref) == process.name:
                self.old.add(ref)
                self.deliveries[ref] = max(self.deliveries[ref] - 1, 0)

    def replace(self, slot: int) -> None:
        old, self.processes[slot] = self.processes[slot], self.boot()
        self.run(old.wire.close())
        if old.outside is not self.outside:
            self.run(old.outside.close())

    def expecting(self, process: Process, refs: Sequence[EntryRef]) -> Any:
        """The process takes these: afterwards they are its own, and those that it did not hold are worked on, once."""
        held = set(process.held)
        process.seen.clear()
        process.suspects.clear()

        def check() -> None:
            for ref in refs:
                self.owner[ref] = process.name
                self.deliveries[ref] += 1
                self.old.discard(ref)
            fresh = [ref for ref in refs if ref not in held]
            clear = [ref for ref in fresh if self.deliveries[ref] < SUSPECT_FROM]
            assert sorted(delivery.ref for delivery in process.seen) == sorted(clear)
            assert all(delivery.redelivered for delivery in process.seen)
            suspects = {
                Suspect(ref, "default", self.deliveries[ref]) for ref in fresh if ref not in set(clear)
            }
            assert set(process.suspects) == suspects
            assert set(process.held) == held | set(refs)

        return check

    @invariant()
    def each_entry_is_there_and_is_whose_it_should_be(self) -> None:
        rows = self.run(self.outside.ask("XPENDING", self.keys.jobs(), GROUP, "-", "+", 10_000))
        found = {row[0].decode(): (row[1].decode(), row[3]) for row in rows}
        expected = {ref.entry_id: (name, self.deliveries[ref]) for ref, name in self.owner.items()}
        assert found == expected
        stream = self.run(self.outside.ask("XRANGE", self.keys.jobs(), "-", "+"))
        assert {entry_id.decode() for entry_id, _ in stream} == set(expected)


def test_random_walks_of_several_processes_agree_with_the_model(own_valkey: EmbeddedValkey) -> None:
    OwnershipMachine.server = own_valkey
    run_state_machine_as_test(
        OwnershipMachine,
        settings=settings(
            max_examples=deep(60),
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=(
                Phase.explicit,
                Phase.reuse,
                Phase.generate,
            ),  # to shrink a walk over a server takes minutes
        ),
    )
