"""Money in a ledger, in every way of keeping one: held, spent, refused, and booked when a process dies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec import structs

from tests.contract.asks import ask, landing, money, sent
from tests.contract.ledgers import KINDS, Rig, rigged
from theo_daemon.embedded_valkey import EmbeddedValkey
from theo_daemon.ledger import Ledger
from theo_daemon.ledger.port import OnKey
from theo_daemon.ledger.records import (
    NO_MODEL,
    Ask,
    Busy,
    CallLost,
    CeilingEased,
    Check,
    Clear,
    Granted,
    Hit,
    Landing,
    News,
    OtherWindow,
    OverBudget,
    Scope,
    Want,
)
from theo_daemon.ledger.unknown_calls import BESIDE


@pytest.fixture(params=KINDS)
async def rig(
    request: pytest.FixtureRequest, tmp_path: Path, valkey: EmbeddedValkey, prefix: str
) -> AsyncIterator[Rig]:
    async with rigged(request.param, tmp_path, valkey, prefix) as rig:
        yield rig


@pytest.fixture
async def ledger(rig: Rig) -> Ledger:
    return await rig.open("first")


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


async def test_of_two_calls_for_one_key_the_one_that_is_closed_is_charged_by_itself_and_the_key_is_kept(
    ledger: Ledger,
) -> None:
    first = await sent(ledger)
    rival = await sent(ledger, holding=True)
    closed = landing(first, state="cancelled", cost_nano=None, cache=None).settled
    await ledger.land(Landing(settled=closed))
    assert money(ledger) == (100, 100)
    assert await ledger.ask(ask(ledger, 2)) == Busy()
    await ledger.land(landing(rival))
    assert money(ledger) == (140, 0)
    assert await ledger.ask(ask(ledger, 2)) == Hit(b'{"a":1}')


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


def drawing(ledger: Ledger, number: int, *scopes: Scope, bound: int = 100) -> Ask:
    want = Want(ledger.next_attempt_id(), "fast", "openai", bound, scopes)
    return ask(ledger, number, f"k{number}", want=want)


def rows(ledger: Ledger) -> dict[tuple[str, int], tuple[int, int]]:
    """Spent and held by scope and window."""
    with ledger.transaction() as books:
        return {(one.scope, one.window_start_ms): (one.spent_nano, one.held_nano) for one in books.balances()}


async def test_a_call_is_held_in_every_scope_and_settled_in_every_scope_or_refused_in_all(
    ledger: Ledger,
) -> None:
    wide, narrow = Scope("all@1h", 1_000, 1_000, 2_000), Scope("tenant=a@total", 0, 150)
    first = drawing(ledger, 1, wide, narrow)
    assert isinstance(await ledger.ask(first), Granted)
    refused = await ledger.ask(drawing(ledger, 2, wide, narrow))
    assert isinstance(refused, OverBudget)
    assert (refused.scope.name, refused.by_holds) == ("tenant=a@total", True)
    assert rows(ledger) == {("all@1h", 1_000): (0, 100), ("tenant=a@total", 0): (0, 100)}
    await ledger.land(landing(first))
    assert rows(ledger) == {("all@1h", 1_000): (40, 0), ("tenant=a@total", 0): (40, 0)}


async def test_a_call_counts_in_the_window_in_which_it_was_reserved(ledger: Ledger) -> None:
    before, after = Scope("all@1h", 1_000, 100, 2_000), Scope("all@1h", 2_000, 100, 3_000)
    late = drawing(ledger, 1, before)
    assert isinstance(await ledger.ask(late), Granted)
    assert isinstance(await ledger.ask(drawing(ledger, 2, before)), OverBudget)
    assert isinstance(await ledger.ask(drawing(ledger, 3, after)), Granted)
    await ledger.land(landing(late))
    assert rows(ledger) == {("all@1h", 1_000): (40, 0), ("all@1h", 2_000): (0, 100)}


async def test_a_window_begins_once_for_all_processes_and_none_goes_back(ledger: Ledger, rig: Rig) -> None:
    peer = await rig.open("peer")
    assert isinstance(await ledger.ask(drawing(ledger, 1, Scope("t@~1h", 1_000, 1_000, 2_000))), Granted)
    runs = OtherWindow("t@~1h", 1_000, 2_000)
    for number, start in enumerate((1_001, 1_999, 999, 1), 2):
        assert await peer.ask(drawing(peer, number, Scope("t@~1h", start, 1_000, start + 1_000))) == runs
    assert isinstance(await peer.ask(drawing(peer, 6, Scope("t@~1h", 1_000, 1_000, 2_000))), Granted)
    assert isinstance(await peer.ask(drawing(peer, 7, Scope("t@~1h", 2_500, 1_000, 3_500))), Granted)
    assert await ledger.ask(drawing(ledger, 8, Scope("t@~1h", 1_000, 1_000, 2_000))) == OtherWindow(
        "t@~1h", 2_500, 3_500
    )
    assert rows(ledger) == {("t@~1h", 1_000): (0, 200), ("t@~1h", 2_500): (0, 100)}


async def test_a_tenant_that_nobody_has_heard_of_cannot_race_past_its_ceiling(
    ledger: Ledger, rig: Rig
) -> None:
    peer = await rig.open("peer")
    new = Scope("tenant=new@1h", 1_000, 250, 2_000)
    asks = [one.ask(drawing(one, n, new)) for n, one in enumerate((ledger, peer) * 4)]
    verdicts = [await rig.within(verdict) for verdict in asks]
    assert sorted(type(verdict).__name__ for verdict in verdicts) == ["Granted"] * 2 + ["OverBudget"] * 6
    assert rows(ledger) == {("tenant=new@1h", 1_000): (0, 200)}


async def test_pressure_is_in_the_answer_to_every_claim_and_told_once(ledger: Ledger, rig: Rig) -> None:
    peer = await rig.open("peer")
    told: list[News] = []
    ledger.on_news(told.append)
    peer.on_news(told.append)
    scope = Scope("tenant=a@total", 0, 1_000, ease_nano=50)
    for number, (one, strained) in enumerate(
        [(ledger, ()), (peer, ()), (ledger, (scope.name,)), (peer, (scope.name,))]
    ):
        asked = drawing(one, number, scope)
        verdict = await rig.within(one.ask(asked))
        assert isinstance(verdict, Granted)
        assert verdict.strained == strained
        await rig.within(one.land(landing(asked)))
    assert told == [CeilingEased(scope, 80)]


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


async def test_what_a_dead_process_lost_is_told_with_whatever_answers_its_entry(
    ledger: Ledger, rig: Rig
) -> None:
    """A look tells it, too, and so does an answer from the cache: the job pays for it all the same."""
    dead: list[str] = []
    ledger.on_death(dead.append)
    peer = await rig.open("peer")
    lost = await sent(peer)
    await rig.kill(peer)
    await rig.until(lambda: dead)
    other = await sent(ledger, 2)
    await ledger.land(landing(other))
    again = Check(ref=lost.ref, digest="k", redelivered=True)
    looked, hit = await ledger.ask(again), await ledger.ask(ask(ledger, redelivered=True))
    assert isinstance(looked, Clear)
    assert isinstance(hit, Hit)
    assert [one.attempt_id for one in looked.prior] == [lost.want.attempt_id]  # type: ignore[union-attr]
    assert hit == Hit(b'{"a":1}', looked.prior)
    assert await ledger.ask(structs.replace(again, redelivered=False)) == Clear()


async def test_a_process_that_dies_while_it_rehearses_a_job_dies_of_that_job(
    ledger: Ledger, rig: Rig
) -> None:
    """What it had sent is lost all the same, but told apart from calls that it may have died of."""
    news: list[News] = []
    ledger.on_news(news.append)
    dead: list[str] = []
    ledger.on_death(dead.append)
    peer = await rig.open("peer")
    beside = await sent(peer)
    mark = Want(peer.next_attempt_id(), NO_MODEL, NO_MODEL, 0, ())
    await sent(peer, 2, ":mark", want=mark, cache_key=None)
    await rig.kill(peer)
    await rig.until(lambda: dead)
    assert money(ledger) == (100, 0)
    looks = [
        await ledger.ask(ask(ledger, number, f"look {number}", redelivered=True, want=None))
        for number in (1, 2)
    ]
    (lost,), (rehearsed,) = (look.prior for look in looks if isinstance(look, Clear))
    assert (lost.attempt_id, lost.state, lost.error_code) == (beside.want.attempt_id, "unknown", BESIDE)  # type: ignore[union-attr]
    assert (rehearsed.attempt_id, rehearsed.state, rehearsed.error_code) == (mark.attempt_id, "unknown", None)
    assert (lost.is_call, rehearsed.is_call) == (True, False)
    assert [one.attempt.attempt_id for one in news if isinstance(one, CallLost)] == [lost.attempt_id]
    with ledger.transaction() as transaction:
        (call,) = transaction.unknown_calls()
    assert (call.entry_id, call.error_code) == ("1-0", None)


async def test_a_rehearsal_that_is_survived_leaves_nothing_behind(ledger: Ledger) -> None:
    want = Want(ledger.next_attempt_id(), NO_MODEL, NO_MODEL, 0, ())
    marked = await sent(ledger, 1, ":mark", want=want, cache_key=None)
    assert await ledger.ask(ask(ledger, 1, ":mark", want=None)) == Busy()
    end = landing(marked, model=NO_MODEL, state="void", cost_nano=0, bound_nano=0, cache=None)
    await ledger.land(Landing(settled=end.settled, release_key=":mark"))
    assert await ledger.ask(ask(ledger, 1, ":mark", redelivered=True, want=None)) == Clear()


async def test_a_process_that_only_seemed_dead_is_charged_the_truth(ledger: Ledger, rig: Rig) -> None:
    peer = await rig.open("peer")
    asked = await sent(peer)
    dead: list[str] = []
    ledger.on_death(dead.append)
    await rig.seems_dead(peer)
    await rig.until(lambda: dead)
    await rig.lands_late(peer, landing(asked))
    assert money(ledger) == (40, 0)
    with ledger.transaction() as transaction:
        (call,) = transaction.unknown_calls()
    assert (call.answered_late, call.bound, call.charged, call.error_code) == (True, 100e-9, 40e-9, None)
    assert call.followed == "answered late, its true cost is booked"


async def test_calls_of_unknown_outcome_are_listed_with_the_id_of_their_job_and_what_followed(
    ledger: Ledger, rig: Rig
) -> None:
    peer = await rig.open("peer")
    await sent(peer, client_id="invoice-7", tenant="acme")
    doubtful = await sent(ledger, 2, "other")
    maybe = {
        "state": "maybe",
        "cost_nano": None,
        "error_code": "provider_timeout",
        "provider_request_id": "req-1",
    }
    await ledger.land(landing(doubtful, cache=None, **maybe))
    dead: list[str] = []
    ledger.on_death(dead.append)
    await rig.kill(peer)
    await rig.until(lambda: dead)
    with ledger.transaction() as transaction:
        found = {call.entry_id: call for call in transaction.unknown_calls()}
    assert found.keys() == {"1-0", "2-0"}
    assert {call.followed for call in found.values()} == {"not sent again"}
    assert (found["1-0"].outcome, found["2-0"].outcome) == ("unknown", "maybe")
    assert (found["1-0"].tenant, found["1-0"].id) == ("acme", "invoice-7")
    assert (found["2-0"].provider_request_id, found["2-0"].error_code) == ("req-1", "provider_timeout")
    assert {call.charged for call in found.values()} == {100e-9}

    again = await sent(ledger, redelivered=True)
    with ledger.transaction() as transaction:
        (resent,) = (call for call in transaction.unknown_calls() if call.entry_id == "1-0")
    assert resent.followed == "sent again: fast sent"
    await ledger.land(landing(again))
    with ledger.transaction() as transaction:
        (resent,) = (call for call in transaction.unknown_calls() if call.entry_id == "1-0")
        assert resent.followed == "sent again: fast ok"
        assert transaction.unknown_calls(model="slow") == []
        assert transaction.unknown_calls(since_ms=resent.sent_at_ms + 10**9) == []
        assert len(transaction.unknown_calls(limit=1)) == 1
