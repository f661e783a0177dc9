"""The library face, held to the examples of the document it was built after."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from unittest import mock

import pytest

import theo_daemon
from tests.doubles import until
from tests.fakes import QuickCounter
from tests.scenario.stage import WatchedUpstream
from theo_daemon import core as core_module
from theo_daemon.key import cache_key
from theo_daemon.ledger.port import InflightTimeout
from theo_daemon.router import RoutedGeneration, Router
from theo_workers.clock import FakeClock
from theo_workers.errors import (
    GenerationError,
    NoModelAvailable,
    ProviderUnavailable,
    UnknownModel,
)
from theo_workers.upstreams.script import Fate

CONFIG = """
[ledger]
url = "sqlite:///./books.db"

[routing]
default = "fast"
circuit_breaker_threshold = 3
circuit_breaker_timeout_s = 60.0
max_attempts = 1

[[models]]
name = "fast"
provider = "scripted"
model = "fast-1"
max_output_tokens = 1000
input_cost_per_mtok = 1.0
output_cost_per_mtok = 2.0

[[models]]
name = "failing"
provider = "scripted"
model = "failing-1"
script = [{ error = "provider_unavailable", status_code = 500, message = "boom" }]

[[models]]
name = "limited"
provider = "scripted"
model = "limited-1"
script = [{ error = "rate_limited", status_code = 429, message = "Rate limit exceeded", retry_after_s = 2.0 }]

[[models]]
name = "dear"
provider = "scripted"
model = "dear-1"
output_cost_per_mtok = 1000.0

