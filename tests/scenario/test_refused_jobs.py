"""Jobs that are refused for what they are: too long for a model, or withheld by a provider's filter."""

from __future__ import annotations

from typing import Any

import pytest

from tests.doubles import until
from tests.scenario.stage import Stage, model, staged
from theo_daemon.job import Answered, Failed
from theo_workers.breaker import Closed
from theo_workers.upstreams.script import Fate

HELLO = Fate(text="hello", prompt_tokens=5, completion_tokens=2)
TOO_LONG = Fate(
    error="context_length_exceeded", status_code=400, message="maximum context length is 10 tokens"
)
FILTERED = Fate(error="content_filtered", status_code=400, message="flagged")
DOWN = Fate(error="provider_unavailable", status_code=503)
FIRST = {"weight": 1e12}  # is chosen before all others while it is free
HUNDRED = "word " * 100
THOUSANDS = "word " * 5_000  # 25 kB: counted off the loop


def told(outcome: Answered | Failed) -> list[tuple[str, str | None]]:
    return [(one.model, one.error_code) for one in outcome.attempts]


def untouched(stage: Stage, *names: str) -> bool:
    members = [stage.core.fleet[name] for name in names]
    return all(one.breaker.state == Closed() and one.worker.health.total_failures == 0 for one in members)


# -- before any call -------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", [HUNDRED, THOUSANDS], ids=["short", "long"])
async def test_a_model_that_cannot_take_a_job_is_skipped_and_nothing_is_held_against_it(prompt: str) -> None:
    small = model("small", HELLO, context_window=50, routing=FIRST)
    async with staged(small, model("big", HELLO, context_window=100_000)) as stage:
        ref = stage.push(prompt)
        await stage.advance()
        await until(lambda: stage.final(ref))  # long texts are counted in a thread
        assert told(stage.outcome(ref)) == [("big", None)]
        assert stage.upstreams["small"].prompts == []
        assert untouched(stage, "small")
        assert told(await stage.answer("short enough")) == [("small", None)]


async def test_a_job_that_fits_nowhere_is_refused_at_once_with_the_numbers() -> None:
    small = model("small", HELLO, context_window=50)
    async with staged(small, model("middle", HELLO, context_window=90)) as stage:
        ref = stage.push(HUNDRED, max_tokens="ignored", params={"max_tokens": 30})
        await stage.advance()
        error = stage.error(ref)
        assert (error.code, error.retryable, error.provider, error.attempts) == (
            "context_length_exceeded", False, None, (),
        )  # fmt: skip
        assert error.message == (
            "about 119 prompt tokens and up to 30 for the answer do not fit the context window of middle, 90 tokens; "
            "nor those of small"
        )
        assert stage.calls == 0


async def test_room_for_the_answer_counts_as_the_job_or_else_the_model_caps_it() -> None:
    async with staged(model("m", HELLO, context_window=1_000, max_output_tokens=950)) as stage:
        assert isinstance(await stage.answer("word " * 60), Failed)
        assert isinstance(await stage.answer("word " * 60, params={"max_tokens": 100}), Answered)


async def test_a_refusal_before_any_call_is_remembered_for_its_id_and_shared() -> None:
    async with staged(model("small", HELLO, context_window=50)) as stage:
        refs = [stage.push(HUNDRED), stage.push(HUNDRED), stage.push(HUNDRED, id="again")]
        await stage.advance(1)
        repeat = stage.push(HUNDRED, id="again")
        await stage.advance(1)
        assert stage.ends([*refs, repeat]) == ["context_length_exceeded"] * 4
        assert stage.rows("SELECT count(*) FROM ids WHERE outcome IS NOT NULL") == [(1,)]


async def test_money_has_the_last_word_over_windows_as_it_may_come_back() -> None:
    dear = model("dear", HELLO, output_cost_per_mtok=1000.0, max_output_tokens=1000)
    async with staged(model("small", HELLO, context_window=50), dear) as stage:
        refused = await stage.answer(HUNDRED, max_cost="0.5")
        assert isinstance(refused, Failed)
        assert refused.code == "budget_exceeded"


async def test_an_image_is_counted_though_its_address_is_short() -> None:
    url = "https://example.com/a.png"
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]
    small = model("small", HELLO, context_window=60)
    async with staged(small, model("big", context_window=100_000)) as stage:
        ref = stage.push(None, messages=image, cache="off")
        await stage.advance()
        assert stage.end(ref) in ("ok", "internal_error")
        assert stage.upstreams["small"].prompts == []
        stage.expected_bugs += stage.observer.bugs


# -- after a provider's word -----------------------------------------------------------------------------


async def test_a_job_too_long_for_one_model_goes_to_those_of_the_group_that_are_known_to_be_roomier() -> None:
    small = model("small", TOO_LONG, context_window=1_000, routing=FIRST)
    same = model("same", HELLO, context_window=1_000, routing=FIRST)
    async with staged(small, same, model("big", HELLO, context_window=2_000), seed=1) as stage:
        for number in range(4):
            answered = await stage.answer(f"q{number}")
            assert told(answered)[-1] in [("big", None), ("same", None)]
            assert ("same", None) not in told(answered)[1:]
        assert len(stage.upstreams["big"].prompts) > 0
        assert untouched(stage, "small")


