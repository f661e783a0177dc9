import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from telemetry_samples import FAST, attempt_record, job_record

from theo_daemon.telemetry import names
from theo_daemon.telemetry.metrics import Metrics, ModelName
from theo_daemon.telemetry.names import METRICS
from theo_daemon.telemetry.prometheus import render_prometheus
from theo_daemon.telemetry.signals import Kind, Metric

SERIES = re.compile(r'([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\.)*",?)*)\})? (\S+)')
LABEL = re.compile(r'([a-z_]+)="((?:[^"\\\n]|\\.)*)"')
ESCAPES = {r"\\": "\\", r"\"": '"', r"\n": "\n"}


def parse(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """What a scraper makes of it. Fails on what is not the format, and on a series given twice."""
    assert text.endswith("\n")
    series: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for line in text[:-1].split("\n"):
        if line.startswith(("# HELP ", "# TYPE ")):
            continue
        match = SERIES.fullmatch(line)
        assert match, line
        pairs = LABEL.findall(match[2] or "")
        labels = tuple((key, re.sub(r"\\.", lambda found: ESCAPES[found[0]], value)) for key, value in pairs)
        assert (match[1], labels) not in series
        series[match[1], labels] = float(match[3])
    return series


def scrape(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return parse(render_prometheus(metrics.collect()).decode())


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"])))
def test_any_name_in_the_configuration_reads_back_as_it_was(name: str, model: str) -> None:
    metrics = Metrics([ModelName(name, "openai", model)])
    metrics.attempt_finished(attempt_record(name))
    series = scrape(metrics)
    assert series["theo_attempts_finished_total", (("model", name), ("outcome", "ok"))] == 1
    labels = (
        ("gen_ai_operation_name", "chat"),
        ("gen_ai_provider_name", "openai"),
        ("gen_ai_request_model", model),
        ("model", name),
        ("error_type", "none"),
    )
    assert series["gen_ai_client_operation_duration_seconds_count", labels] == 1


def test_two_models_of_the_same_provider_and_name_stay_two_series() -> None:
    scrape(Metrics([ModelName("a", "openai", "gpt"), ModelName("b", "openai", "gpt")]))


def test_buckets_are_cumulative_and_end_with_the_count() -> None:
    metrics = Metrics()
    for value in (0.0004, 0.003, 0.003, 5.0):
        metrics.commit_finished(value)
    series = scrape(metrics)
    name = "theo_ledger_commit_duration_seconds"
    buckets = {key[1][0][1]: value for key, value in series.items() if key[0] == f"{name}_bucket"}
    assert (buckets["0.0005"], buckets["0.002"], buckets["0.004"], buckets["1.024"], buckets["+Inf"]) == (
        1,
        1,
        3,
        3,
        4,
    )
    assert series[f"{name}_count", ()] == 4
    assert series[f"{name}_sum", ()] == pytest.approx(5.0064)


def test_each_family_has_its_help_and_type_once_and_before_its_series() -> None:
    metrics = Metrics([FAST])
    metrics.job_finished(job_record())
    lines = render_prometheus(metrics.collect()).decode().splitlines()
    current, seen = "", set()
    for line in lines:
        if line.startswith("# HELP "):
            current = line.split(" ")[2]
            assert current not in seen
            seen.add(current)
        else:
            assert line.removeprefix("# TYPE ").startswith(current)


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        (names.JOBS_FINISHED, "theo_jobs_finished_total"),
        (names.MODEL_COST, "theo_model_cost_usd_total"),
        (names.LANE_OLDEST_AGE, "theo_lane_oldest_age_seconds"),
        (names.MEMORY, "process_memory_usage_bytes"),
        (names.GEN_AI_TOKENS, "gen_ai_client_token_usage"),
        (names.BREAKER_STATE, "theo_model_breaker_state"),
    ],
)
def test_names_follow_the_rule_of_opentelemetry(metric: Metric, name: str) -> None:
    assert metric.prometheus_name == name


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (True, "1"),
        (0.1, "0.1"),
        (1e-9, "1e-09"),
        (math.inf, "+Inf"),
        (-math.inf, "-Inf"),
        (math.nan, "NaN"),
    ],
)
def test_numbers_are_written_as_the_format_wants_them(value: float, text: str) -> None:
    metrics = Metrics()
    metrics.observe(names.REDIS_UP, (), lambda: value)
    assert f"theo_redis_connected {text}\n" in render_prometheus(metrics.collect()).decode()


def test_no_two_metrics_share_a_name_there() -> None:
    exposed = [metric.prometheus_name for metric in METRICS.values()]
    assert len(set(exposed)) == len(exposed)


def test_histograms_have_rising_bounds_and_nothing_else_has_any() -> None:
    for metric in METRICS.values():
        assert list(metric.buckets) == sorted(set(metric.buckets))
        assert bool(metric.buckets) is (metric.kind is Kind.HISTOGRAM)
