"""What the routing features are judged by: days that go well and days that do not, and the seeds of their luck.

Written down and committed before any feature was tuned. Features are tuned on TUNING_SEEDS alone; the table in
deploy/docs/routing.md is made with SEEDS. A scenario is not changed afterwards to suit a feature: a new idea gets a
new scenario, and the date of its commit says so (`wide region outage` came second, before regions were judged).
"""

from __future__ import annotations

import math

from msgspec import Struct, structs

SEEDS = (101, 202, 303, 404, 505)
TUNING_SEEDS = (1, 2, 3)

TTL_S = 30.0  # every job's deadline; one that misses it has failed
TIMEOUT_S = 20.0  # after which a call is given up
SIZES = ((0.6, 200), (0.3, 2_000), (0.1, 8_000))  # share of the jobs, bytes of the prompt
OUTPUT_TOKENS = 300  # median; the spread is log-normal
OUTPUT_SPREAD = 0.5


class Weather(Struct, frozen=True, kw_only=True):
    """What a model is like from `at_s` on. Shares are of its calls."""

    at_s: float = 0.0
    latency_s: float  # median of a call with a short prompt
    spread: float = 0.3  # sigma of the log-normal latency
    per_kb_s: float = 0.05  # more for each 1,000 bytes of prompt
    failing: float = 0.0  # answered 503
    fails_after_s: float = 0.2
    hanging: float = 0.0  # never answered
    limited: float = 0.0  # answered 429, Retry-After 5
    input_usd: float  # per million tokens
    output_usd: float


class Model(Struct, frozen=True, kw_only=True):
    """One model and its weather, in order of time."""

    name: str
    region: str
    weather: tuple[Weather, ...]
    concurrency: int = 16
    weight_by_hand: float  # what an operator would set who knows the models on a good day


class Arrivals(Struct, frozen=True, kw_only=True):
    """Jobs per second: `mean`, waving by `wave` of it once in `period_s`, `burst` times as many in the burst."""

    mean: float
    wave: float = 0.0
    period_s: float = 3_600.0
    burst: float = 1.0
    burst_from_s: float = 0.0
    burst_to_s: float = 0.0

    def rate(self, at_s: float) -> float:
        rate = self.mean * (1 + self.wave * math.sin(2 * math.pi * at_s / self.period_s))
        return rate * self.burst if self.burst_from_s <= at_s < self.burst_to_s else rate

    @property
    def most(self) -> float:
        return self.mean * (1 + abs(self.wave)) * max(1.0, self.burst)


class Scenario(Struct, frozen=True, kw_only=True):
    """`group_ceiling` is USD for all models together, for as long as the scenario lasts; None: none."""

    name: str
    story: str
    seconds: float
    arrivals: Arrivals
    models: tuple[Model, ...]
    group_ceiling: float | None = None


def _model(name: str, *changes: Weather) -> Model:
    region, weight, first = _PEACE[name]
    return Model(name=name, region=region, weather=(first, *changes), weight_by_hand=weight)


def _copy(name: str, number: int, *changes: Weather) -> Model:
    model = _model(name, *changes)
    return structs.replace(model, name=f"{name}-{number}")


def _like(name: str, at_s: float, **changed: float) -> Weather:
    first = _PEACE[name][2]
    values = {field: getattr(first, field) for field in Weather.__struct_fields__}
    return Weather(**{**values, "at_s": at_s, **changed})


_PEACE: dict[str, tuple[str, float, Weather]] = {
    "eu-quick": ("eu", 4.0, Weather(latency_s=0.8, input_usd=1.0, output_usd=4.0)),
    "eu-large": ("eu", 1.0, Weather(latency_s=1.6, input_usd=2.5, output_usd=10.0)),
    "us-quick": ("us", 4.0, Weather(latency_s=1.0, input_usd=0.8, output_usd=3.2)),
    "us-large": ("us", 1.0, Weather(latency_s=1.9, input_usd=2.0, output_usd=8.0)),
}
_FROM, _TO, _END = 300.0, 600.0, 900.0
_BUSY = Arrivals(mean=1.5)