@pytest.mark.parametrize("fate", [TOO_LONG, FILTERED], ids=["too long", "filtered"])
async def test_without_a_fallback_a_refusal_is_the_last_word(fate: Fate) -> None:
    async with staged(model("a", fate, routing=FIRST), model("b", HELLO)) as stage:
        refused = await stage.answer()
        assert isinstance(refused, Failed)
        assert (refused.code, told(refused)) == (fate.error, [("a", fate.error)])
        assert stage.upstreams["b"].prompts == []


async def fallen_back(fate: Fate, rows: dict[str, Any], *others: Any, **options: Any) -> Answered | Failed:
    """How a job of the group `chat`, whose only model refuses, ends with these fallbacks."""
    key = "context_window_fallbacks" if fate is TOO_LONG else "content_policy_fallbacks"
    routing = {key: rows, "default": "chat", **options}
    default = routing.pop("default")
    async with staged(model("m", fate), *others, routing=routing, groups={"chat": ("m",)}) as stage:
        ref = stage.push(model=default)
        await stage.advance(30)
        assert untouched(stage, "m")
        return stage.outcome(ref)


@pytest.mark.parametrize("fate", [TOO_LONG, FILTERED], ids=["too long", "filtered"])
@pytest.mark.parametrize("key", ["chat", "m"], ids=["of the group", "of the model"])
async def test_the_configured_fallback_answers_and_both_attempts_are_told(fate: Fate, key: str) -> None:
    outcome = await fallen_back(fate, {key: ("other",)}, model("other", HELLO))
    assert isinstance(outcome, Answered)
    assert told(outcome) == [("m", fate.error), ("other", None)]


async def test_fallbacks_are_asked_in_their_order_whatever_their_weights() -> None:
    others = [model("one", FILTERED), model("two", DOWN), model("three", HELLO, routing=FIRST)]
    outcome = await fallen_back(FILTERED, {"chat": ("one", "two", "three")}, *others)
    assert [name for name, _ in told(outcome)] == ["m", "one", "two", "three"]


async def test_the_last_fallback_s_own_error_is_the_reply() -> None:
    outcome = await fallen_back(FILTERED, {"chat": ("other",)}, model("other", DOWN), max_attempts=2)
    assert isinstance(outcome, Failed)
    assert (outcome.code, len(outcome.attempts)) == ("provider_unavailable", 2)


async def test_when_every_fallback_refuses_the_refusal_is_the_reply() -> None:
    outcome = await fallen_back(TOO_LONG, {"chat": ("other",)}, model("other", TOO_LONG))
    assert isinstance(outcome, Failed)
    assert outcome.code == "context_length_exceeded"
    assert told(outcome) == [("m", "context_length_exceeded"), ("other", "context_length_exceeded")]


async def test_a_fallback_too_small_by_count_is_skipped_and_its_own_fallback_is_asked() -> None:
    routing = {"context_window_fallbacks": {"m": ("small",), "small": ("big",)}}
    models = [
        model("m", HELLO, context_window=20),
        model("small", HELLO, context_window=40),
        model("big", HELLO, context_window=4_000),
    ]
    async with staged(*models, routing=routing) as stage:
        assert told(await stage.answer(HUNDRED, model="m")) == [("big", None)]
        assert told(await stage.answer("short", model="m")) == [("m", None)]


async def test_a_fallback_out_of_budget_leaves_the_refusal_as_the_reply() -> None:
    dear = model(
        "dear", HELLO, output_cost_per_mtok=1000.0, max_output_tokens=1000, routing={"spend_ceiling": 0.5}
    )
    outcome = await fallen_back(FILTERED, {"chat": ("dear",)}, dear)
    assert isinstance(outcome, Failed)
    assert (outcome.code, told(outcome)) == ("content_filtered", [("m", "content_filtered")])


async def test_a_fallback_whose_circuit_is_open_is_waited_for_like_any_model() -> None:
    routing = {
        "content_policy_fallbacks": {"m": ("other",)}, "max_attempts": 1, "circuit_breaker_timeout_s": 10.0,
    }  # fmt: skip
    async with staged(
        model("m", FILTERED), model("other", DOWN, DOWN, DOWN, HELLO), routing=routing
    ) as stage:
        for number in range(3):
            stage.push(f"opener {number}", model="other")
            await stage.advance(0.001)
        ref = stage.push("waits", model="m")
        await stage.advance(5)
        assert stage.end(ref) == "waiting"
        await stage.advance(6)
        assert told(stage.ok(ref)) == [("m", "content_filtered"), ("other", None)]
        assert stage.rows("SELECT count(*) FROM inflight") == [(0,)]


async def test_a_filter_that_strikes_mid_stream_starts_the_text_anew() -> None:
    cut = Fate(text="forbidden words", error="content_filtered")
    routing = {"content_policy_fallbacks": {"m": ("other",)}}
    async with staged(model("m", cut), model("other", Fate(text="harmless")), routing=routing) as stage:
        ref = stage.push(model="m", stream="1")
        await stage.advance(1)
        assert stage.ok(ref).answer.output == "harmless"
        assert {(one.attempt, one.text) for one in stage.deltas(ref)} == {(2, "harmless")}


async def test_a_filtered_call_that_was_billed_is_paid_for_and_so_is_the_fallback() -> None:
    priced = {"output_cost_per_mtok": 1000.0, "max_output_tokens": 1000}
    outcome = await fallen_back(
        FILTERED, {"chat": ("other",)}, model("other", Fate(text="x", completion_tokens=500), **priced)
    )
    assert [one.cost for one in outcome.attempts] == [0.0, 0.5]
