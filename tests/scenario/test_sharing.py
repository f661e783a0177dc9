"""One call for identical jobs, one run for each id; and who goes on when the first of them leaves."""

from __future__ import annotations

import pytest

from tests.scenario.stage import model, staged
from theo_workers.upstreams.script import Fate

SLOW = Fate(text="shared", latency_ms=2000, prompt_tokens=1, completion_tokens=1)
HANG = Fate(hang=True)
PRICED = {"output_cost_per_mtok": 1000.0, "input_cost_per_mtok": 0.0, "max_output_tokens": 1000}
BOUND_NANO = 1_000_000_000  # a thousand tokens at a thousand dollars a million


async def test_identical_jobs_in_flight_share_one_call_and_only_the_first_pays() -> None:
    async with staged(model("m", SLOW, **PRICED)) as stage:
        refs = stage.push_all(["same"] * 10)
        await stage.advance(1)
        refs.append(stage.push("same"))
        await stage.advance(2)
        assert stage.calls == 1
        outcomes = [stage.ok(ref) for ref in refs]
        assert [one.coalesced for one in outcomes] == [False] + [True] * 10
        assert [one.cost_nano for one in outcomes] == [1_000_000] + [0] * 10
        assert [len(one.attempts) for one in outcomes] == [1] + [0] * 10
        assert not any(one.cache_hit for one in outcomes)


async def test_who_comes_after_the_answer_gets_it_from_the_cache() -> None:
    async with staged(model("m", SLOW)) as stage:
        stage.push("same")
        await stage.advance(2.1)
        ref = stage.push("same")
        await stage.advance(0.01)
        assert (stage.ok(ref).cache_hit, stage.ok(ref).coalesced, stage.calls) == (True, False, 1)


async def test_jobs_that_do_not_want_to_share_get_calls_of_their_own() -> None:
    async with staged(model("m", SLOW)) as stage:
        refs = stage.push_all(["same"] * 3, cache="off")
        await stage.advance(2.1)
        assert stage.calls == 3
        assert not any(stage.ok(ref).coalesced for ref in refs)


async def test_refreshing_jobs_share_with_one_another_and_renew_the_cache() -> None:
    async with staged(model("m", Fate(text="old"), SLOW)) as stage:
        stage.push("same")
        await stage.advance(0.1)
        refs = stage.push_all(["same"] * 3, cache="refresh")
        cached = stage.push("same")
        await stage.advance(2.1)
        assert stage.calls == 2
        assert [stage.ok(ref).answer.output for ref in refs] == ["shared"] * 3
        assert stage.ok(cached).answer.output == "old"
        renewed = stage.push("same")
        await stage.advance(0.1)
        assert stage.ok(renewed).answer.output == "shared"


async def test_an_error_of_the_provider_is_shared_and_charged_once() -> None:
    down = Fate(error="provider_unavailable", status_code=500, latency_ms=1000)
    async with staged(model("m", down, **PRICED), routing={"max_attempts": 1}) as stage:
        refs = stage.push_all(["same"] * 5)
        await stage.advance(2)
        assert stage.ends(refs) == ["provider_unavailable"] * 5
        assert stage.calls == 1


# -- the first one leaves --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["deadline_exceeded", "cancelled"])
async def test_when_the_first_leaves_the_call_goes_on_for_the_others(how: str) -> None:
    async with staged(model("m", SLOW, **PRICED)) as stage:
        ttl = {"ttl_ms": "1000"} if how == "deadline_exceeded" else {}
        first = stage.push("same", id="first", **ttl)
        others = stage.push_all(["same"] * 2)
        await stage.advance(0.9)
        if how == "cancelled":
            stage.cancel("first")
        await stage.advance(0.2)
        assert stage.end(first) == how
        assert stage.ends(others) == ["waiting"] * 2
        await stage.advance(1)
        assert stage.calls == 1
        assert [stage.ok(ref).cost_nano for ref in others] == [1_000_000, 0]
        assert stage.upstreams["m"].closed == []


@pytest.mark.parametrize("how", ["deadline_exceeded", "cancelled"])
async def test_when_a_waiting_job_leaves_nobody_notices(how: str) -> None:
    async with staged(model("m", SLOW)) as stage:
        first = stage.push("same")
        ttl = {"ttl_ms": "1000"} if how == "deadline_exceeded" else {}
        leaver = stage.push("same", id="leaver", **ttl)
        await stage.advance(0.5)
        if how == "cancelled":
            stage.cancel("leaver")
        await stage.advance(2)
        assert (stage.end(leaver), stage.end(first), stage.calls) == (how, "ok", 1)


async def test_when_all_have_left_the_call_is_closed_and_charged_at_its_bound() -> None:
    async with staged(model("m", SLOW, **PRICED)) as stage:
        refs = [stage.push("same", ttl_ms="1000"), stage.push("same", ttl_ms="1500")]
        await stage.advance(1.6)
        assert stage.ends(refs) == ["deadline_exceeded"] * 2
        assert stage.upstreams["m"].closed == ["same"]
        last = stage.error(refs[1])
        assert last.cost_nano == BOUND_NANO
        assert [str(one.outcome) for one in last.attempts] == ["cancelled"]
        assert stage.rows("SELECT spent_nano, held_nano FROM spend") == [(BOUND_NANO, 0)]


