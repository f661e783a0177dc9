"""The evaluation itself: what it counts, that a seed repeats itself, and that its rules were not bent."""

from __future__ import annotations

from msgspec import structs

from tests.evaluation.features import BASELINE, FEATURES
from tests.evaluation.report import figures, table, verdict
from tests.evaluation.scenarios import SCENARIOS, SEEDS, TUNING_SEEDS, Arrivals
from tests.evaluation.world import Run, run, weather_at

PLAIN = FEATURES[0]
OUTAGE = next(one for one in SCENARIOS if one.name == "outage")


def short(seconds: float = 40.0) -> object:
    """The outage scenario, its weather drawn together so that it begins at 10 s and ends at 20 s."""
    factor = seconds / OUTAGE.seconds
    models = tuple(
        structs.replace(
            model, weather=tuple(structs.replace(one, at_s=one.at_s * factor) for one in model.weather)
        )
        for model in OUTAGE.models
    )
    return structs.replace(OUTAGE, seconds=seconds, models=models)


def made_up(seed: int, *, feature: str = BASELINE, slow: float = 1.0, cost: float = 1.0) -> Run:
    return Run(
        scenario="s",
        feature=feature,
        seed=seed,
        jobs=10,
        latencies_s=[slow * n for n in range(1, 10)],
        cost_usd=cost,
        calls=12,
    )


def test_nothing_is_tuned_on_the_seeds_that_judge() -> None:
    assert not set(SEEDS) & set(TUNING_SEEDS)
    assert FEATURES[0].name == BASELINE


def test_every_scenario_has_both_regions_and_begins_in_peace() -> None:
    for scenario in SCENARIOS:
        assert {model.region for model in scenario.models} == {"eu", "us"}
        for model in scenario.models:
            first = weather_at(model.weather, 0.0)
            assert (first.failing, first.hanging, first.limited) == (0.0, 0.0, 0.0)


def test_the_weather_is_the_last_that_has_begun() -> None:
    (model,) = (one for one in OUTAGE.models if len(one.weather) > 1)
    assert [weather_at(model.weather, at).failing for at in (0, 299.9, 300, 599.9, 600)] == [0, 0, 1, 1, 0]


def test_more_jobs_come_in_a_burst_and_at_the_top_of_a_wave() -> None:
    burst = Arrivals(mean=2.0, burst=5.0, burst_from_s=10, burst_to_s=20)
    assert [burst.rate(at) for at in (9, 10, 19, 20)] == [2, 10, 10, 2]
    wave = Arrivals(mean=2.0, wave=0.5, period_s=40)
    assert (round(wave.rate(10), 6), round(wave.rate(30), 6), wave.most) == (3, 1, 3)


async def test_a_run_repeats_itself_from_its_seed_and_meets_the_weather() -> None:
    first = await run(short(), PLAIN, 9)  # type: ignore[arg-type]
    again = await run(short(), PLAIN, 9)  # type: ignore[arg-type]
    assert first == again
    assert 30 < first.jobs < 100
    assert first.calls > first.jobs  # the outage was met, and cost no job its answer
    assert len(first.latencies_s) == first.jobs
    assert await run(short(), PLAIN, 8) != first  # type: ignore[arg-type]


def test_figures_are_of_the_answered_but_cost_is_of_all() -> None:
    found = figures(made_up(1))
    assert (found.answered, found.p95_s, found.p99_s, found.cost_usd, found.calls) == (
        90.0,
        9.0,
        9.0,
        100.0,
        1.2,
    )


def test_the_verdict_compares_seed_by_seed_and_owns_up_to_no_gain() -> None:
    base = [made_up(seed) for seed in (1, 2, 3)]
    assert verdict(base, base) == "no gain here"
    mixed = [made_up(seed, feature="f", slow=0.5, cost=2.0) for seed in (1, 2, 3)]
    assert verdict(mixed, base) == "better p95; worse cost"
    lucky_once = [made_up(1, slow=0.1), made_up(2), made_up(3)]
    assert verdict(lucky_once, base) == "no gain here"
    assert "| s | f | 90.00 (90.00..90.00) % |" in table([*base, *mixed])
