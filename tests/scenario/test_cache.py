"""What is answered from an earlier answer, for how long, and what never is."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest

from tests.scenario.stage import Stage, model, staged
from theo_daemon.claiming import NotGranted
from theo_daemon.turns import Found
from theo_workers.upstreams.script import Fate

FIRST, SECOND = Fate(text="first"), Fate(text="second")


async def said(stage: Stage, prompt: str = "same", **fields: Any) -> tuple[str, bool]:
    """The answer, and whether it came from the cache."""
    ref = stage.push(prompt, **fields)
    await stage.advance(0.1)
    outcome = stage.ok(ref)
    return outcome.answer.output, outcome.cache_hit


async def test_an_answer_is_used_again_until_its_time_is_over() -> None:
    async with staged(model("m", FIRST, SECOND), routing={"cache_ttl_seconds": 10.0}) as stage:
        assert await said(stage) == ("first", False)
        await stage.advance(9.5)
        assert await said(stage) == ("first", True)
        await stage.advance(0.5)
        assert await said(stage) == ("second", False)


async def test_a_time_to_live_of_zero_keeps_nothing() -> None:
    async with staged(model("m", FIRST, SECOND), routing={"cache_ttl_seconds": 0.0}) as stage:
        assert [await said(stage), await said(stage)] == [("first", False), ("second", False)]


async def test_without_a_cache_nothing_is_used_again() -> None:
    async with staged(model("m", FIRST, SECOND), routing={"cache_enabled": False}) as stage:
        assert [await said(stage), await said(stage)] == [("first", False), ("second", False)]


async def test_the_oldest_answers_of_a_model_make_room_for_new_ones() -> None:
    async with staged(model("m"), routing={"cache_max_entries": 2}) as stage:
        for prompt in ("one", "two", "three"):
            await said(stage, prompt)
        assert await said(stage, "three") == ("three", True)
        assert await said(stage, "two") == ("two", True)
        assert await said(stage, "one") == ("one", False)


@pytest.mark.parametrize(
    ("fate", "end"),
    [
        (Fate(text="cut", finish_reason="length"), "ok"),
        (Fate(text="odd", finish_reason="other"), "ok"),
        (Fate(error="content_filtered", status_code=400), "content_filtered"),
        (Fate(error="invalid_request", status_code=400), "invalid_request"),
        (Fate(error="provider_timeout"), "provider_timeout"),
    ],
    ids=["truncated", "ended oddly", "filtered", "refused", "timed out"],
)
async def test_what_is_no_whole_answer_is_never_used_again(fate: Fate, end: str) -> None:
    async with staged(model("m", fate, SECOND), routing={"max_attempts": 1}) as stage:
        ref = stage.push("same")
        await stage.advance(1)
        assert stage.end(ref) == end
        assert await said(stage) == ("second", False)


@pytest.mark.parametrize("fields", [{"cache": "refresh"}, {"cache": "off"}], ids=["refresh", "off"])
async def test_who_asks_for_a_new_answer_gets_one_and_only_refreshing_keeps_it(
    fields: dict[str, str],
) -> None:
    async with staged(model("m", FIRST, SECOND)) as stage:
        assert await said(stage) == ("first", False)
        assert await said(stage, **fields) == ("second", False)
        assert await said(stage) == ("second" if fields["cache"] == "refresh" else "first", True)


@pytest.mark.parametrize(
    "fields",
    [
        {"tenant": "acme"},
        {"workflow": "sums"},
        {"system": "Be brief."},
        {"params": {"temperature": 0}},
        {"model": "m"},
    ],
    ids=["tenant", "workflow", "system", "params", "model"],
)
async def test_another_job_does_not_get_it(fields: dict[str, Any]) -> None:
    async with staged(model("m", FIRST, SECOND)) as stage:
        assert await said(stage) == ("first", False)
        assert await said(stage, **fields) == ("second", False)


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
async def test_an_answer_of_the_cache_is_let_go_of_with_its_reply_and_waits_for_no_collector() -> None:
    async with staged(model("m", FIRST)) as stage:
        assert [await said(stage) for _ in range(4)] == [("first", False)] + [("first", True)] * 3
        await stage.advance(1)
        assert sum(isinstance(one, NotGranted) for one in gc.get_objects()) == 0


@pytest.mark.usefixtures("no_collector")
async def test_so_is_one_that_was_found_while_its_job_waited_for_a_slot() -> None:
    slow = Fate(text="slow", latency_ms=10_000)
    async with staged(model("m", FIRST, slow, concurrency=1)) as stage:
        assert await said(stage) == ("first", False)
        stage.push("another")
        ref = stage.push("same")
        await stage.advance(5)
        assert stage.ok(ref).cache_hit
        assert sum(isinstance(one, NotGranted | Found) for one in gc.get_objects()) == 0
