"""Jobs whose candidate is kept from them only by what calls in flight hold: another one that can be paid for serves."""

from __future__ import annotations

import pytest

from tests.scenario.stage import model, staged
from tests.scenario.test_budgets_shared import budget, served_by
from tests.scenario.test_money import FIRST, HELLO, cent, dollar
from theo_workers.upstreams.script import Fate

LONG = Fate(text="x", completion_tokens=1000, latency_ms=20_000)
DOWN = Fate(error="provider_unavailable", status_code=503)


async def test_a_candidate_whose_own_ceiling_is_held_leaves_its_jobs_to_one_that_is_free() -> None:
    held = dollar("held", LONG, routing={**FIRST, "spend_ceiling": 1.5})
    async with staged(held, cent("other", HELLO)) as stage:
        stage.push("first")
        await stage.advance(0.1)
        outcomes = [await stage.answer(f"x{n}", within_s=0.1, ttl_ms=5_000) for n in range(3)]
        assert served_by(outcomes) == ["other"] * 3
        assert stage.observer.news == []


async def test_what_is_left_of_a_shared_budget_goes_to_whom_it_is_enough_for() -> None:
    tables = [budget(1.5, tenant="*")]
    async with staged(dollar("dear", LONG, routing=FIRST), cent("cheap", HELLO), budgets=tables) as stage:
        stage.push("first", tenant="acme")
        await stage.advance(0.1)
        assert served_by([await stage.answer("x", within_s=0.1, tenant="acme")]) == ["cheap"]


async def test_nobody_else_is_asked_whom_the_same_holds_forbid() -> None:
    tables = [budget(1.5, tenant="*")]
    dears = [dollar(name, LONG) for name in ("a", "b", "c")]
    async with staged(*dears, budgets=tables) as stage:
        stage.push("first", tenant="acme")
        await stage.advance(0.1)
        asked = len(stage.rows("SELECT 1 FROM attempts"))
        waiting = stage.push("second", tenant="acme")
        await stage.advance(1)
        assert stage.end(waiting) == "waiting"
        assert len(stage.rows("SELECT 1 FROM attempts")) == asked


async def test_who_is_busy_meanwhile_is_no_reason_to_leave_the_line_of_the_holds() -> None:
    held = dollar(
        "held",
        Fate(text="x", completion_tokens=10, latency_ms=3_000),
        routing={**FIRST, "spend_ceiling": 1.5},
    )
    async with staged(held, cent("busy", LONG, concurrency=1)) as stage:
        stage.push("first")
        stage.push("second", model="busy")
        await stage.advance(0.1)
        third = stage.push("third")
        await stage.advance(7)
        assert served_by([stage.ok(third)]) == ["held"]


async def test_after_a_failure_a_candidate_that_can_be_paid_for_is_asked_at_once() -> None:
    held = dollar("held", LONG, routing={"weight": 1e6, "spend_ceiling": 1.5})
    async with staged(dollar("down", DOWN, routing=FIRST), held, cent("other", HELLO)) as stage:
        stage.push("first", model="held")
        await stage.advance(0.1)
        answered = await stage.answer("x", within_s=0.01)
        assert [one.model for one in answered.attempts] == ["down", "other"]


@pytest.mark.parametrize("ceiling", [0.0, 1.0])
async def test_what_costs_nothing_serves_while_holds_last_unless_the_ceiling_is_nothing(
    ceiling: float,
) -> None:
    free = model("free", HELLO, input_cost_per_mtok=0.0, output_cost_per_mtok=0.0)
    tables = [budget(ceiling, tenant="*")]
    async with staged(dollar("dear", LONG, routing=FIRST), free, budgets=tables) as stage:
        first = stage.push("first", tenant="acme")
        second = stage.push("second", tenant="acme")
        await stage.advance(0.1)
        expected = ["waiting", "ok"] if ceiling else ["budget_exceeded"] * 2
        assert stage.ends([first, second]) == expected
