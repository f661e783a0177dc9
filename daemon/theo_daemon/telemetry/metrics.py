"""The router's own counters: plain numbers that cost next to nothing to count, read when somebody asks.

Every label value comes from a closed set that is known at the start; what is in none of them counts as
`other`: no input can grow the number of series. Counting happens on the loop's thread (`commit_finished`
on the ledger's writer), reading on the loop's.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import NamedTuple

from theo_daemon.job import Answered
from theo_daemon.money import NANO
from theo_daemon.telemetry import names
from theo_daemon.telemetry.records import AttemptRecord, JobRecord
from theo_daemon.telemetry.signals import Metric
from theo_daemon.telemetry.status import JobTotals
from theo_workers.errors import GenerationError
from theo_workers.messages import Outcome

OTHER, NONE = "other", "none"


class ModelName(NamedTuple):
    """A configured model, as labels show it. `model` is the provider's own name of it."""

    name: str
    provider: str
    model: str


class Distribution(NamedTuple):
    """A histogram as read: counts per bucket, the last one above all bounds, and the sum of all values."""

    counts: tuple[int, ...]
    total: float


class Sample(NamedTuple):
    """One series of a family; `labels` in the order of its metric's."""

    labels: tuple[str, ...]
    value: float | Distribution


class Family(NamedTuple):
    """One metric with all its series."""

    metric: Metric
    samples: list[Sample]


class Histogram:
    """Counts values into fixed buckets."""

    __slots__ = ("_bounds", "_counts", "_total")

    def __init__(self, metric: Metric) -> None:
        self._bounds = metric.buckets
        self._counts = [0] * (len(metric.buckets) + 1)
        self._total = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def read(self) -> Distribution:
        return Distribution(tuple(self._counts), self._total)


class _Model:
    """What is counted for one model."""

    __slots__ = (
        *("attempts", "changes", "cost_nano", "durations", "first_chunk", "input", "name", "output"),
        *("resent", "resent_cost_nano", "tokens"),
    )

    def __init__(self, name: ModelName) -> None:
        self.name = name
        self.attempts = dict.fromkeys(Outcome, 0)
        self.changes = dict.fromkeys(names.MODEL_EVENTS, 0)
        self.cost_nano = 0
        self.resent = self.resent_cost_nano = 0
        self.tokens = [0] * len(names.TOKEN_KINDS)
        self.durations: dict[str, Histogram] = {NONE: Histogram(names.GEN_AI_DURATION)}
        self.first_chunk = Histogram(names.GEN_AI_FIRST_CHUNK)
        self.input = Histogram(names.GEN_AI_TOKENS)
        self.output = Histogram(names.GEN_AI_TOKENS)


class Metrics:
    """All numbers of one process."""

    def __init__(self, models: Iterable[ModelName] = ()) -> None:
        self._models = {name.name: _Model(name) for name in models}
        self._other = _Model(ModelName(OTHER, OTHER, OTHER))
        self._codes = dict.fromkeys([*_error_codes(), OTHER], 0)
        self._ok = self._hits = self._coalesced = 0
        self._queued = Histogram(names.JOB_QUEUED)
        self._call = Histogram(names.JOB_CALL)
        self._total = Histogram(names.JOB_TOTAL)
        self._commit = Histogram(names.LEDGER_COMMIT)
        self._events = dict.fromkeys([*names.EVENTS, OTHER], 0)
        self._observed: dict[str, dict[tuple[str, ...], Callable[[], float | None]]] = {}

    def job_finished(self, record: JobRecord) -> None:
        """Count one finished job; its own line is counted as an event too."""
        outcome = record.outcome
        if isinstance(outcome, Answered):
            self._ok += 1
            self._hits += outcome.cache_hit
            self._coalesced += outcome.coalesced
        else:
            self._codes[outcome.code if outcome.code in self._codes else OTHER] += 1
        self._events[names.JOB_FINISHED] += 1
        self._queued.observe(record.queued_ms / 1e3)
        self._total.observe(record.finished_at - record.received_at)
        if record.attempts:
            called_s = 0.0
            for attempt in record.attempts:
                called_s += attempt.finished_at - attempt.started_at
            self._call.observe(called_s)

    def attempt_finished(self, record: AttemptRecord) -> None:
        """Count one finished attempt, its tokens and its cost."""
        attempt, usage = record.attempt, record.usage
        model = self._models.get(attempt.model, self._other)
        model.attempts[attempt.outcome] += 1
        model.cost_nano += record.cost_nano
        if record.resent:
            model.resent += 1
            model.resent_cost_nano += record.cost_nano
        code = attempt.error_code or NONE
        durations = model.durations.get(code)
        if durations is None:
            code = code if code in self._codes else OTHER
            durations = model.durations.setdefault(code, Histogram(names.GEN_AI_DURATION))
        durations.observe(record.finished_at - record.started_at)
        if record.first_token_ms is not None:
            model.first_chunk.observe(record.first_token_ms / 1_000)
        if usage is not None:
            tokens = model.tokens
            tokens[0] += usage.prompt_tokens
            tokens[1] += usage.completion_tokens
            tokens[2] += usage.cached_tokens
            tokens[3] += usage.cache_write_tokens
            tokens[4] += usage.reasoning_tokens
            model.input.observe(usage.prompt_tokens)
            model.output.observe(usage.completion_tokens)

    def event(self, name: str, model: str | None = None) -> None:
        """Count one event, and if it changed a model's standing, for that model too."""
        if model is not None and name in names.MODEL_EVENTS:
            self._models.get(model, self._other).changes[name] += 1
        self._events[name if name in self._events else OTHER] += 1

    def commit_finished(self, duration_s: float) -> None:
        """Count one commit of the ledger. For one thread, the ledger's writer."""
        self._commit.observe(duration_s)

    def observe(self, metric: Metric, labels: tuple[str, ...], read: Callable[[], float | None]) -> None:
        """Ask `read` whenever metrics are read; None leaves the series out.

        `read` runs on the loop and must neither block nor raise. Another one for the same labels replaces it.
        """
        if len(labels) != len(metric.labels):
            raise ValueError(f"{metric.name} has the labels {metric.labels}, not {labels}")
        self._observed.setdefault(metric.name, {})[labels] = read

    def totals(self) -> JobTotals:
        """How the jobs so far ended."""
        return JobTotals(
            ok=self._ok,
            failed=sum(self._codes.values()),
            cache_hits=self._hits,
            coalesced=self._coalesced,
        )

    def collect(self) -> list[Family]:
        """Every family with at least one series, in the order of `names`."""
        counted = self._counted()
        families = []
        for metric in names.METRICS.values():
            samples = counted.get(metric.name) or self._read_observed(metric)
            if samples:
                families.append(Family(metric, samples))
        return families

    def _read_observed(self, metric: Metric) -> list[Sample]:
        read = ((labels, ask()) for labels, ask in self._observed.get(metric.name, {}).items())
        return [Sample(labels, +value) for labels, value in read if value is not None]

    def _counted(self) -> dict[str, list[Sample]]:
        failed = [Sample(("error", code), count) for code, count in self._codes.items()]
        counted = {
            names.JOBS_FINISHED: [Sample(("ok", NONE), self._ok), *failed],
            names.CACHE_HITS: [Sample((), self._hits)],
            names.COALESCED: [Sample((), self._coalesced)],
            names.JOB_QUEUED: [Sample((), self._queued.read())],
            names.JOB_CALL: [Sample((), self._call.read())],
            names.JOB_TOTAL: [Sample((), self._total.read())],
            names.LEDGER_COMMIT: [Sample((), self._commit.read())],
            names.EVENTS_TOTAL: [Sample((name,), count) for name, count in self._events.items()],
        }
        models = list(self._models.values())
        if any(self._other.attempts.values()):
            models.append(self._other)
        for metric, read in _PER_MODEL.items():
            counted[metric] = [sample for model in models for sample in read(model)]
        return {metric.name: samples for metric, samples in counted.items()}