[groups]
pair = ["failing", "fast"]
"""


class Face:
    """An open router, its clock, and the provider behind `fast`."""

    def __init__(self, router: Router, clock: FakeClock) -> None:
        self.router, self.clock = router, clock
        self.upstream = WatchedUpstream(clock)
        router.core.fleet["fast"].worker.upstream = self.upstream

    async def ask(self, prompt: str = "Say hi", *, model: str | None = None) -> RoutedGeneration:
        return await self.router.execute_generation(prompt=prompt, model=model)

    async def fail(self, times: int = 1, *, model: str = "failing") -> list[GenerationError]:
        errors: list[GenerationError] = []
        for number in range(times):
            with pytest.raises(GenerationError) as caught:
                await self.ask(f"attempt {number}", model=model)
            errors.append(caught.value)
        return errors


@contextlib.asynccontextmanager
async def opened(tmp_path: Path, config: str = CONFIG) -> AsyncIterator[Face]:
    path = tmp_path / "theo-router.toml"
    path.write_text(config)
    clock = FakeClock()
    with mock.patch.object(core_module, "TokenCounter", QuickCounter):
        router = Router.from_config(path, clock=clock)
        await router.__aenter__()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_exit(router)
        yield Face(router, clock)


@pytest.fixture
async def face(tmp_path: Path) -> AsyncIterator[Face]:
    async with opened(tmp_path) as face:
        yield face


# -- the three examples ----------------------------------------------------------------------------------


async def test_the_circuit_opens_after_three_failures_and_allows_a_retry_after_the_timeout(
    face: Face,
) -> None:
    await face.fail(2)
    assert face.router.is_available("failing", "default")
    await face.fail(1)
    assert not face.router.is_available("failing", "default")
    await face.clock.advance(59)
    assert not face.router.is_available("failing", "default")
    await face.clock.advance(2)
    assert face.router.is_available("failing", "default")


def test_tokens_are_counted_and_not_guessed_from_the_length(tmp_path: Path) -> None:
    text = "Hello, world!"

    async def count() -> int:
        async with opened(tmp_path) as face:
            return face.router.estimate_tokens(text, "gpt-4")

    tokens = asyncio.run(count())
    assert tokens > 0
    assert tokens != len(text) // 4
    assert tokens == 4  # as cl100k_base has it


async def test_errors_carry_provider_and_status(face: Face) -> None:
    (error,) = await face.fail(model="limited")
    assert error.provider == "scripted"
    assert error.status_code == 429
    assert error.retryable
    assert error.code == "rate_limited"
    assert isinstance(error, RuntimeError)
    assert str(error) == "HTTP 429: Rate limit exceeded (retryable: True, provider: scripted)"


# -- health ----------------------------------------------------------------------------------------------


async def test_health_counts_failures_and_remembers_when(face: Face) -> None:
    health = face.router.model_health["failing"]
    assert (health.total_failures, health.consecutive_failures, health.last_failure_time) == (0, 0, None)
    await face.fail(2)
    assert (health.total_failures, health.consecutive_failures) == (2, 2)
    assert health.last_failure_time == face.clock.wall()
    assert health.last_success_time is None
    await face.ask()
    good = face.router.model_health["fast"]
    assert (good.total_failures, good.consecutive_failures) == (0, 0)
    assert good.last_success_time == face.clock.wall()
    assert good.latency_p50_ms == good.latency_p95_ms == good.latency_p99_ms is not None
    assert good.ttft_p50_ms is None, "it was not streamed"


async def test_a_success_ends_the_row_of_failures_but_not_their_total(face: Face) -> None:
    bad: list[Fate] = [Fate(error="provider_unavailable", status_code=500)] * 2 + [Fate(text="back")]
    fates = iter(bad)
    face.upstream.fate_for = lambda _: next(fates)
    await face.fail(2, model="fast")
    assert (await face.ask()).output == "back"
    health = face.router.model_health["fast"]
    assert (health.total_failures, health.consecutive_failures) == (2, 0)


async def test_a_failing_model_is_routed_round_and_then_not_even_asked(face: Face) -> None:
    answers = [await face.ask(f"q{n}", model="pair") for n in range(12)]
    assert {one.model for one in answers} == {"fast"}
    assert face.router.model_health["failing"].total_failures == 3
    assert not face.router.is_available("failing")
    assert face.router.is_available("pair")


async def test_the_circuit_closes_after_one_good_probe(face: Face) -> None:
    down, up = Fate(error="provider_unavailable", status_code=500), Fate(text="up")
    face.upstream.fate_for = lambda _: down
    await face.fail(3, model="fast")
    face.upstream.fate_for = lambda _: up
    await face.clock.advance(61)
    assert (await face.ask()).output == "up"
    assert (await face.ask("again")).output == "up"
    assert len(face.upstream.prompts) == 5


async def test_an_unknown_model_is_not_available_and_says_so(face: Face) -> None:
    assert not face.router.is_available("nobody")
    with pytest.raises(UnknownModel):
        await face.ask(model="nobody")


# -- answers, cache and books ----------------------------------------------------------------------------


async def test_an_answer_tells_tokens_cost_and_latency(face: Face) -> None:
    face.upstream.fate_for = lambda _: Fate(text="hello there", prompt_tokens=1000, completion_tokens=500)
    result = await face.ask()
    assert (result.model, result.provider, result.output) == ("fast", "scripted", "hello there")
    assert (result.prompt_tokens, result.completion_tokens) == (1000, 500)
    assert result.cost == pytest.approx(0.001 + 0.001)
    assert (result.cache_hit, result.coalesced, result.finish_reason) == (False, False, "stop")
    assert result.latency_ms >= 0
    assert [one.outcome for one in result.attempts] == ["ok"]


async def test_a_cache_hit_is_told_and_costs_nothing(face: Face) -> None:
    first = await face.ask()
    second = await face.ask()
    assert (first.cache_hit, second.cache_hit) == (False, True)
    assert second.cost == 0
    assert second.output == first.output
    assert (second.prompt_tokens, second.completion_tokens) == (first.prompt_tokens, first.completion_tokens)
    assert len(face.upstream.prompts) == 1
    await face.clock.advance(301)
    assert not (await face.ask()).cache_hit


async def test_the_books_tell_spend_and_latency_of_all_models(face: Face) -> None:
    face.upstream.fate_for = lambda _: Fate(text="x", prompt_tokens=1000, completion_tokens=500)
    for number in range(3):
        await face.ask(f"q{number}")
    with face.router.ledger.transaction() as transaction:
        spend, latency = transaction.get_all_spend(), transaction.get_all_latency()
    assert spend["fast"] == pytest.approx(3 * 0.002)
    assert set(latency) == {"fast"}
    assert latency["fast"] >= 0


@pytest.mark.parametrize(
    ("known", "end"),
    [("", "budget_exceeded"), ("hidden_tokens = 0", "ok"), ("hidden_tokens = 900", "budget_exceeded")],
)
async def test_a_ceiling_holds_what_a_provider_adds_unseen_or_what_is_known_of_it(
    tmp_path: Path, known: str, end: str
) -> None:
    """A thousand prompt tokens' worth: enough for a short prompt and the answer, not for two thousand unseen ones."""
    model = f"max_output_tokens = 100\nrouting = {{ spend_ceiling = 0.001 }}\n{known}"
    async with opened(tmp_path, CONFIG.replace("max_output_tokens = 1000", model)) as face:
        if end == "ok":
            assert (await face.ask()).output
        else:
            (error,) = await face.fail(model="fast")
            assert error.code == end


