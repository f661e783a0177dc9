"""Suspect entries: rehearsed one at a time, under a mark that tells the next process of a death."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from msgspec import structs

from tests.fakes import MemoryBooks, MemoryLedger
from tests.scenario.stage import Stage, model, staged
from theo_daemon.held import HeldEntries
from theo_daemon.job import Delivery, EntryRef, Failed
from theo_daemon.lease_scripts import FETCH
from theo_daemon.ledger.records import CallLost, JobEnd, Landing
from theo_daemon.ports import Finish
from theo_daemon.quarantine import Quarantine, QuarantineRules
from theo_daemon.reception import Accepted, Refused
from theo_daemon.reply import encode_outcome
from theo_daemon.suspicion import Suspect
from theo_daemon.wire import Script, Word
from theo_workers.upstreams.script import Fate

HELLO = Fate(text="hello", latency_ms=100)


class Shelf:
    """In the place of a wire: the entries of a stream, as the script FETCH gives them."""

    def __init__(self) -> None:
        self.entries: dict[str, list[bytes]] = {}
        self.fetched: list[tuple[str, int]] = []  # ids, and the most bytes that were asked for

    async def run(self, script: Script, keys: Sequence[str | bytes], args: Sequence[Word]) -> Any:
        assert script is FETCH
        _, _, entry_id, most, field_bytes, words = args
        self.fetched.append((str(entry_id), int(most)))
        fields = self.entries.get(str(entry_id))
        if fields is None:
            return []
        size = sum(map(len, fields))
        return [
            size,
            fields if size <= int(most) else [word[: int(field_bytes)] for word in fields[: int(words)]],
        ]

    async def close(self) -> None:
        """Nothing is open."""


class Deadly:
    """The dispatcher, in a process that dies of certain words: at once when they are rehearsed, or refused."""

    def __init__(self, stage: Stage, of: bytes, *, refusing: bool = False) -> None:
        self._stage, self._of, self._refusing = stage, of, refusing
        self.rehearsed: list[EntryRef] = []

    async def rehearse(self, delivery: Delivery) -> Accepted | Refused:
        self.rehearsed.append(delivery.ref)
        if self._of in delivery.fields:
            await self._die()
        return await self._stage.dispatcher.rehearse(delivery)

    def take(self, batch: Sequence[Accepted | Refused]) -> None:
        self._stage.dispatcher.take(batch)

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        self._stage.dispatcher.deliver(deliveries)

    def refuse(self, refused: Refused) -> asyncio.Future[Finish]:
        if self._refusing and refused.dead is not None and self._of in refused.dead.fields:
            never: asyncio.Future[Finish] = asyncio.get_running_loop().create_future()
            assert isinstance(self._stage.ledger, MemoryLedger)
            self._stage.ledger.kill()
            return never
        return self._stage.dispatcher.refuse(refused)

    async def _die(self) -> None:
        assert isinstance(self._stage.ledger, MemoryLedger)
        self._stage.ledger.kill()
        await asyncio.Event().wait()


class Boot:
    """One process with a quarantine."""

    def __init__(self, stage: Stage, shelf: Shelf, ward: Deadly) -> None:
        self.stage, self.ward, self.held = stage, ward, HeldEntries()
        ingress = stage.config.ingress
        self.quarantine = Quarantine(
            wire=shelf,  # type: ignore[arg-type]
            rules=QuarantineRules(
                group="theo", max_job_bytes=ingress.max_job_bytes, max_deliveries=ingress.max_deliveries
            ),
            consumer="me",
            held=self.held,
            ledger=stage.core.ledger,
            ward=ward,
            reception=stage.core.reception,
            clock=stage.clock,
            rng=random.Random(1),
        )

    def take(self, *suspects: Suspect) -> None:
        self.held.take(Delivery(one.ref, one.lane, []) for one in suspects)
        self.quarantine.take(suspects)

    def failed(self, suspect: Suspect) -> Failed:
        return self.stage.error(suspect.ref)


class World:
    """Books and a stream that outlive processes."""

    def __init__(self) -> None:
        self.books, self.shelf = MemoryBooks(), Shelf()
        self._boots = 0

    @contextlib.asynccontextmanager
    async def boot(
        self, *, dies_of: bytes = b"no such word", refusing: bool = False, **ingress: int
    ) -> AsyncIterator[Boot]:
        self._boots += 1
        name = f"boot-{self._boots}"
        async with staged(model("m", HELLO), books=self.books, name=name, ingress=ingress) as stage:
            boot = Boot(stage, self.shelf, Deadly(stage, dies_of, refusing=refusing))
            await stage.advance(2)  # deaths before are noticed
            running = asyncio.ensure_future(boot.quarantine.run())
            try:
                yield boot
            finally:
                running.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await running

    def push(self, stage: Stage, prompt: str | None = "hi", *, deliveries: int = 3, **fields: Any) -> Suspect:
        delivery = stage.entry(prompt, **fields)
        self.shelf.entries[delivery.ref.entry_id] = delivery.fields
        return Suspect(delivery.ref, "default", deliveries)

    def marks(self) -> list[tuple[str, str]]:
        """Entries and states of rehearsals, oldest first."""
        return self.books.rows("SELECT entry_id, state FROM attempts WHERE model = '' ORDER BY id")


@pytest.fixture
def world() -> World:
    return World()


def after(suspect: Suspect, deaths: int) -> Suspect:
    """As the server has it after so many more deliveries."""
    return structs.replace(suspect, deliveries=suspect.deliveries + deaths)


async def die(world: World, suspect: Suspect, times: int, **ingress: int) -> Suspect:
    """So many processes die while they rehearse it; the entry as it then is."""
    for deaths in range(times):
        async with world.boot(dies_of=b"poison", **ingress) as boot:
            boot.take(after(suspect, deaths))
            await boot.stage.advance(5)
            assert boot.stage.final(suspect.ref) is None
    return after(suspect, times)


async def test_a_healthy_suspect_is_rehearsed_and_answered_and_leaves_no_mark(world: World) -> None:
    async with world.boot() as boot:
        suspects = [world.push(boot.stage, f"healthy {n}") for n in range(100)]
        boot.take(*suspects)
        await boot.stage.advance(60)
        assert boot.stage.ends([one.ref for one in suspects]) == ["ok"] * 100
        assert boot.ward.rehearsed == [one.ref for one in suspects]
        assert {state for _, state in world.marks()} == {"void"}
        assert (len(boot.quarantine), boot.quarantine.give_back()) == (0, [])
        assert boot.stage.rows("SELECT count(*) FROM inflight") == [(0,)]


async def test_a_job_that_kills_whoever_reads_it_is_given_up_after_its_deliveries_and_no_other_is(
    world: World,
) -> None:
    async with staged(model("m")) as stage:
        poison = world.push(
            stage, "poison", id="p-1", tenant="t", metadata={"a": 1}, reply_to="theo:reply:me"
        )
        healthy = [world.push(stage, f"healthy {n}") for n in range(3)]
    for deaths in range(5):
        async with world.boot(dies_of=b"poison") as boot:
            boot.take(*(after(one, deaths) for one in (poison, *healthy)))
            await boot.stage.advance(5)
            assert boot.stage.ends([one.ref for one in (poison, *healthy)]) == ["waiting"] * 4
    assert {entry for entry, _ in world.marks()} == {poison.ref.entry_id}
    async with world.boot(dies_of=b"poison") as boot:
        boot.take(*(after(one, 5) for one in (poison, *healthy)))
        await boot.stage.advance(5)
        refused = boot.failed(poison)
        assert (refused.code, refused.retryable, refused.cost_nano, refused.attempts) == (
            "delivery_limit_exceeded",
            False,
            0,
            (),
        )
        final = boot.stage.final(poison.ref)
        assert final is not None
        assert final.dead is not None
        assert list(final.dead.fields) == world.shelf.entries[poison.ref.entry_id]
        assert (final.dead.code, final.dead.deliveries) == ("delivery_limit_exceeded", 5)
        envelope = boot.stage.replies.envelopes[poison.ref]
        assert (envelope.id, envelope.tenant, envelope.reply_to) == ("p-1", "t", "theo:reply:me")
        assert boot.stage.ends([one.ref for one in healthy]) == ["ok"] * 3
        assert boot.ward.rehearsed == [one.ref for one in healthy]
        assert not [one for one in boot.stage.observer.news if isinstance(one, CallLost)]


async def test_jobs_at_their_provider_when_a_rehearsal_kills_the_process_are_not_blamed(world: World) -> None:
    async with staged(model("m")) as stage:
        poison, healthy = world.push(stage, "poison"), world.push(stage, "healthy", deliveries=1)
    for deaths in range(3):
        async with world.boot(dies_of=b"poison", max_deliveries=3) as boot:
            fields = world.shelf.entries[healthy.ref.entry_id]
            boot.stage.dispatcher.deliver([Delivery(healthy.ref, "default", fields, redelivered=deaths > 0)])
            await boot.stage.advance(0.01)
            assert boot.stage.upstreams["m"].running == ["healthy"]
            boot.take(after(poison, deaths))
            await boot.stage.advance(1)
    async with world.boot(max_deliveries=3) as boot:
        boot.take(after(poison, 3), after(healthy, 3))
        await boot.stage.advance(1)
        assert boot.failed(poison).code == "delivery_limit_exceeded"
        attempts = boot.stage.ok(healthy.ref).attempts
        assert [(one.outcome, one.error_code) for one in attempts] == [("unknown", None)] * 3 + [("ok", None)]


async def test_a_call_lost_beside_a_rehearsal_is_not_repeated_where_that_is_forbidden(world: World) -> None:
    async with staged(model("m")) as stage:
        poison, healthy = world.push(stage, "poison"), world.push(stage, "healthy", on_unknown="fail")
    fields = world.shelf.entries[healthy.ref.entry_id]
    async with world.boot(dies_of=b"poison") as boot:
        boot.stage.dispatcher.deliver([Delivery(healthy.ref, "default", fields)])
        await boot.stage.advance(0.01)
        boot.take(poison)
        await boot.stage.advance(1)
    async with world.boot() as boot:
        boot.stage.dispatcher.deliver([Delivery(healthy.ref, "default", fields, redelivered=True)])
        await boot.stage.advance(1)
        assert boot.failed(healthy).code == "outcome_unknown"
        assert boot.stage.calls == 0


async def test_it_is_refused_before_anything_else_is_looked_at(world: World) -> None:
    """Its deadline has passed, and it was cancelled: neither is what ends it."""
    async with staged(model("m")) as stage:
        poison = world.push(stage, "poison", ttl_ms="1")
    poison = await die(world, poison, 2, max_deliveries=2)
    async with world.boot(max_deliveries=2) as boot:
        boot.stage.cancel(poison.ref.entry_id)
        boot.take(poison)
        await boot.stage.advance(1)
        assert boot.failed(poison).code == "delivery_limit_exceeded"


async def test_one_that_kills_even_who_refuses_it_is_refused_unread(world: World) -> None:
    async with staged(model("m")) as stage:
        poison = world.push(stage, "poison", id="p-1", reply_to="theo:reply:me", padding="x" * 5_000)
    poison = await die(world, poison, 2, max_deliveries=2)
    async with world.boot(dies_of=b"poison", refusing=True, max_deliveries=2) as boot:
        boot.take(poison)
        await boot.stage.advance(1)
        assert boot.stage.final(poison.ref) is None
    poison = after(poison, 1)
    async with world.boot(max_deliveries=2) as boot:
        boot.take(poison)
        await boot.stage.advance(1)
        assert boot.failed(poison).code == "delivery_limit_exceeded"
        envelope = boot.stage.replies.envelopes[poison.ref]
        assert (envelope.id, envelope.reply_to) == (poison.ref.entry_id, None)
        final = boot.stage.final(poison.ref)
        assert final is not None
        assert final.dead is not None
        assert max(map(len, final.dead.fields)) == 1_024
        assert world.shelf.fetched[-1] == (poison.ref.entry_id, 0)


async def test_a_reply_stream_that_is_not_allowed_gets_no_refusal(world: World) -> None:
    async with staged(model("m")) as stage:
        poison = world.push(stage, "poison", reply_to="theo:jobs")
    poison = await die(world, poison, 1, max_deliveries=1)
    async with world.boot(max_deliveries=1) as boot:
        boot.take(poison)
        await boot.stage.advance(1)
        assert boot.failed(poison).code == "delivery_limit_exceeded"
        assert boot.stage.replies.envelopes[poison.ref].reply_to is None


async def test_the_id_of_a_refused_job_is_free_again(world: World) -> None:
    async with staged(model("m")) as stage:
        poison = world.push(stage, "poison", id="p-1")
    poison = await die(world, poison, 1, max_deliveries=1)
    world.books.db.execute(
        "INSERT INTO ids VALUES('', 'p-1', 'd', ?, ?, NULL, 1)", (poison.ref.stream, poison.ref.entry_id)
    )
    async with world.boot(max_deliveries=1) as boot:
        boot.take(poison)
        await boot.stage.advance(1)
        assert boot.failed(poison).code == "delivery_limit_exceeded"
        assert boot.stage.rows("SELECT * FROM ids") == []


async def test_calls_that_died_with_their_processes_are_in_the_refusal_and_need_no_rehearsal(
    world: World,
) -> None:
    async with staged(model("m", Fate(hang=True)), books=world.books, name="victim") as stage:
        delivery = stage.entry("deadly")
        world.shelf.entries[delivery.ref.entry_id] = delivery.fields
        stage.dispatcher.deliver([delivery])
        await stage.advance(1)
        assert isinstance(stage.ledger, MemoryLedger)
        stage.ledger.kill()
    async with world.boot() as boot:
        explained = Suspect(delivery.ref, "default", 3)
        boot.take(explained)
        await boot.stage.advance(1)
        assert boot.ward.rehearsed == []
        assert [one.outcome for one in boot.stage.ok(explained.ref).attempts] == ["unknown", "ok"]
    async with world.boot(max_deliveries=1) as boot:
        boot.take(Suspect(EntryRef(*delivery.ref), "default", 9))
        await boot.stage.advance(1)
        refused = boot.failed(explained)
        assert refused.code == "delivery_limit_exceeded"
        assert [one.outcome for one in refused.attempts] == ["unknown"]


async def test_an_entry_too_large_to_be_read_is_refused_by_its_beginnings(world: World) -> None:
    async with world.boot(max_job_bytes=4_000) as boot:
        large = world.push(boot.stage, "x" * 5_000, id="big", reply_to="theo:reply:me")
        boot.take(large)
        await boot.stage.advance(1)
        refused = boot.failed(large)
        size = sum(map(len, world.shelf.entries[large.ref.entry_id]))
        assert (refused.code, refused.message) == (
            "payload_too_large",
            f"the entry has {size} bytes, and max_job_bytes is 4000",
        )
        assert boot.stage.replies.envelopes[large.ref].reply_to == "theo:reply:me"
        final = boot.stage.final(large.ref)
        assert final is not None
        assert final.dead is not None
        assert max(map(len, final.dead.fields)) == 1_024
        assert boot.ward.rehearsed == []
        assert boot.held.bytes == 0


async def test_what_was_read_weighs_what_it_has(world: World) -> None:
    async with world.boot() as boot:
        suspect = world.push(boot.stage, "hello")
        boot.take(suspect)
        assert boot.held.bytes == 0
        await boot.stage.advance(0.01)
        assert boot.held.bytes == sum(map(len, world.shelf.entries[suspect.ref.entry_id]))


async def test_an_invalid_suspect_gets_its_error(world: World) -> None:
    async with world.boot() as boot:
        suspect = world.push(boot.stage, None, promt="typo")
        boot.take(suspect)
        await boot.stage.advance(1)
        assert boot.failed(suspect).code == "invalid_job"
        assert world.marks() == [(suspect.ref.entry_id, "void")]


async def test_one_that_is_another_s_by_now_is_let_go(world: World) -> None:
    async with world.boot() as boot:
        suspect = world.push(boot.stage)
        del world.shelf.entries[suspect.ref.entry_id]
        boot.take(suspect)
        await boot.stage.advance(1)
        assert boot.stage.final(suspect.ref) is None
        assert suspect.ref not in boot.held
        assert len(boot.quarantine) == 0


async def test_one_whose_outcome_is_on_record_is_published_without_a_rehearsal(world: World) -> None:
    async with world.boot() as boot:
        suspect = world.push(boot.stage)
        first = await boot.stage.answer("hi")
        await boot.stage.core.ledger.land(
            Landing(ends=(JobEnd(ref=suspect.ref, outcome=encode_outcome(first)),))
        )
        boot.take(suspect)
        await boot.stage.advance(1)
        assert boot.stage.outcome(suspect.ref) == first
        assert boot.ward.rehearsed == []


async def test_one_that_a_living_process_is_at_waits_for_it(world: World) -> None:
    async with world.boot() as first, world.boot() as second:
        suspect = world.push(first.stage)
        async with first.quarantine._marked(suspect) as marked:
            assert marked
            second.take(suspect)
            await second.stage.advance(5)
            assert second.ward.rehearsed == []
            other = world.push(second.stage, "other")
            second.take(other)
            await second.stage.advance(2)
            assert second.stage.end(other.ref) == "ok"
        await first.stage.advance(0.1)
        await second.stage.advance(2)
        assert second.stage.end(suspect.ref) == "ok"


async def test_a_drain_in_the_middle_of_a_rehearsal_takes_the_mark_away_and_gives_everything_back(
    world: World,
) -> None:
    async with world.boot() as boot:
        suspects = [world.push(boot.stage, f"{n}") for n in range(3)]
        stuck = asyncio.Event()

        async def never(delivery: Delivery) -> Accepted | Refused:
            stuck.set()
            await asyncio.Event().wait()
            raise AssertionError

        boot.ward.rehearse = never  # type: ignore[method-assign]
        boot.take(*suspects)
        await boot.stage.advance(1)
        assert stuck.is_set()
    assert [state for _, state in world.marks()] == ["void"]
    assert boot.quarantine.give_back() == [one.ref for one in suspects]


async def test_a_bug_in_a_rehearsal_ends_its_own_job_and_nothing_else(world: World) -> None:
    async with world.boot() as boot:
        suspect, other = world.push(boot.stage, "x" * 20_000), world.push(boot.stage, "other")
        broken = RuntimeError("a bug")

        async def count(*_: object) -> None:
            raise broken

        measuring = boot.stage.dispatcher._measuring
        measuring.rehearse = measuring.measure = count  # type: ignore[method-assign]
        boot.stage.expected_bugs.append(broken)
        boot.take(suspect, other)
        await boot.stage.advance(2)
        assert boot.failed(suspect).code == "internal_error"
        assert boot.stage.end(other.ref) == "ok"