def _all(*changed: Model) -> tuple[Model, ...]:
    by_name = {model.name: model for model in changed}
    return tuple(by_name.get(name) or _model(name) for name in _PEACE)


SCENARIOS = (
    Scenario(
        name="quiet week",
        story="nothing happens; seven days, each cut down to an hour, with busy noons and still nights",
        seconds=7 * 3_600.0,
        arrivals=Arrivals(mean=0.05, wave=0.9),
        models=_all(),
    ),
    Scenario(
        name="outage",
        story="eu-quick answers every call with 503 for five of fifteen minutes",
        seconds=_END,
        arrivals=_BUSY,
        models=_all(_model("eu-quick", _like("eu-quick", _FROM, failing=1.0), _like("eu-quick", _TO))),
    ),
    Scenario(
        name="region outage",
        story="no call to eu is answered for five of fifteen minutes; each costs its time-out",
        seconds=_END,
        arrivals=_BUSY,
        models=_all(
            _model("eu-quick", _like("eu-quick", _FROM, hanging=1.0), _like("eu-quick", _TO)),
            _model("eu-large", _like("eu-large", _FROM, hanging=1.0), _like("eu-large", _TO)),
        ),
    ),
    Scenario(
        name="wide region outage",
        story="as the region outage, but eu has six models, each of which would have to be found out by itself",
        seconds=_END,
        arrivals=_BUSY,
        models=(
            *(
                _copy("eu-quick", number, _like("eu-quick", _FROM, hanging=1.0), _like("eu-quick", _TO))
                for number in range(6)
            ),
            _model("us-quick"),
            _model("us-large"),
        ),
    ),
    Scenario(
        name="brown-out",
        story="us-quick fails three calls in ten after a second and is three times slower, for ten minutes",
        seconds=_END,
        arrivals=_BUSY,
        models=_all(
            _model(
                "us-quick",
                _like("us-quick", 200.0, failing=0.3, fails_after_s=1.0, latency_s=3.0),
                _like("us-quick", 800.0),
            )
        ),
    ),
    Scenario(
        name="hangs",
        story="eu-quick never answers two calls in ten, for ten minutes",
        seconds=_END,
        arrivals=_BUSY,
        models=_all(
            _model("eu-quick", _like("eu-quick", 200.0, hanging=0.2), _like("eu-quick", 800.0)),
        ),
    ),
    Scenario(
        name="latency shift",
        story="eu-quick takes 4.5 s instead of 0.8 s from the fifth minute on, below its latency threshold",
        seconds=_END,
        arrivals=_BUSY,
        models=_all(_model("eu-quick", _like("eu-quick", _FROM, latency_s=4.5))),
    ),
    Scenario(
        name="price shift",
        story="us-quick costs six times as much from the fifth minute on",
        seconds=_END,
        arrivals=_BUSY,
        models=_all(_model("us-quick", _like("us-quick", _FROM, input_usd=4.8, output_usd=19.2))),
    ),
    Scenario(
        name="rate squeeze",
        story="us-quick answers four calls in ten with 429 and Retry-After 5, for ten minutes",
        seconds=_END,
        arrivals=_BUSY,
        models=_all(_model("us-quick", _like("us-quick", 200.0, limited=0.4), _like("us-quick", 800.0))),
    ),
    Scenario(
        name="crowd",
        story="sixty times as many jobs as usual for forty seconds, more than all models can run at once",
        seconds=_END,
        arrivals=Arrivals(mean=1.0, burst=60.0, burst_from_s=_FROM, burst_to_s=_FROM + 40.0),
        models=_all(),
    ),
    Scenario(
        name="tight budget",
        story="all models share a ceiling that pays for about three quarters of the jobs at equal shares",
        seconds=_END,
        arrivals=_BUSY,
        models=_all(),
        group_ceiling=3.0,
    ),
)