async def test_failures_cost_nothing_where_the_provider_certainly_did_no_work(face: Face) -> None:
    await face.fail(3)
    with face.router.ledger.transaction() as transaction:
        assert transaction.get_all_spend().get("failing", 0.0) == 0.0


async def test_one_may_wait_for_a_generation_in_flight(face: Face) -> None:
    face.upstream.fate_for = lambda _: Fate(text="late", latency_ms=10_000)
    asking = asyncio.ensure_future(face.ask("slow one"))
    await until(lambda: face.upstream.running)
    (flight,) = face.router.core.dispatcher._flights.values()
    key = flight.key
    assert key == cache_key("fast", flight.lead.job.content)
    waiting = asyncio.ensure_future(face.router.ledger.wait_for_inflight(key, timeout_s=5))

    async def pass_time() -> None:
        while not waiting.done():
            await face.clock.advance(0.1)
            await asyncio.sleep(0.001)  # the ledger's thread keeps its own time

    await pass_time()
    with pytest.raises(InflightTimeout, match="status: waiting"):
        waiting.result()
    waiting = asyncio.ensure_future(face.router.ledger.wait_for_inflight(key, timeout_s=60))
    await pass_time()
    assert b'"late"' in (waiting.result() or b"")
    assert (await asking).output == "late"


async def test_with_no_model_to_try_the_error_says_when_the_next_one_is_tried(face: Face) -> None:
    await face.fail(3)
    asking = asyncio.ensure_future(face.ask(model="failing"))
    await until(lambda: face.router.core.dispatcher._turns._parked)
    await face.clock.advance(30)
    with pytest.raises(NoModelAvailable) as caught:
        await asking
    assert caught.value.retryable
    assert caught.value.retry_after_s == pytest.approx(30, abs=0.1)


# -- many callers ----------------------------------------------------------------------------------------


async def test_fifty_identical_generations_make_one_call(face: Face) -> None:
    face.upstream.fate_for = lambda _: Fate(text="one for all", latency_ms=1000)
    asking = [asyncio.ensure_future(face.ask("the same")) for _ in range(50)]
    await until(lambda: face.upstream.running)
    await face.clock.advance(1.5)
    results = await asyncio.gather(*asking)
    assert face.upstream.prompts == ["the same"]
    assert {one.output for one in results} == {"one for all"}
    assert sum(one.cost > 0 for one in results) == 1
    assert sum(one.coalesced for one in results) == 49
    assert not any(one.cache_hit for one in results)


