"""What all processes hold true of models, and what they are told once: the same in every way of keeping a ledger."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from tests.contract.ledgers import KINDS, Rig, rigged
from theo_daemon.embedded_valkey import EmbeddedValkey
from theo_daemon.job import EntryRef
from theo_daemon.ledger import Ledger
from theo_daemon.ledger.rates import Rate
from theo_daemon.ledger.records import (
    Ask,
    CacheWrite,
    CallLost,
    CeilingNear,
    CeilingReached,
    Changed,
    Clear,
    Granted,
    Hit,
    Landing,
    News,
    OverBudget,
    Scope,
    Settled,
    Throttled,
    Unfit,
    Want,
)
from theo_daemon.ledger.shared import (
    Change,
    CircuitClosed,
    CircuitOpened,
    FailureCounted,
    HealthReport,
    ModelDisabled,
    Ordered,
    PauseAsked,
    SharedStanding,
)
from theo_workers.health import HealthSnapshot

TOTAL = Scope("model:fast", 0)


class Pair:
    """Two processes."""

    def __init__(self, rig: Rig, one: Ledger, two: Ledger) -> None:
        self.rig, self.one, self.two = rig, one, two
        self.later_ms = rig.now_ms + 60_000


@pytest.fixture(params=KINDS)
async def pair(
    request: pytest.FixtureRequest, tmp_path: Path, valkey: EmbeddedValkey, prefix: str
) -> AsyncIterator[Pair]:
    async with rigged(request.param, tmp_path, valkey, prefix) as rig:
        yield Pair(rig, await rig.open("one"), await rig.open("two"))


async def changed(ledger: Ledger, change: Change) -> Changed:
    answer = await ledger.change(change)
    assert isinstance(answer, Changed)
    return answer


async def half_open(pair: Pair) -> SharedStanding:
    return (await changed(pair.one, CircuitOpened("fast", 0, pair.rig.now_ms - 1, 1))).standing


def call(ledger: Ledger, number: int, *, scopes: tuple[Scope, ...] = (TOTAL,), **fields: Any) -> Ask:
    want = Want(ledger.next_attempt_id(), "fast", "openai", 10, scopes, **fields)
    return Ask(
        ref=EntryRef("theo:jobs", f"{number}-0"), key=f"k{number}", cache_key=None, digest="d", want=want
    )


def iter_queue(queue: asyncio.Queue[Sequence[SharedStanding]]) -> list[list[SharedStanding]]:
    return [list(queue.get_nowait()) for _ in range(queue.qsize())]


def ended(asked: Ask, state: str = "ok", **fields: Any) -> Landing:
    assert asked.want is not None
    settled = Settled(
        attempt_id=asked.want.attempt_id, model="fast", state=state, bound_nano=10, cost_nano=1,
        scopes=asked.want.scopes, latency_ms=5.0,
    )  # fmt: skip
    return Landing(settled=structs.replace(settled, **fields), release_key=asked.key)


async def test_another_process_hears_of_a_change_within_three_tenths_of_a_second(pair: Pair) -> None:
    heard: asyncio.Queue[Sequence[SharedStanding]] = asyncio.Queue()
    await pair.rig.pass_time(0.3)
    pair.two.on_standings(heard.put_nowait)
    mine = await changed(pair.one, CircuitOpened("fast", 0, pair.later_ms, 1))
    assert mine.news
    await pair.rig.pass_time(0.3)
    assert list(heard.get_nowait()) == [mine.standing]
    assert (await pair.two.standings())[0] == [mine.standing]


async def test_of_two_processes_that_open_a_circuit_one_makes_the_news(pair: Pair) -> None:
    found = await asyncio.gather(
        *(
            changed(one, CircuitOpened("fast", 0, pair.later_ms + n, 1))
            for n, one in enumerate((pair.one, pair.two))
        )
    )
    assert sorted(one.news for one in found) == [False, True]
    assert found[0].standing == found[1].standing


async def failed(pair: Pair, ledger: Ledger, number: int) -> Changed:
    """A call that failed, as a worker and its job tell of it."""
    asked = call(ledger, number)
    assert isinstance(await ledger.ask(asked), Granted)
    counted = ledger.change(FailureCounted("fast", 0, threshold=3, until_ms=pair.later_ms))
    ledger.tell(ended(asked, "failed", error_code="provider_unavailable"))
    answer = await pair.rig.within(counted)
    assert isinstance(answer, Changed)
    return answer


async def test_failures_in_a_row_are_counted_over_processes_and_only_the_last_is_news(pair: Pair) -> None:
    heard: asyncio.Queue[Sequence[SharedStanding]] = asyncio.Queue()
    await pair.rig.pass_time(0.3)
    pair.two.on_standings(heard.put_nowait)
    first, second = await failed(pair, pair.one, 1), await failed(pair, pair.two, 2)
    assert [one.standing.failures for one in (first, second)] == [1, 2]
    assert [one.news for one in (first, second)] == [False, False]
    assert second.standing.version == 0
    await pair.rig.pass_time(0.3)
    third = await failed(pair, pair.one, 3)
    assert third.news
    assert (third.standing.openings, third.standing.open_until_ms) == (1, pair.later_ms)
    assert (third.standing.generation, third.standing.failures) == (1, 0)
    await pair.rig.pass_time(0.3)
    told = [row for rows in iter_queue(heard) for row in rows]
    assert [row for row in told if row.version] == [third.standing]
    late = await failed(pair, pair.two, 4)
    assert late == Changed(third.standing, False), "of a circuit that is open by now"


async def test_an_answer_that_any_process_got_ends_the_row_of_failures(pair: Pair) -> None:
    for number, one in enumerate((pair.one, pair.two)):
        await failed(pair, one, number)
    answered = call(pair.two, 5)
    assert isinstance(await pair.two.ask(answered), Granted)
    await pair.two.land(ended(answered))
    again = await failed(pair, pair.one, 6)
    assert (again.standing.failures, again.standing.openings) == (1, 0)


@pytest.mark.parametrize(
    ("change", "goes"),
    [
        (lambda at: CircuitOpened("fast", 0, at, 1), False),
        (
            lambda _: CircuitOpened("fast", 0, 1, 1),
            False,
        ),  # over by now: a probe may go, and asks for the right to
        (lambda at: FailureCounted("fast", 0, threshold=1, until_ms=at), False),
        (lambda at: FailureCounted("fast", 0, threshold=2, until_ms=at), True),
        (lambda at: PauseAsked("fast", at), False),
        (lambda _: ModelDisabled("fast", "authentication_failed", "c1"), False),
        (lambda _: Ordered("fast", "5-1", disable=False), True),
        (lambda at: CircuitOpened("fast", 7, at, 1), True),  # from before the circuit's last change
        (lambda at: CircuitOpened("slow", 0, at, 1), True),
    ],
)
async def test_a_batch_that_shuts_a_model_lets_no_call_of_it_go(
    pair: Pair, change: Callable[[int], Change], goes: bool
) -> None:
    """They were admitted before, and a ledger that is slow may have kept them in its queue for long."""
    asked = pair.one.ask(call(pair.one, 1))
    told = pair.one.change(change(pair.later_ms))
    pair.one.tell(Landing())  # a failure goes on record with the end of its call
    verdict = await pair.rig.within(asked)
    answer = await pair.rig.within(told)
    assert isinstance(answer, Changed)
    assert verdict == (Granted() if goes else Unfit(answer.standing))


async def test_every_kind_of_change_makes_its_row(pair: Pair) -> None:
    at = pair.later_ms
    row = (await changed(pair.one, PauseAsked("fast", at))).standing
    dated_ms = row.dated_ms
    assert 0 <= pair.rig.now_ms - dated_ms < 2_000
    assert row == SharedStanding(model="fast", version=1, paused_until_ms=at, dated_ms=dated_ms)
    row = (await changed(pair.two, ModelDisabled("fast", "authentication_failed", "c1"))).standing
    assert (row.disabled, row.credential, row.version) == ("authentication_failed", "c1", 2)
    row = (await changed(pair.one, Ordered("fast", "5-1", disable=True))).standing
    assert (row.disabled, row.credential, row.order_id) == ("operator", "", "5-1")
    assert not (await changed(pair.two, Ordered("fast", "5-0", disable=False))).news
    row = (await changed(pair.two, Ordered("fast", "6-0", disable=False))).standing
    assert row == SharedStanding(model="fast", version=4, generation=1, order_id="6-0", dated_ms=dated_ms)
    row = (await changed(pair.one, CircuitOpened("fast", 1, at, 2))).standing
    assert (row.openings, row.open_until_ms, row.generation) == (2, at, 2)
    assert (await changed(pair.one, CircuitClosed("fast", 2))).news
    assert not (await changed(pair.two, CircuitClosed("fast", 2))).news


async def test_one_process_probes_until_its_call_ends(pair: Pair) -> None:
    await half_open(pair)
    probe = call(pair.one, 1, probe_until_ms=pair.later_ms)
    granted = await pair.one.ask(probe)
    assert isinstance(granted, Granted)
    assert granted.standing is not None
    assert probe.want is not None
    assert granted.standing.probe == probe.want.attempt_id
    assert isinstance(await pair.two.ask(call(pair.two, 2, probe_until_ms=pair.later_ms)), Unfit)
    await pair.one.land(ended(probe, "failed"))
    assert isinstance(await pair.two.ask(call(pair.two, 2, probe_until_ms=pair.later_ms)), Granted)


async def test_what_a_probe_showed_is_known_before_the_next_may_go(pair: Pair) -> None:
    await half_open(pair)
    probe = call(pair.one, 1, probe_until_ms=pair.later_ms)
    granted = await pair.one.ask(probe)
    assert isinstance(granted, Granted)
    assert granted.standing is not None
    pair.one.tell(ended(probe, "failed"))  # in one batch with the verdict, and before it
    again = pair.one.change(CircuitOpened("fast", granted.standing.generation, pair.later_ms, 2))
    assert isinstance(await again, Changed)
    assert isinstance(await pair.two.ask(call(pair.two, 2, probe_until_ms=pair.later_ms)), Unfit)


async def test_a_dead_prober_makes_room(pair: Pair) -> None:
    row = await half_open(pair)
    later = pair.rig.now_ms + 600_000
    assert isinstance(await pair.one.ask(call(pair.one, 1, probe_until_ms=later)), Granted)
    dead: list[str] = []
    pair.two.on_death(dead.append)
    await pair.rig.kill(pair.one)
    await pair.rig.until(lambda: dead)
    ((left,), _) = await pair.two.standings()
    assert (left.probe, left.generation) == (0, row.generation + 1)
    assert isinstance(await pair.two.ask(call(pair.two, 2, probe_until_ms=later)), Granted)


async def test_a_death_is_told_also_to_who_asks_for_deaths_after_it(pair: Pair) -> None:
    """A process looks for the dead as soon as it has the ledger, long before it can take anything over."""
    asked = call(pair.one, 1)
    assert isinstance(await pair.one.ask(asked), Granted)
    booked: list[News] = []
    pair.two.on_news(booked.append)
    await pair.rig.kill(pair.one)
    await pair.rig.until(lambda: booked)
    await pair.rig.pass_time(0.5)
    dead: list[str] = []
    pair.two.on_death(dead.append)
    assert dead == ["one"]
    again: list[str] = []
    pair.two.on_death(again.append)
    assert again == []


async def test_two_processes_share_a_rate(pair: Pair) -> None:
    rate = Rate(5, None)
    asks = [
        (one, call(one, 10 * n + m, rate=rate))
        for n, one in enumerate((pair.one, pair.two))
        for m in range(5)
    ]
    verdicts = await asyncio.gather(*(ledger.ask(asked) for ledger, asked in asks))
    assert [type(one) for one in verdicts].count(Granted) == 5
    refused = next(one for one in verdicts if isinstance(one, Throttled))
    assert 59_000 <= refused.pace.from_ms - pair.rig.now_ms <= 61_100
    assert await pair.two.ask(call(pair.two, 99)) == Granted(), "who has no rate is not asked for one"
    assert isinstance(await pair.one.ask(call(pair.one, 98, rate=rate)), Throttled)


@pytest.mark.parametrize(
    ("state", "fields", "fits"),
    [
        ("ok", {"prompt_tokens": 50, "completion_tokens": 49}, True),
        ("ok", {"prompt_tokens": 400, "completion_tokens": 300}, False),
        ("failed", {}, True),
        ("void", {}, True),
        ("maybe", {}, False),
    ],
)
async def test_a_call_that_ends_takes_the_tokens_that_it_used(
    pair: Pair, state: str, fields: dict[str, int], fits: bool
) -> None:
    asked = call(pair.one, 1, rate=Rate(None, 1_000, 600))
    assert isinstance(await pair.one.ask(asked), Granted)
    await pair.one.land(ended(asked, state, **fields))
    verdict = await pair.two.ask(call(pair.two, 2, rate=Rate(None, 1_000, 900)))
    assert isinstance(verdict, Granted if fits else Throttled)


async def test_a_call_that_was_not_sent_gives_its_place_in_the_rate_back(pair: Pair) -> None:
    asked = call(pair.one, 1, rate=Rate(1, None))
    assert isinstance(await pair.one.ask(asked), Granted)
    assert isinstance(await pair.two.ask(call(pair.two, 2, rate=Rate(1, None))), Throttled)
    await pair.one.land(ended(asked, "void"))
    assert isinstance(await pair.two.ask(call(pair.two, 2, rate=Rate(1, None))), Granted)


async def test_health_records_of_processes_add_up_and_touch_no_standing(pair: Pair) -> None:
    await changed(pair.one, PauseAsked("fast", pair.later_ms))
    nothing, some = (
        HealthSnapshot(),
        HealthSnapshot(total_successes=3, latency_ewma_ms=7.0, last_success_time=5.5),
    )
    pair.one.report_health([HealthReport("fast", nothing, some)])
    pair.two.report_health([HealthReport("fast", nothing, HealthSnapshot(total_failures=2))])
    pair.two.report_health([HealthReport("slow", nothing, some)])
    await changed(pair.one, CircuitClosed("fast", 0))
    await changed(pair.two, CircuitClosed("fast", 0))
    standings, health = await pair.two.standings()
    assert (health["fast"].total_successes, health["fast"].total_failures) == (3, 2)
    assert health["slow"] == some
    assert [one.paused_until_ms for one in standings if one.version] == [pair.later_ms]


async def test_a_ceiling_that_comes_near_and_one_that_is_reached_are_told_once_by_all_processes(
    pair: Pair,
) -> None:
    told: list[News] = []
    scope = Scope("model:fast", 0, 30, None, 20)
    for ledger in (pair.one, pair.two):
        ledger.on_news(told.append)
    for number, ledger in enumerate((pair.one, pair.two, pair.one, pair.two)):
        asked = call(ledger, number, scopes=(scope,))
        verdict = await ledger.ask(asked)
        if number < 3:
            assert isinstance(verdict, Granted)
            await ledger.land(ended(asked, cost_nano=10))
        else:
            assert verdict == OverBudget(scope, 30, 0, 10, by_holds=False)
    await pair.one.ask(call(pair.one, 9, scopes=(scope,)))
    await pair.rig.pass_time(0.1)
    assert told == [CeilingNear(scope, 20), CeilingReached(scope, 30)]


async def test_a_lost_call_is_told_once_with_what_it_is_charged_at(pair: Pair) -> None:
    third = await pair.rig.open("third")
    told: list[News] = []
    dead: list[str] = []
    for ledger in (pair.two, third):
        ledger.on_news(told.append)
        ledger.on_death(dead.append)
    asked = call(pair.one, 1)
    assert isinstance(await pair.one.ask(asked), Granted)
    await pair.rig.kill(pair.one)
    await pair.rig.until(lambda: dead and told)
    await pair.rig.pass_time(0.5)
    (lost,) = told
    assert isinstance(lost, CallLost)
    assert asked.want is not None
    assert (lost.ref, lost.attempt.attempt_id, lost.attempt.cost_nano) == (
        asked.ref,
        asked.want.attempt_id,
        10,
    )
    with third.transaction() as books:
        (balance,) = books.balances()
    assert (balance.spent_nano, balance.held_nano) == (10, 0)


async def test_a_refusal_takes_nothing_of_what_the_call_needs(pair: Pair) -> None:
    await half_open(pair)
    rich, poor = Scope("model:fast", 0, 1_000), Scope("tenant:acme", 0, 5)
    rate = Rate(1, None)
    wants = {"rate": rate, "probe_until_ms": pair.later_ms}
    assert isinstance(await pair.one.ask(call(pair.one, 1, scopes=(rich, poor), **wants)), OverBudget)
    granted = await pair.two.ask(call(pair.two, 2, scopes=(rich,), **wants))
    assert isinstance(granted, Granted), "neither money, nor the rate, nor the right to probe was taken"
    with pair.one.transaction() as books:
        assert [(row.scope, row.held_nano) for row in books.balances() if row.held_nano] == [
            ("model:fast", 10)
        ]


async def test_attempts_of_an_earlier_owner_are_listed_in_their_order(pair: Pair) -> None:
    for state in ("failed", "maybe"):
        asked = call(pair.one, 1)
        assert isinstance(await pair.one.ask(asked), Granted)
        await pair.one.land(
            ended(asked, state, status_code=503, error_code="provider_unavailable", latency_ms=2.5)
        )
    last = call(pair.one, 1)
    assert isinstance(await pair.one.ask(last), Granted)
    dead: list[str] = []
    pair.two.on_death(dead.append)
    await pair.rig.kill(pair.one)
    await pair.rig.until(lambda: dead)
    again = structs.replace(call(pair.two, 1), redelivered=True)
    verdict = await pair.two.ask(again)
    assert isinstance(verdict, Granted)
    told = [
        (one.state, one.cost_nano, one.status_code, one.error_code, one.latency_ms) for one in verdict.prior
    ]
    assert told == [
        ("failed", 1, 503, "provider_unavailable", 2.5),
        ("maybe", 1, 503, "provider_unavailable", 2.5),
        ("unknown", 10, None, None, 0.0),
    ]


async def test_the_latest_answers_of_a_model_are_kept(pair: Pair) -> None:
    for number in range(5):
        asked = call(pair.one, number)
        assert isinstance(await pair.one.ask(asked), Granted)
        await pair.one.land(ended(asked, cache=CacheWrite(asked.key, b'"%d"' % number, 60_000, 2)))
    looks = [structs.replace(call(pair.two, n), cache_key=f"k{n}", want=None) for n in range(5)]
    found = [await pair.two.ask(look) for look in looks]
    assert found == [Clear(), Clear(), Clear(), Hit(b'"3"'), Hit(b'"4"')]


async def test_an_answer_past_its_time_serves_only_those_who_waited_for_it(pair: Pair) -> None:
    asked = call(pair.one, 1)
    assert isinstance(await pair.one.ask(asked), Granted)
    before = pair.rig.now_ms - 5_000
    await pair.one.land(ended(asked, cache=CacheWrite(asked.key, b'"x"', 0, 10)))
    look = structs.replace(call(pair.two, 2), key=asked.key, cache_key=asked.key, want=None)
    assert await pair.two.ask(look) == Clear()
    assert await pair.two.ask(structs.replace(look, waited_since_ms=before)) == Hit(b'"x"')


async def test_the_timeout_names_the_last_failure(pair: Pair) -> None:
    asked = call(pair.one, 1)
    assert isinstance(await pair.one.ask(asked), Granted)
    await pair.one.land(
        structs.replace(
            ended(asked, "failed", status_code=503, error_code="provider_unavailable"), release_key=None
        )
    )
    waiting = asyncio.ensure_future(pair.two.wait_for_inflight("k1", timeout_s=0.2))
    with pytest.raises(TimeoutError, match=r"provider_unavailable \(status 503, model fast\)"):
        await pair.rig.within(waiting)