def _attempts(model: _Model) -> list[Sample]:
    return [Sample((model.name.name, outcome.value), count) for outcome, count in model.attempts.items()]


def _changes(model: _Model) -> list[Sample]:
    return [Sample((model.name.name, event), count) for event, count in model.changes.items()]


def _unknown(model: _Model) -> list[Sample]:
    return [Sample((model.name.name,), model.attempts[Outcome.MAYBE] + model.attempts[Outcome.UNKNOWN])]


def _resent(model: _Model) -> list[Sample]:
    return [Sample((model.name.name,), model.resent)]


def _resent_cost(model: _Model) -> list[Sample]:
    return [Sample((model.name.name,), model.resent_cost_nano / NANO)]


def _tokens(model: _Model) -> list[Sample]:
    pairs = zip(names.TOKEN_KINDS, model.tokens, strict=True)
    return [Sample((model.name.name, kind), count) for kind, count in pairs]


def _cost(model: _Model) -> list[Sample]:
    return [Sample((model.name.name,), model.cost_nano / NANO)]


def _durations(model: _Model) -> list[Sample]:
    return [Sample((*_gen_ai(model), code), histogram.read()) for code, histogram in model.durations.items()]


def _first_chunk(model: _Model) -> list[Sample]:
    return [Sample(_gen_ai(model), model.first_chunk.read())]


def _usage(model: _Model) -> list[Sample]:
    labels = _gen_ai(model)
    return [Sample((*labels, "input"), model.input.read()), Sample((*labels, "output"), model.output.read())]


def _gen_ai(model: _Model) -> tuple[str, str, str, str]:
    return ("chat", names.genai_provider(model.name.provider), model.name.model, model.name.name)


_PER_MODEL: dict[Metric, Callable[[_Model], list[Sample]]] = {
    names.ATTEMPTS_FINISHED: _attempts,
    names.ATTEMPTS_UNKNOWN: _unknown,
    names.MODEL_CHANGES: _changes,
    names.ATTEMPTS_RESENT: _resent,
    names.RESENT_COST: _resent_cost,
    names.MODEL_TOKENS: _tokens,
    names.MODEL_COST: _cost,
    names.GEN_AI_DURATION: _durations,
    names.GEN_AI_FIRST_CHUNK: _first_chunk,
    names.GEN_AI_TOKENS: _usage,
}


def _error_codes() -> list[str]:
    """Every code of the contract: the leaves of the error tree."""
    codes, unvisited = {GenerationError.code}, [GenerationError]
    while unvisited:
        kinds = unvisited.pop().__subclasses__()
        codes.update(kind.code for kind in kinds)
        unvisited.extend(kinds)
    return sorted(codes)