async def test_a_caller_that_gives_up_takes_the_answer_from_nobody_else(face: Face) -> None:
    face.upstream.fate_for = lambda _: Fate(text="still wanted", latency_ms=1000)
    first, second, third = (asyncio.ensure_future(face.ask("the same")) for _ in range(3))
    await until(lambda: face.upstream.running)
    first.cancel()
    await asyncio.sleep(0)
    await face.clock.advance(1.5)
    assert [one.output for one in await asyncio.gather(second, third)] == ["still wanted"] * 2
    assert first.cancelled()
    assert face.upstream.prompts == ["the same"]
    assert face.upstream.closed == []


async def test_when_the_last_caller_gives_up_the_call_is_closed_and_charged_at_its_bound(face: Face) -> None:
    face.upstream.fate_for = lambda _: Fate(text="unwanted", latency_ms=1000)
    asking = asyncio.ensure_future(face.ask("nobody waits"))
    await until(lambda: face.upstream.running)
    asking.cancel()
    await until(lambda: face.upstream.closed)
    assert face.upstream.running == []
    await until(lambda: not face.router.core.dispatcher.held)
    with face.router.ledger.transaction() as transaction:
        (balance,) = (one for one in transaction.balances() if one.scope == "model:fast")
    assert balance.held_nano == 0
    assert balance.spent_nano >= 1000 * 2000  # a thousand tokens out, at 2 USD a million


async def test_what_fails_for_one_fails_for_all_who_wait(face: Face) -> None:
    fate = Fate(error="provider_unavailable", status_code=500, latency_ms=1000)
    face.upstream.fate_for = lambda _: fate
    asking = [asyncio.ensure_future(face.ask("the same")) for _ in range(10)]
    await until(lambda: face.upstream.running)
    await face.clock.advance(1.5)
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert {type(one) for one in results} == {ProviderUnavailable}
    assert len(face.upstream.prompts) == 1


async def test_different_tenants_and_workflows_never_share(face: Face) -> None:
    router = face.router
    for tenant, workflow in (("a", "default"), ("b", "default"), ("a", "other")):
        result = await router.execute_generation(prompt="x", tenant=tenant, workflow=workflow)
        assert not result.cache_hit
    assert len(face.upstream.prompts) == 3


async def test_messages_and_a_system_prompt_are_taken_too(face: Face) -> None:
    result = await face.router.execute_generation(
        messages=[{"role": "user", "content": "in a list"}], system="Be brief.", params={"temperature": 0}
    )
    assert result.output == "in a list"


async def test_leaving_the_router_ends_what_still_runs(tmp_path: Path) -> None:
    async with opened(tmp_path) as face:
        face.upstream.fate_for = lambda _: Fate(text="never", latency_ms=1e9)
        asking = asyncio.ensure_future(face.ask())
        await until(lambda: face.upstream.running)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(asking, 5)
    assert face.upstream.closed == ["Say hi"]


async def test_a_closed_router_says_that_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "theo-router.toml"
    path.write_text(CONFIG)
    router = Router.from_config(path)
    with pytest.raises(RuntimeError, match="not open"):
        await router.execute_generation(prompt="x")
    async with router:
        assert (await router.execute_generation(prompt="x")).model == "fast"
    with pytest.raises(RuntimeError, match="closed"):
        await router.execute_generation(prompt="x")
    async with router:
        assert (await router.execute_generation(prompt="x")).cache_hit


def test_the_names_of_the_face_are_all_in_one_place() -> None:
    assert theo_daemon.GenerationError is GenerationError
    assert theo_daemon.RoutedGeneration is RoutedGeneration
    assert {"Router", "Ledger", "LedgerTransaction", "ModelHealth"} <= set(dir(theo_daemon))
    with pytest.raises(AttributeError, match="Ruoter"):
        theo_daemon.Ruoter  # noqa: B018 - asking is the point
