"""The right to probe, rates and standings in the ledger: as decisions, and between two ledgers on one file."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from pathlib import Path
from typing import TypeVar

import pytest
from msgspec import structs

from tests.fakes import MemoryBooks, MemoryLedger, VirtualClock
from theo_daemon.job import EntryRef
from theo_daemon.ledger.rates import Rate
from theo_daemon.ledger.records import (
    Ask,
    Changed,
    Granted,
    Landing,
    OverBudget,
    Scope,
    Settled,
    Throttled,
    Unfit,
    Verdict,
    Want,
)
from theo_daemon.ledger.rules import Balance, Known, decide
from theo_daemon.ledger.shared import (
    Change,
    CircuitClosed,
    CircuitOpened,
    HealthReport,
    PauseAsked,
    SharedStanding,
)
from theo_daemon.ledger.sqlite import SqliteLedger
from theo_workers.health import HealthSnapshot

T = TypeVar("T")
NOW = 1_700_000_000_000
Pair = tuple[SqliteLedger, SqliteLedger]
HALF_OPEN = SharedStanding(model="fast", version=1, generation=1, openings=1, open_until_ms=NOW - 1)


def want(attempt: int = 1, **fields: object) -> Want:
    return structs.replace(Want(attempt, "fast", "openai", 10, (Scope("model:fast", 0, 1_000),)), **fields)


def ask(number: int = 1, **fields: object) -> Ask:
    key = f"k{number}"
    ref = EntryRef("theo:jobs", f"{number}-0")
    return Ask(ref=ref, key=key, cache_key=None, digest=key, want=want(number, **fields))


def answers(known: Known, *asks: Ask) -> list[Verdict]:
    return decide(asks, known, owner=1)[0]


# -- decisions -------------------------------------------------------------------------------------------


def test_of_two_probes_in_a_batch_one_is_granted_and_the_other_learns_of_it() -> None:
    known = Known(now_ms=NOW, standings={"fast": HALF_OPEN})
    first, second = answers(known, ask(1, probe_until_ms=NOW + 9_000), ask(2, probe_until_ms=NOW + 9_000))
    assert isinstance(first, Granted)
    assert first.standing is not None
    assert first.standing.probe == 1
    assert second == Unfit(first.standing)


def test_a_call_that_is_no_probe_needs_no_row() -> None:
    assert answers(Known(now_ms=NOW), ask()) == [Granted()]


def test_a_probe_that_is_refused_claims_nothing() -> None:
    known = Known(now_ms=NOW, standings={"fast": structs.replace(HALF_OPEN, open_until_ms=NOW + 1)})
    verdicts, claims = decide([ask(probe_until_ms=NOW + 9)], known, owner=1)
    assert isinstance(verdicts[0], Unfit)
    assert (claims.attempts, claims.holders, claims.held, claims.standings) == ([], [], {}, {})


def test_a_batch_takes_no_more_than_the_rate_has_left() -> None:
    verdicts = answers(Known(now_ms=NOW), *(ask(n, rate=Rate(2, None)) for n in range(3)))
    assert [type(one) for one in verdicts] == [Granted, Granted, Throttled]


def test_what_does_not_fit_a_budget_takes_nothing_of_the_rate() -> None:
    known = Known(now_ms=NOW, balances={("model:fast", 0): Balance(spent_nano=1_000)})
    verdicts, claims = decide([ask(rate=Rate(2, None))], known, owner=1)
    assert isinstance(verdicts[0], OverBudget)
    assert claims.windows == {}


def test_what_does_not_fit_the_rate_holds_no_money() -> None:
    verdicts, claims = decide(
        [ask(1, rate=Rate(1, None)), ask(2, rate=Rate(1, None))], Known(now_ms=NOW), owner=1
    )
    assert isinstance(verdicts[1], Throttled)
    assert claims.held == {("model:fast", 0): 10}


# -- over one file ---------------------------------------------------------------------------------------


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    async with SqliteLedger(tmp_path / "l.db") as one, SqliteLedger(tmp_path / "l.db") as two:
        yield one, two


async def changed(ledger: SqliteLedger, change: Change) -> Changed:
    answer = await ledger.change(change)
    assert isinstance(answer, Changed)
    return answer


def call(ledger: SqliteLedger, number: int, **fields: object) -> Ask:
    return ask(number, attempt_id=ledger.next_attempt_id(), **fields)


def ended(asked: Ask, state: str = "ok", **fields: object) -> Landing:
    assert asked.want is not None
    settled = Settled(
        attempt_id=asked.want.attempt_id, model="fast", state=state, bound_nano=10, cost_nano=1,
        scopes=asked.want.scopes, latency_ms=5.0,
    )  # fmt: skip
    return Landing(settled=structs.replace(settled, **fields), release_key=asked.key)


async def test_another_process_hears_of_a_change_though_it_waits_for_nothing(
    pair: Pair,
) -> None:
    one, two = pair
    heard: asyncio.Queue[Sequence[SharedStanding]] = asyncio.Queue()
    two.on_standings(heard.put_nowait)
    until_ms = int(time.time() * 1000) + 60_000
    mine = await changed(one, CircuitOpened("fast", 0, until_ms, 1))
    assert mine.news
    assert list(await asyncio.wait_for(heard.get(), 2)) == [mine.standing]
    assert (await two.standings())[0] == [mine.standing]


async def half_open(ledger: SqliteLedger) -> SharedStanding:
    return (await changed(ledger, CircuitOpened("fast", 0, NOW, 1))).standing


async def test_what_a_probe_showed_is_known_before_the_next_may_go(
    pair: Pair,
) -> None:
    one, two = pair
    await half_open(one)
    far = int(time.time() * 1000) + 60_000
    probe = call(one, 1, probe_until_ms=far)
    granted = await one.ask(probe)
    assert isinstance(granted, Granted)
    assert granted.standing is not None
    one.tell(ended(probe, "failed"))  # in one batch with the verdict, and before it
    again = one.change(CircuitOpened("fast", granted.standing.generation, far, 2))
    refused = await two.ask(call(two, 2, probe_until_ms=far))
    assert isinstance(refused, Unfit)
    assert isinstance(await again, Changed)
    assert isinstance(await two.ask(call(two, 3, probe_until_ms=far)), Unfit)


async def test_a_dead_prober_makes_room() -> None:
    clock, books = VirtualClock(), MemoryBooks()
    async with MemoryLedger(books, clock=clock, name="b") as two:
        one = MemoryLedger(books, clock=clock, name="a")
        await one.__aenter__()
        row = await stepped(clock, half_open(two))
        far = int((clock.wall() + 600) * 1000)
        assert isinstance(await stepped(clock, one.ask(call(one, 1, probe_until_ms=far))), Granted)
        assert isinstance(await stepped(clock, two.ask(call(two, 2, probe_until_ms=far))), Unfit)
        one.kill()
        await clock.advance(1.1)
        ((left,), _) = await two.standings()
        assert (left.probe, left.generation) == (0, row.generation + 1)
        assert isinstance(await stepped(clock, two.ask(call(two, 2, probe_until_ms=far))), Granted)
    books.close()


async def stepped(clock: VirtualClock, wanted: Awaitable[T]) -> T:
    """The result, with time standing still."""
    task = asyncio.ensure_future(wanted)
    await clock.advance(0)
    return task.result()


async def test_health_records_of_processes_add_up_and_touch_no_standing(
    pair: Pair,
) -> None:
    one, two = pair
    await changed(one, PauseAsked("fast", NOW))
    nothing, some = HealthSnapshot(), HealthSnapshot(total_successes=3, latency_ewma_ms=7.0)
    one.report_health([HealthReport("fast", nothing, some)])
    two.report_health([HealthReport("fast", nothing, HealthSnapshot(total_failures=2))])
    two.report_health([HealthReport("slow", nothing, some)])
    await changed(one, CircuitClosed("fast", 0))
    await changed(two, CircuitClosed("fast", 0))
    standings, health = await two.standings()
    assert (health["fast"].total_successes, health["fast"].total_failures) == (3, 2)
    assert health["slow"] == some
    assert {row.model: row.paused_until_ms for row in standings} == {"fast": NOW, "slow": 0}
