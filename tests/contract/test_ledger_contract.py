"""What the dispatcher relies on of a ledger, asked of every way of keeping one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.ledgers import KINDS, Rig, rigged
from theo_daemon.embedded_valkey import EmbeddedValkey
from theo_daemon.job import EntryRef
from theo_daemon.ledger import Ledger
from theo_daemon.ledger.port import InflightTimeout, OnId, OnKey
from theo_daemon.ledger.records import (
    Ask,
    Busy,
    CacheWrite,
    Check,
    Clear,
    Conflict,
    Granted,
    Hit,
    IdBusy,
    JobEnd,
    Landing,
    OverBudget,
    Replay,
    Scope,
    Settled,
    Want,
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


def ask(ledger: Ledger, number: int = 1, key: str = "k", *, ceiling: int | None = None, **more: Any) -> Ask:
    want = Want(ledger.next_attempt_id(), "fast", "openai", 100, (Scope("model:fast", 0, ceiling),))
    fields: dict[str, Any] = {"cache_key": key, "digest": key, "want": want, **more}
    return Ask(ref=EntryRef("theo:jobs", f"{number}-0"), key=key, **fields)


def landing(asked: Ask, *, cost: int = 40, answer: bytes = b'{"a":1}', **more: Any) -> Landing:
    assert asked.want is not None
    settled: dict[str, Any] = {
        "attempt_id": asked.want.attempt_id,
        "model": "fast",
        "state": "ok",
        "bound_nano": 100,
        "cost_nano": cost,
        "scopes": asked.want.scopes,
        "latency_ms": 5.0,
        "cache": CacheWrite(asked.key, answer, 60_000, 128),
    }
    end = JobEnd(ref=asked.ref, outcome=answer, client_id=asked.client_id, remember=True)
    return Landing(settled=Settled(**(settled | more)), release_key=asked.key, ends=(end,))


async def sent(ledger: Ledger, *args: Any, **more: Any) -> Ask:
    """A call on its way."""
    asked = ask(ledger, *args, **more)
    assert isinstance(await ledger.ask(asked), Granted)
    return asked


def money(ledger: Ledger) -> tuple[int, int]:
    """Spent and held, in nano-dollars."""
    with ledger.transaction() as transaction:
        (balance,) = transaction.balances()
    return balance.spent_nano, balance.held_nano


async def test_one_asker_gets_the_key_and_the_next_hears_that_it_is_taken(ledger: Ledger) -> None:
    await sent(ledger)
    assert await ledger.ask(ask(ledger, 2)) == Busy()
    assert await ledger.ask(ask(ledger, 3, "other", want=None)) == Clear()


async def test_asks_of_one_moment_are_decided_in_their_order(ledger: Ledger) -> None:
    first, second = ledger.ask(ask(ledger)), ledger.ask(ask(ledger, 2))
    assert await asyncio.gather(first, second) == [Granted(), Busy()]


async def test_a_landing_moves_the_hold_to_what_is_spent_and_serves_who_comes_after(
    ledger: Ledger,
) -> None:
    asked = await sent(ledger)
    assert money(ledger) == (0, 100)
    await ledger.land(landing(asked))
    assert money(ledger) == (40, 0)
    assert await ledger.ask(ask(ledger, 2)) == Hit(b'{"a":1}')
    with ledger.transaction() as transaction:
        assert transaction.get_all_spend() == {"fast": 40e-9}
        assert transaction.get_all_latency() == {"fast": 5.0}


async def test_a_landing_beside_an_ask_serves_it_at_once(ledger: Ledger) -> None:
    asked = await sent(ledger)
    ledger.tell(landing(asked))
    assert await ledger.ask(ask(ledger, 2)) == Hit(b'{"a":1}')


async def test_an_attempt_is_charged_once_however_often_it_is_settled(ledger: Ledger) -> None:
    asked = await sent(ledger)
    await ledger.land(landing(asked))
    await ledger.land(landing(asked))
    assert money(ledger) == (40, 0)


async def test_a_cost_that_nobody_knows_is_the_bound(ledger: Ledger) -> None:
    asked = await sent(ledger)
    await ledger.land(landing(asked, cost_nano=None, state="maybe", cache=None))
    assert money(ledger) == (100, 0)


async def test_the_holder_of_a_key_may_claim_its_next_attempt(ledger: Ledger) -> None:
    asked = await sent(ledger)
    assert isinstance(await ledger.ask(ask(ledger, holding=True)), Granted)
    assert money(ledger) == (0, 200)
    await ledger.land(landing(asked))
    assert money(ledger) == (40, 100)


async def test_calls_racing_for_a_ceiling_never_pass_it(ledger: Ledger) -> None:
    asks = [ask(ledger, number, f"k{number}", ceiling=350) for number in range(8)]
    verdicts = await asyncio.gather(*(ledger.ask(one) for one in asks))
    assert [type(verdict) for verdict in verdicts] == [Granted] * 3 + [OverBudget] * 5
    assert {one.by_holds for one in verdicts if isinstance(one, OverBudget)} == {True}
    assert money(ledger) == (0, 300)


async def test_what_is_spent_refuses_for_good(ledger: Ledger) -> None:
    await ledger.land(landing(await sent(ledger, ceiling=150), cost=100))
    verdict = await ledger.ask(ask(ledger, 2, "k2", ceiling=150))
    assert isinstance(verdict, OverBudget)
    assert (verdict.by_holds, verdict.spent_nano) == (False, 100)


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


async def test_waiting_for_an_id_ends_when_its_job_does(ledger: Ledger, rig: Rig) -> None:
    peer = await rig.open("peer")
    asked = await sent(peer, client_id="mine")
    waiting = ledger.wait(OnId("", "mine"))
    await peer.land(landing(asked))
    await rig.within(waiting)


async def test_a_wait_for_what_nobody_holds_ends_by_itself(ledger: Ledger, rig: Rig) -> None:
    await rig.within(ledger.wait(OnKey("nothing")))


async def test_a_dead_process_s_calls_are_charged_at_their_bound_and_its_keys_are_free(
    ledger: Ledger, rig: Rig
) -> None:
    dead: list[str] = []
    ledger.on_death(dead.append)
    peer = await rig.open("peer")
    await sent(peer)
    waiting = ledger.wait(OnKey("k"))
    await rig.kill(peer)
    await rig.within(waiting)
    await rig.until(lambda: dead)
    assert dead == ["peer"]
    assert money(ledger) == (100, 0)
    verdict = await ledger.ask(ask(ledger, redelivered=True))
    assert isinstance(verdict, Granted)
    assert len(verdict.prior) == 1


async def test_a_process_that_only_seemed_dead_is_charged_the_truth(ledger: Ledger, rig: Rig) -> None:
    peer = await rig.open("peer")
    asked = await sent(peer)
    dead: list[str] = []
    ledger.on_death(dead.append)
    await rig.seems_dead(peer)
    await rig.until(lambda: dead)
    await rig.lands_late(peer, landing(asked))
    assert money(ledger) == (40, 0)


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
