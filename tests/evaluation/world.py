"""One scenario, one feature, one seed: the real dispatcher in virtual time, with providers that follow the weather."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence

from msgspec import Struct

from tests.evaluation.features import Feature
from tests.evaluation.scenarios import (
    OUTPUT_SPREAD,
    OUTPUT_TOKENS,
    SIZES,
    TIMEOUT_S,
    TTL_S,
    Model,
    Scenario,
    Weather,
)
from tests.scenario.stage import Stage, said, staged
from theo_daemon.config import BudgetConfig, ModelConfig, RoutingConfig
from theo_daemon.job import Answered, EntryRef
from theo_workers.clock import Clock, sleep_until
from theo_workers.errors import ProviderTimeout, ProviderUnavailable, RateLimited
from theo_workers.messages import Completion, DeltaSink, Request, Usage
from theo_workers.prices import flat

BYTES_PER_TOKEN = 4
NANO = 1_000_000_000
MAX_OUTPUT_TOKENS = 2_000


class Run(Struct, frozen=True, kw_only=True):
    """What came of one run."""

    scenario: str
    feature: str
    seed: int
    jobs: int
    latencies_s: list[float]  # of the answered, from push to reply
    cost_usd: float  # of all attempts, those of failed jobs too
    calls: int


class Provider:
    """Implements `Upstream`. Its luck is the job's, not the order's: the same in all features of a seed."""

    provider = "scripted"

    def __init__(self, clock: Clock, model: Model, seed: int) -> None:
        self._clock, self._model, self._seed = clock, model, seed
        self._began = clock.monotonic()
        self._calls: dict[str, int] = {}

    async def generate(self, request: Request, *, deadline: float, on_delta: DeltaSink | None) -> Completion:
        """See `Upstream.generate`."""
        prompt, now = said(request), self._clock.monotonic()
        job = prompt.partition(":")[0]
        number = self._calls[job] = self._calls.get(job, 0) + 1
        luck = random.Random(f"{self._seed}/{self._model.name}/{job}/{number}")
        weather = weather_at(self._model.weather, now - self._began)
        fate, slowness = luck.random(), luck.gauss(0.0, weather.spread)
        if fate < weather.failing:
            await self._wait(now + weather.fails_after_s, deadline)
            raise ProviderUnavailable("out of order", provider=self.provider, status_code=503)
        if fate < weather.failing + weather.limited:
            await self._wait(now + 0.05, deadline)
            raise RateLimited("slow down", provider=self.provider, status_code=429, retry_after_s=5.0)
        if fate < weather.failing + weather.limited + weather.hanging:
            await self._wait(math.inf, deadline)
        latency_s = (weather.latency_s + weather.per_kb_s * len(prompt) / 1_000) * math.exp(slowness)
        await self._wait(now + latency_s, deadline)
        tokens = round(OUTPUT_TOKENS * math.exp(luck.gauss(0.0, OUTPUT_SPREAD)))
        usage = Usage(
            prompt_tokens=len(prompt) // BYTES_PER_TOKEN, completion_tokens=min(tokens, MAX_OUTPUT_TOKENS)
        )
        return Completion(output="an answer", finish_reason="stop", usage=usage)

    async def close(self) -> None:
        """Nothing to release."""

    async def _wait(self, until: float, deadline: float) -> None:
        await sleep_until(self._clock, min(until, deadline))
        if until >= deadline:
            raise ProviderTimeout("no answer in time", provider=self.provider)


def weather_at(weather: Sequence[Weather], at_s: float) -> Weather:
    """The last that has begun."""
    return [one for one in weather if one.at_s <= at_s][-1]


async def run(scenario: Scenario, feature: Feature, seed: int) -> Run:
    """Everything is derived from `seed`: when jobs come, how long they are, and the luck of each call."""
    routing = {"timeout_s": TIMEOUT_S, "cache_enabled": False, **feature.routing}
    models = [_config(model, feature) for model in scenario.models]
    luck = random.Random(f"{seed}/{scenario.name}")
    pushed: list[tuple[EntryRef, float]] = []
    ingress, budgets = {"max_in_flight": 100_000}, _budgets(scenario, feature)
    async with staged(*models, routing=routing, ingress=ingress, budgets=budgets, seed=seed) as stage:
        for model in scenario.models:
            stage.core.fleet[model.name].worker.upstream = Provider(stage.clock, model, seed)
        began = stage.clock.monotonic()
        changes = _price_changes(scenario)
        for at_s in _arrivals(scenario, luck):
            while changes and changes[0][0] <= at_s:
                _reprice(stage, *changes.pop(0)[1:])
            await stage.advance(began + at_s - stage.clock.monotonic())
            pushed.append((_push(stage, len(pushed), luck), stage.clock.monotonic()))
        await stage.advance(TTL_S + 1)
        return _sum_up(stage, pushed, scenario, feature, seed)


def _config(model: Model, feature: Feature) -> ModelConfig:
    first = model.weather[0]
    return ModelConfig(
        name=model.name,
        provider="scripted",
        model=model.name,
        region=model.region,
        concurrency=model.concurrency,
        max_output_tokens=MAX_OUTPUT_TOKENS,
        input_cost_per_mtok=first.input_usd,
        output_cost_per_mtok=first.output_usd,
        routing=RoutingConfig(weight=model.weight_by_hand if feature.weights_by_hand else 1.0),
    )


def _budgets(scenario: Scenario, feature: Feature) -> list[BudgetConfig]:
    if scenario.group_ceiling is None:
        return []
    ratio = feature.routing.get("downgrade_ratio")
    return [BudgetConfig(group="all", spend_ceiling=scenario.group_ceiling, downgrade_ratio=ratio)]


def _arrivals(scenario: Scenario, luck: random.Random) -> Iterator[float]:
    """A Poisson process of the scenario's changing rate, by thinning (Lewis and Shedler, 1979)."""
    at_s = 0.0
    while True:
        at_s += luck.expovariate(scenario.arrivals.most)
        if at_s >= scenario.seconds:
            return
        if luck.random() * scenario.arrivals.most < scenario.arrivals.rate(at_s):
            yield at_s


