"""What the dispatcher relies on of a ledger, asked of every way of keeping one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec import structs

from tests.contract.asks import ask, landing, money, sent
from tests.contract.ledgers import KINDS, Rig, rigged
from theo_daemon.embedded_valkey import EmbeddedValkey
from theo_daemon.job import EntryRef
from theo_daemon.ledger import Ledger
from theo_daemon.ledger.port import InflightTimeout, OnId, OnKey
from theo_daemon.ledger.records import (
    Busy,
    Check,
    Clear,
    Conflict,
    Granted,
    Hit,
    IdBusy,
    JobEnd,
    Landing,
    Replay,
)


@pytest.fixture(params=KINDS)
async def rig(
    request: pytest.FixtureRequest, tmp_path: Path, valkey: EmbeddedValkey, prefix: str
) -> AsyncIterator[Rig]:
    async with rigged(request.param, tmp_path, valkey, prefix) as rig:
        yield rig


@pytest.fixture
async def ledger(rig: Rig) -> Ledger:
    return await rig.open("first")


async def test_one_asker_gets_the_key_and_the_next_hears_that_it_is_taken(ledger: Ledger) -> None:
    await sent(ledger)
    assert await ledger.ask(ask(ledger, 2)) == Busy()
    assert await ledger.ask(ask(ledger, 3, "other", want=None)) == Clear()


async def test_asks_of_one_moment_are_decided_in_their_order(ledger: Ledger) -> None:
    first, second = ledger.ask(ask(ledger)), ledger.ask(ask(ledger, 2))
    assert await asyncio.gather(first, second) == [Granted(), Busy()]


async def test_a_repeated_id_is_answered_from_memory_and_another_payload_is_a_conflict(
    ledger: Ledger,
) -> None:
    asked = await sent(ledger, client_id="mine")
    assert await ledger.ask(ask(ledger, 2, "k2", client_id="mine", digest="k")) == IdBusy(asked.ref)
    await ledger.land(landing(asked))
    assert await ledger.ask(ask(ledger, 3, client_id="mine")) == Replay(b'{"a":1}', own=False)
    assert await ledger.ask(ask(ledger, 4, "k4", client_id="mine")) == Conflict()
    assert isinstance(await ledger.ask(ask(ledger, 5, "k5", client_id="mine", tenant="other")), Granted)
    check = Check(ref=EntryRef("theo:jobs", "6-0"), digest="k", client_id="mine")
    assert await ledger.ask(check) == Replay(b'{"a":1}', own=False)


async def test_an_id_is_forgotten_to_the_moment_but_by_its_own_entry(rig: Rig) -> None:
    ledger = await rig.open("first", id_ttl_s=0.5)
    asked = await sent(ledger, client_id="mine")
    await ledger.land(landing(asked))
    assert await ledger.ask(ask(ledger, 2, client_id="mine")) == Replay(b'{"a":1}', own=False)
    await rig.pass_time(0.6)
    own = Check(ref=asked.ref, digest="k", client_id="mine", redelivered=True)
    assert await ledger.ask(own) == Replay(b'{"a":1}', own=True)
    other = ask(ledger, 3, "k3", client_id="mine")
    assert isinstance(await ledger.ask(other), Granted)
    assert await ledger.ask(ask(ledger, 4, "k4", client_id="mine", digest="k3")) == IdBusy(other.ref)


async def test_an_id_whose_job_left_nothing_to_remember_is_free_again(ledger: Ledger) -> None:
    asked = await sent(ledger, client_id="mine")
    end = JobEnd(ref=asked.ref, outcome=None, client_id="mine")
    await ledger.land(Landing(release_key="k", ends=(end,)))
    assert isinstance(await ledger.ask(ask(ledger, 2, client_id="mine")), Granted)


async def test_a_redelivered_entry_finds_its_outcome_until_it_is_forgotten(ledger: Ledger, rig: Rig) -> None:
    asked = await sent(ledger)
    await ledger.land(landing(asked))
    again = ask(ledger, redelivered=True, cache_key=None, want=None)
    assert await ledger.ask(again) == Replay(b'{"a":1}', own=True)
    ledger.forget(asked.ref)
    assert await ledger.ask(again) == Replay(b'{"a":1}', own=True)
    await rig.pass_time(0.7)
    assert await ledger.ask(again) == Clear()


async def test_the_answer_to_an_ask_that_nobody_awaits_any_more_goes_to_the_orphanage(
    ledger: Ledger, rig: Rig
) -> None:
    told: list[object] = []
    ledger.ask(ask(ledger), told.append).cancel()
    await rig.until(lambda: told)
    assert told == [Granted()]


async def test_waiting_for_a_key_ends_when_another_process_lets_go_of_it(ledger: Ledger, rig: Rig) -> None:
    peer = await rig.open("peer")
    asked = await sent(peer)
    assert await ledger.ask(ask(ledger, 2)) == Busy()
    waiting = ledger.wait(OnKey("k"))
    still = ledger.wait(OnKey("k"))
    still.cancel()
    await peer.land(landing(asked))
    await rig.within(waiting)
    since = ask(ledger, 2, waited_since_ms=0)
    assert await ledger.ask(since) == Hit(b'{"a":1}')


async def test_the_id_of_a_lost_entry_is_free_once_no_call_for_it_is_out(ledger: Ledger) -> None:
    first = ask(ledger, 1, client_id="mine")
    assert isinstance(await ledger.ask(first), Granted)
    lost = Landing(ends=(JobEnd(ref=first.ref, outcome=None, client_id="mine", vanished=True),))
    await ledger.land(lost)
    second = ask(ledger, 2, client_id="mine")
    assert await ledger.ask(second) == IdBusy(first.ref)
    ended = landing(first, state="failed", cost=0, cache=None)
    await ledger.land(Landing(settled=ended.settled, release_key=ended.release_key))
    await ledger.land(lost)
    assert isinstance(await ledger.ask(second), Granted)
    await ledger.land(Landing(ends=(JobEnd(ref=first.ref, outcome=None, client_id="mine", vanished=True),)))
    assert await ledger.ask(ask(ledger, 3, client_id="mine")) == IdBusy(
        second.ref
    )  # it is not the first one's any more


async def test_waiting_for_an_id_ends_when_its_job_does(ledger: Ledger, rig: Rig) -> None:
    peer = await rig.open("peer")
    asked = await sent(peer, client_id="mine")
    waiting = ledger.wait(OnId("", "mine"))
    await peer.land(landing(asked))
    await rig.within(waiting)


async def test_a_wait_for_what_nobody_holds_ends_by_itself(ledger: Ledger, rig: Rig) -> None:
    await rig.within(ledger.wait(OnKey("nothing")))


async def test_who_holds_an_id_is_told_while_its_job_runs(ledger: Ledger) -> None:
    asked = await sent(ledger, client_id="käse 1\n", tenant="acme")

    def holders() -> list[EntryRef | None]:
        with ledger.transaction() as books:
            return [books.id_holder(tenant, "käse 1\n") for tenant in ("acme", "")]

    assert holders() == [asked.ref, None]
    end = JobEnd(
        ref=asked.ref, outcome=b"{}", digest="k", tenant="acme", client_id=asked.client_id, remember=True
    )
    await ledger.land(structs.replace(landing(asked), ends=(end,)))
    assert holders() == [None, None], "it is answered by now"


async def test_attempt_ids_of_two_processes_never_meet(ledger: Ledger, rig: Rig) -> None:
    peer = await rig.open("peer")
    ids = [one.next_attempt_id() for one in (ledger, peer) for _ in range(5)]
    assert len(set(ids)) == 10


async def test_waiting_for_a_generation_returns_its_answer_or_says_what_it_waited_for(
    ledger: Ledger, rig: Rig
) -> None:
    asked = await sent(ledger, key="abcdef1234")
    impatient = asyncio.ensure_future(ledger.wait_for_inflight("abcdef1234", timeout_s=0.2))
    with pytest.raises(InflightTimeout, match=r"key: abcdef\.\.\., status: waiting, elapsed: 0\.2s\)"):
        await rig.within(impatient)
    patient = asyncio.ensure_future(ledger.wait_for_inflight("abcdef1234", timeout_s=5))
    await asyncio.sleep(0)
    await ledger.land(landing(asked))
    assert await rig.within(patient) == b'{"a":1}'
    nothing = asyncio.ensure_future(ledger.wait_for_inflight("nothing", timeout_s=0.1))
    assert await rig.within(nothing) is None


async def test_what_was_only_told_is_on_record_by_the_end(rig: Rig) -> None:
    first = await rig.open("first")
    reader = await rig.open("reader")
    asked = await sent(first)
    first.tell(landing(asked))
    await first.__aexit__(None, None, None)
    assert money(reader) == (40, 0)
    assert reader.trouble is None
    assert not reader.crashed.done()


async def test_a_large_answer_is_kept_for_others_and_its_outcome_for_its_id(ledger: Ledger) -> None:
    """Both are made of the same memory."""
    long = memoryview(b'"%b"' % ("汉".encode() * 400_000))
    answer, outcome = (b'{"output":', long, b"}"), (b'["answered",{"output":', long, b"},7]")
    await ledger.land(landing(await sent(ledger, client_id="mine"), answer=answer, outcome=outcome))
    hit, replay = await ledger.ask(ask(ledger, 2)), await ledger.ask(ask(ledger, 3, client_id="mine"))
    assert isinstance(hit, Hit)
    assert isinstance(replay, Replay)
    assert (hit.answer, replay.outcome) == (b"".join(answer), b"".join(outcome))


@pytest.mark.parametrize("client_id", [None, "mine"])
async def test_of_two_ends_of_one_entry_the_first_counts(ledger: Ledger, client_id: str | None) -> None:
    """It may be out by then: whoever looks for it later must find what the client has."""
    first = await sent(ledger, client_id=client_id)
    await ledger.land(landing(first, outcome=b'{"first":1}'))
    end = JobEnd(ref=first.ref, outcome=b'{"second":1}', digest="k", client_id=client_id, remember=True)
    await ledger.land(Landing(ends=(end,)))
    again = ask(ledger, client_id=client_id, redelivered=True, cache_key=None, want=None)
    assert await ledger.ask(again) == Replay(b'{"first":1}', own=True)
