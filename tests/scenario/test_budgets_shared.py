"""Budgets that several models, tenants or workflows share: who is refused, who waits, who is served all the same."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes import MemoryBooks, VirtualClock
from tests.scenario.stage import Stage, model, staged
from tests.scenario.test_money import FIRST, HELLO, cent, dollar
from theo_daemon.config import BudgetConfig
from theo_daemon.job import Answered, Failed, JobOutcome
from theo_daemon.ledger.records import CeilingEased, CeilingNear, CeilingReached
from theo_daemon.spend_window import parse_window
from theo_workers.upstreams.script import Fate

DOLLAR = 1_000_000_000
FULL = Fate(text="x", completion_tokens=1000)  # costs its bound
SLOW = Fate(text="x", completion_tokens=1000, latency_ms=2_000)
HOUR_S, DAY_S = 3_600, 86_400


def budget(ceiling: float, window: str = "total", **fields: Any) -> BudgetConfig:
    return BudgetConfig(spend_ceiling=ceiling, spend_window=parse_window(window), **fields)


def rows(stage: Stage) -> dict[str, tuple[float, float]]:
    """Spent and held by scope, in dollars."""
    found = stage.rows("SELECT scope, spent_nano, held_nano FROM spend")
    return {scope: (spent / DOLLAR, held / DOLLAR) for scope, spent, held in found}


def later(stage: Stage, seconds: float) -> None:
    """So much later by the calendar, without living through every poll of it."""
    assert isinstance(stage.clock, VirtualClock)
    stage.clock.shift_wall(seconds)


def refusal(outcome: JobOutcome) -> str:
    assert isinstance(outcome, Failed), outcome
    assert outcome.code == "budget_exceeded"
    return outcome.message


# -- who draws on what ------------------------------------------------------------------------------------


async def test_a_call_is_charged_to_every_budget_that_fits_it() -> None:
    tables = [
        budget(9, tenant="*"),
        budget(9, workflow="sum"),
        budget(9, group="all"),
        budget(9, tenant="*", model="*"),
        budget(9),
    ]
    async with staged(dollar("dear", HELLO), budgets=tables) as stage:
        await stage.answer(tenant="acme", workflow="sum")
        await stage.answer("again", model="dear")
        assert rows(stage) == {
            "model:dear": (1.0, 0),
            "tenant=acme@total": (0.5, 0),
            "tenant=@total": (0.5, 0),
            "workflow=sum@total": (0.5, 0),
            "group=all@total": (0.5, 0),
            "tenant=acme,model=dear@total": (0.5, 0),
            "tenant=,model=dear@total": (0.5, 0),
            "all@total": (1.0, 0),
        }


async def test_a_tenant_that_has_spent_its_budget_leaves_the_others_theirs() -> None:
    async with staged(
        dollar("dear", FULL), budgets=[budget(2, tenant="*"), budget(3, tenant="big")]
    ) as stage:
        refs = {
            tenant: stage.push_all([f"{tenant}{n}" for n in range(4)], tenant=tenant)
            for tenant in ("a", "b", "big")
        }
        await stage.advance(5)
        ends = {tenant: stage.ends(pushed).count("ok") for tenant, pushed in refs.items()}
        assert ends == {"a": 2, "b": 2, "big": 3}
        message = refusal(stage.outcome(refs["a"][3]))
        assert message == "the budget of tenant a has spent 2 of 2 USD; this call may cost 1 USD"
        assert stage.calls == 7


@pytest.mark.parametrize(
    ("selectors", "within", "beyond"),
    [
        ({"workflow": "sum"}, {"workflow": "sum"}, {"workflow": "other"}),
        ({"group": "all"}, {"model": "all"}, {"model": "dear"}),
        (
            {"tenant": "a", "workflow": "sum"},
            {"tenant": "a", "workflow": "sum"},
            {"tenant": "b", "workflow": "sum"},
        ),
    ],
)
async def test_a_spent_budget_refuses_those_whom_it_counts_and_no_others(
    selectors: dict[str, str], within: dict[str, str], beyond: dict[str, str]
) -> None:
    async with staged(dollar("dear", FULL), budgets=[budget(1, **selectors)]) as stage:
        assert isinstance(await stage.answer("x", **within), Answered)
        refusal(await stage.answer("y", **within))
        assert isinstance(await stage.answer("z", **beyond), Answered)


async def test_a_budget_over_all_tells_a_tenant_that_it_is_used_up_and_not_by_whom() -> None:
    async with staged(dollar("dear", FULL), budgets=[budget(1, "1d")]) as stage:
        await stage.answer("x", tenant="secretive")
        message = refusal(await stage.answer("y", tenant="curious"))
        assert message == (
            "the budget of all jobs, 1 USD, is used up; this call may cost 1 USD; "
            "it resets at 2023-11-15 00:00:00 UTC"
        )


async def test_a_budget_of_one_model_for_a_tenant_leaves_it_the_other_models() -> None:
    tables = [budget(1, tenant="*", model="dear")]
    async with staged(dollar("dear", FULL, routing=FIRST), cent("cheap", HELLO), budgets=tables) as stage:
        outcomes = [await stage.answer(f"q{n}", tenant="acme") for n in range(3)]
        assert [one.attempts[0].model for one in outcomes] == ["dear", "cheap", "cheap"]


async def test_under_a_low_ceiling_an_answer_that_nothing_caps_is_capped_lower_than_elsewhere() -> None:
    """And what is sent is what is held, until too little is left for it."""
    endless = model("endless", HELLO, output_cost_per_mtok=1000.0)
    low = [budget(2, tenant="acme"), budget(100)]
    async with staged(endless, budgets=low) as stage:
        ends = [await stage.answer(f"job {number}", tenant="acme") for number in range(5)]
        assert [isinstance(end, Answered) for end in ends] == [True] * 4 + [False]
        refused = ends[-1]
        assert isinstance(refused, Failed)
        assert refused.message == "the budget of tenant acme has spent 2 of 2 USD; this call may cost 0.5 USD"
        await stage.answer("elsewhere", tenant="other")
        asked = [params["max_tokens"] for params in stage.upstreams["endless"].params]
        assert asked == [500] * 4 + [4096]


async def test_a_price_that_nobody_knows_is_refused_under_a_budget_and_free_of_it_otherwise() -> None:
    endless = model("endless", HELLO, output_cost_per_mtok=1000.0)
    async with staged(endless, budgets=[budget(1, tenant="acme")]) as stage:
        stage.core.fleet.reprice("endless", None)
        assert "the budget of tenant acme has a ceiling of 1 USD" in refusal(
            await stage.answer(tenant="acme")
        )
        assert isinstance(await stage.answer(tenant="other"), Answered)


# -- answers that cost nothing, jobs that share -----------------------------------------------------------


async def test_a_cached_answer_is_served_although_the_budget_is_used_up() -> None:
    async with staged(dollar("dear", FULL), budgets=[budget(1, tenant="*")]) as stage:
        await stage.answer("x", tenant="acme")
        refusal(await stage.answer("y", tenant="acme"))
        again = await stage.answer("x", tenant="acme")
        assert isinstance(again, Answered)
        assert (again.cache_hit, again.cost_nano) == (True, 0)


async def test_a_refusal_is_shared_by_identical_jobs_which_are_of_one_scope() -> None:
    tables = [budget(1, tenant="*"), budget(5, group="*")]
    async with staged(dollar("dear", FULL), budgets=tables) as stage:
        await stage.answer("first", tenant="poor")
        poor = stage.push_all(["same"] * 3, tenant="poor")
        rich = stage.push_all(["same"] * 3, tenant="rich")
        await stage.advance(1)
        assert stage.ends(poor) == ["budget_exceeded"] * 3
        assert stage.ends(rich) == ["ok"] * 3
        assert [stage.ok(ref).coalesced for ref in rich] == [False, True, True]
        assert stage.calls == 2


async def test_a_job_s_own_ceiling_and_a_budget_hold_both() -> None:
    async with staged(dollar("dear", FULL), budgets=[budget(1, tenant="*")]) as stage:
        assert "max_cost" in refusal(await stage.answer("x", tenant="acme", max_cost="0.5"))
        assert isinstance(await stage.answer("x", tenant="acme", max_cost="1"), Answered)
        assert "tenant acme" in refusal(await stage.answer("y", tenant="acme", max_cost="1"))


# -- holds --------------------------------------------------------------------------------------------------


async def test_jobs_blocked_only_by_holds_wait_and_go_on_when_calls_turn_out_cheaper() -> None:
    cheap_after_all = Fate(text="x", completion_tokens=100, latency_ms=1_000)
    async with staged(dollar("dear", cheap_after_all), budgets=[budget(2, tenant="*")]) as stage:
        refs = stage.push_all([f"x{n}" for n in range(10)], tenant="acme")
        await stage.advance(0.9)
        assert len(stage.upstreams["dear"].running) == 2
        await stage.advance(30)
        assert stage.ends(refs) == ["ok"] * 10
        assert rows(stage)["tenant=acme@total"] == (1.0, 0)


async def test_a_job_that_waits_for_holds_is_refused_once_they_are_spent() -> None:
    async with staged(dollar("dear", SLOW), budgets=[budget(1, tenant="*")]) as stage:
        first, second = stage.push("a", tenant="acme"), stage.push("b", tenant="acme")
        await stage.advance(1.5)
        assert stage.ends([first, second]) == ["waiting", "waiting"]
        await stage.advance(2)
        assert stage.ends([first, second]) == ["ok", "budget_exceeded"]


@pytest.mark.parametrize(
    "selectors", [{}, {"tenant": "*"}, {"workflow": "sum"}, {"group": "all"}, {"model": "*"}], ids=str
)
async def test_two_processes_together_pay_for_no_more_calls_than_the_ceiling_does(
    selectors: dict[str, str],
) -> None:
    clock, books = VirtualClock(), MemoryBooks()
    fields = {"tenant": "acme", "workflow": "sum"}
    common: dict[str, Any] = {"budgets": [budget(50, "1mo", **selectors)], "books": books, "clock": clock}
    async with (
        staged(dollar("dear", SLOW, concurrency=16), name="one", **common) as one,
        staged(dollar("dear", SLOW, concurrency=16), name="two", seed=8, **common) as two,
    ):
        refs = [stage.push_all([f"{id(stage)}-{n}" for n in range(200)], **fields) for stage in (one, two)]
        await clock.advance(60)
        ends = one.ends(refs[0]) + two.ends(refs[1])
        assert (ends.count("ok"), ends.count("budget_exceeded")) == (50, 350)
        assert one.calls + two.calls == 50
        assert min(one.calls, two.calls) >= 10
    books.close()


# -- windows ------------------------------------------------------------------------------------------------


async def test_a_calendar_window_ends_for_all_at_once() -> None:
    async with staged(dollar("dear", FULL), budgets=[budget(1, "1h", tenant="*")]) as stage:
        into_s = stage.clock.wall() % HOUR_S
        assert isinstance(await stage.answer("x", tenant="acme"), Answered)
        failed = await stage.answer("y", tenant="acme")
        assert isinstance(failed, Failed)
        assert failed.retryable
        assert (failed.retry_after_ms or 0) / 1000 == pytest.approx(HOUR_S - into_s, abs=5)
        later(stage, HOUR_S - into_s)
        assert isinstance(await stage.answer("y", tenant="acme"), Answered)


async def test_a_window_from_its_first_call_lasts_its_length_and_the_next_begins_when_it_is_needed() -> None:
    tables = [budget(1, "1h", tenant="*", calendar_aligned=False)]
    async with staged(dollar("dear", FULL), budgets=tables) as stage:
        began = stage.now_ms
        assert isinstance(await stage.answer("x", tenant="acme"), Answered)
        later(stage, HOUR_S - 10)
        failed = await stage.answer("y", tenant="acme")
        assert isinstance(failed, Failed)
        assert 0 < (failed.retry_after_ms or 0) <= 10_000
        assert isinstance(await stage.answer("z", tenant="other"), Answered)
        later(stage, 2 * HOUR_S)
        again = stage.now_ms
        assert isinstance(await stage.answer("y", tenant="acme"), Answered)
        starts = stage.rows("SELECT window_start FROM spend WHERE scope = 'tenant=acme@~1h' ORDER BY 1")
        assert starts == [(began,), (again,)]


async def test_a_clock_that_goes_back_begins_no_window_again() -> None:
    books, tables = MemoryBooks(), [budget(1, "1h", tenant="*")]
    async with staged(dollar("dear", FULL), budgets=tables, books=books) as stage:
        later(stage, HOUR_S)
        assert isinstance(await stage.answer("x", tenant="acme"), Answered)
        later(stage, -HOUR_S)
        refusal(await stage.answer("y", tenant="acme"))
    async with staged(dollar("dear", FULL), budgets=tables, books=books) as restarted:
        refusal(await restarted.answer("y", tenant="acme"))
        assert isinstance(await restarted.answer("y", tenant="other"), Answered)
    books.close()


async def test_two_processes_begin_a_window_once() -> None:
    clock, books = VirtualClock(), MemoryBooks()
    tables = [budget(2, "1h", tenant="*", calendar_aligned=False)]
    async with (
        staged(dollar("dear", SLOW), budgets=tables, books=books, clock=clock, name="one") as one,
        staged(dollar("dear", SLOW), budgets=tables, books=books, clock=clock, name="two") as two,
    ):
        refs = one.push_all([f"a{n}" for n in range(4)], tenant="acme")
        await clock.advance(0.003)
        others = two.push_all([f"b{n}" for n in range(4)], tenant="acme")
        await clock.advance(10)
        ends = one.ends(refs) + two.ends(others)
        assert (ends.count("ok"), ends.count("budget_exceeded")) == (2, 6)
        assert one.calls + two.calls == 2
        assert one.rows("SELECT count(*) FROM spend WHERE scope GLOB 'tenant=*'") == [(1,)]
    books.close()


async def test_a_call_is_charged_to_the_window_in_which_it_was_reserved() -> None:
    async with staged(dollar("dear", SLOW), budgets=[budget(1, "1h", tenant="*")]) as stage:
        later(stage, HOUR_S - stage.clock.wall() % HOUR_S - 1)
        late = stage.push("late", tenant="acme")
        await stage.advance(1.5)
        early = stage.push("early", tenant="acme")
        await stage.advance(5)
        assert stage.ends([late, early]) == ["ok", "ok"]
        spent = stage.rows("SELECT spent_nano, held_nano FROM spend WHERE scope GLOB 'tenant=*'")
        assert spent == [(DOLLAR, 0), (DOLLAR, 0)]


# -- events -------------------------------------------------------------------------------------------------


async def test_each_scope_and_window_is_told_of_once() -> None:
    tables = [budget(2, "1d", tenant="*", warning_ratio=0.5, downgrade_ratio=0.75)]
    async with staged(dollar("dear", FULL), budgets=tables) as stage:
        for day in range(2):
            for n in range(4):
                await stage.answer(f"{day}-{n}", tenant="acme")
            later(stage, DAY_S)
        await stage.answer("x", tenant="other")
        told = [(type(one), one.scope.name) for one in stage.observer.news]  # type: ignore[union-attr]
        daily = [(kind, "tenant=acme@1d") for kind in (CeilingNear, CeilingEased, CeilingReached)]
        assert told == [*daily, *daily, (CeilingNear, "tenant=other@1d")]


# -- cheaper models under pressure --------------------------------------------------------------------------


def served_by(outcomes: list[JobOutcome]) -> list[str]:
    return [one.attempts[0].model for one in outcomes]


async def test_past_its_ratio_a_tenant_s_jobs_go_to_the_cheaper_member_and_another_tenant_s_do_not() -> None:
    tables = [budget(4, "1d", tenant="*", downgrade_ratio=0.5)]
    async with staged(dollar("dear", FULL, routing=FIRST), cent("cheap", HELLO), budgets=tables) as stage:
        acme = [await stage.answer(f"a{n}", tenant="acme") for n in range(5)]
        assert served_by(acme) == ["dear", "dear", "dear", "cheap", "cheap"]
        assert served_by([await stage.answer("b", tenant="other")]) == ["dear"]
        later(stage, DAY_S)
        assert served_by([await stage.answer("c", tenant="acme")]) == ["dear"]


async def test_a_model_past_its_own_ratio_stands_back_for_cheaper_ones_only() -> None:
    middle = dollar("middle", FULL, routing={"weight": 1e6, "spend_ceiling": 2.0, "downgrade_ratio": 0.1})
    async with staged(middle, cent("cheap", HELLO, routing={"weight": 1e-6})) as stage:
        outcomes = [await stage.answer(f"a{n}") for n in range(4)]
        assert served_by(outcomes) == ["middle", "middle", "cheap", "cheap"]


async def test_nothing_waits_or_fails_for_a_downgrade() -> None:
    tables = [budget(100, tenant="*", downgrade_ratio=0.0)]
    cheap = cent("cheap", Fate(text="x", completion_tokens=10, latency_ms=1_000), concurrency=1)
    dear = dollar("dear", Fate(text="x", completion_tokens=10, latency_ms=1_000), routing=FIRST)
    async with staged(dear, cheap, budgets=tables) as stage:
        await stage.answer("before", tenant="acme", within_s=2)
        refs = stage.push_all([f"a{n}" for n in range(3)], tenant="acme")
        await stage.advance(1.5)
        assert stage.ends(refs) == ["ok"] * 3
        assert (stage.calls, len(stage.upstreams["cheap"].prompts)) == (4, 1)


async def test_a_cheaper_member_that_fails_is_failed_over_from() -> None:
    tables = [budget(100, tenant="*", downgrade_ratio=0.0)]
    down = Fate(error="provider_unavailable", status_code=503)
    async with staged(dollar("dear", HELLO), cent("cheap", down), budgets=tables) as stage:
        await stage.answer("before", tenant="acme")
        answered = await stage.answer("x", tenant="acme")
        assert served_by([answered]) == ["cheap"]
        assert isinstance(answered, Answered)
        assert answered.answer.model == "dear"