async def test_a_job_cancelled_before_its_call_was_sent_costs_nothing() -> None:
    async with staged(model("m", SLOW, concurrency=1, **PRICED)) as stage:
        stage.push("in the way")
        ref = stage.push("behind", id="mine")
        await stage.advance(0.5)
        stage.cancel("mine")
        await stage.advance(0.01)
        assert stage.error(ref).cost_nano == 0
        assert stage.error(ref).attempts == ()
        await stage.advance(5)
        assert stage.upstreams["m"].prompts == ["in the way"]


async def test_an_unknown_outcome_is_the_first_one_s_alone_and_the_next_takes_over() -> None:
    models = model("m", HANG, Fate(text="second try"), routing={"timeout_s": 10.0}, **PRICED)
    async with staged(models, routing={"timeout_s": 10.0}) as stage:
        careful = stage.push("same", on_unknown="fail")
        others = stage.push_all(["same"] * 2)
        await stage.advance(10.1)
        assert stage.end(careful) == "outcome_unknown"
        assert stage.error(careful).cost_nano == BOUND_NANO
        assert [stage.ok(ref).answer.output for ref in others] == ["second try"] * 2
        assert [stage.ok(ref).coalesced for ref in others] == [False, True]
        assert stage.calls == 2


# -- ids -------------------------------------------------------------------------------------------------


async def test_a_repeated_id_gets_the_same_reply_without_a_second_run() -> None:
    async with staged(model("m", SLOW, **PRICED)) as stage:
        first = stage.push("x", id="mine", cache="off")
        during = stage.push("x", id="mine", cache="off")
        await stage.advance(2.1)
        after = stage.push("x", id="mine", cache="off")
        await stage.advance(0.1)
        assert stage.calls == 1
        assert [stage.ok(ref).cost_nano for ref in (first, during, after)] == [1_000_000, 0, 0]
        assert {stage.ok(ref).answer.output for ref in (first, during, after)} == {"shared"}


async def test_another_payload_under_an_id_is_a_conflict_during_and_after_the_run() -> None:
    async with staged(model("m", SLOW)) as stage:
        first = stage.push("x", id="mine")
        during = stage.push("y", id="mine")
        await stage.advance(2.1)
        after = stage.push("z", id="mine")
        other = stage.push("z", id="mine", tenant="other")
        await stage.advance(2.1)
        assert stage.ends([first, during, after, other]) == ["ok", "id_conflict", "id_conflict", "ok"]
        assert stage.upstreams["m"].prompts == ["x", "z"]


async def test_a_conflict_leaves_the_id_to_the_first() -> None:
    async with staged(model("m", SLOW)) as stage:
        first = stage.push("x", id="mine")
        stage.push("y", id="mine")
        await stage.advance(2.1)
        again = stage.push("x", id="mine")
        await stage.advance(0.1)
        assert (stage.end(first), stage.end(again), stage.calls) == ("ok", "ok", 1)


async def test_a_remembered_error_is_the_same_again_and_another_one_runs_anew() -> None:
    refused = Fate(error="invalid_request", status_code=400)
    down = Fate(error="provider_unavailable", status_code=500)
    models = model("refuses", refused), model("down", down, Fate(text="up"))
    async with staged(*models, routing={"max_attempts": 1}) as stage:
        for _ in range(2):
            stage.push("x", id="a", model="refuses")
            await stage.advance(0.1)
        second: list[str] = []
        for _ in range(2):
            ref = stage.push("x", id="b", model="down")
            await stage.advance(0.1)
            second.append(stage.end(ref))
        assert len(stage.upstreams["refuses"].prompts) == 1
        assert second == ["provider_unavailable", "ok"]


@pytest.mark.parametrize("cache", ["use", "off"])
async def test_when_an_id_s_first_push_leaves_its_repetition_is_remembered_in_its_place(cache: str) -> None:
    async with staged(model("m", SLOW)) as stage:
        first = stage.push("x", id="mine", cache=cache, ttl_ms="1000")
        second = stage.push("x", id="mine", cache=cache)
        await stage.advance(2.1)
        assert stage.ends([first, second]) == ["deadline_exceeded", "ok"]
        third = stage.push("x", id="mine", cache=cache)
        conflict = stage.push("y", id="mine", cache=cache)
        await stage.advance(2.1)
        assert stage.ends([third, conflict]) == ["ok", "id_conflict"]
        assert stage.calls == 1


async def test_when_an_id_s_first_run_is_lost_its_repetition_runs_and_is_remembered() -> None:
    models = model("m", HANG, Fate(text="second try"), routing={"timeout_s": 10.0})
    async with staged(models, routing={"timeout_s": 10.0}, on_unknown="fail") as stage:
        refs = [stage.push("x", id="mine", cache="off") for _ in range(2)]
        await stage.advance(10.1)
        assert stage.ends(refs) == ["outcome_unknown", "ok"]
        third = stage.push("x", id="mine", cache="off")
        await stage.advance(1)
        assert (stage.end(third), stage.calls) == ("ok", 2)


async def test_an_id_is_free_after_a_run_that_left_nothing_to_remember() -> None:
    async with staged(model("m", SLOW)) as stage:
        first = stage.push("x", id="mine", ttl_ms="1000")
        await stage.advance(1.1)
        second = stage.push("quite another", id="mine")
        await stage.advance(2.1)
        assert stage.ends([first, second]) == ["deadline_exceeded", "ok"]