def _push(stage: Stage, number: int, luck: random.Random) -> EntryRef:
    (size,) = luck.choices([size for _, size in SIZES], [share for share, _ in SIZES])
    head = f"job {number}: "
    return stage.push(head + "word " * ((size - len(head)) // 5), cache="off", ttl_ms=str(int(TTL_S * 1000)))


def _price_changes(scenario: Scenario) -> list[tuple[float, str, Weather]]:
    return sorted(
        (
            (weather.at_s, model.name, weather)
            for model in scenario.models
            for weather in model.weather
            if weather.at_s > 0
        ),
        key=lambda change: change[0],
    )


def _reprice(stage: Stage, name: str, weather: Weather) -> None:
    price = flat(round(weather.input_usd * NANO), round(weather.output_usd * NANO))
    stage.core.fleet.reprice(name, price)


def _sum_up(
    stage: Stage, pushed: Sequence[tuple[EntryRef, float]], scenario: Scenario, feature: Feature, seed: int
) -> Run:
    latencies_s: list[float] = []
    cost_nano = calls = 0
    for ref, at in pushed:
        final = stage.final(ref)
        assert final is not None, "a job was not answered by its deadline"
        cost_nano += final.outcome.cost_nano
        calls += len(final.outcome.attempts)
        if isinstance(final.outcome, Answered):
            latencies_s.append(final.at - at)
    return Run(
        scenario=scenario.name,
        feature=feature.name,
        seed=seed,
        jobs=len(pushed),
        latencies_s=latencies_s,
        cost_usd=cost_nano / NANO,
        calls=calls,
    )


def why_not(scenario: Scenario, feature: Feature) -> str | None:
    """Why this router cannot run it; None when it can."""
    if feature.missing:
        return f"there is no key {', '.join(feature.missing)}"
    if "downgrade_ratio" in feature.routing and scenario.group_ceiling is None:
        return "there is no ceiling"
    return None
