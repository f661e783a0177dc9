from collections.abc import Mapping

import pytest
from telemetry_samples import CLAUDE, FAST, answered, attempt_record, failed, job_record

from tests.pace import in_encodings
from theo_daemon.telemetry import names
from theo_daemon.telemetry.metrics import Distribution, Metrics
from theo_daemon.telemetry.signals import Kind, Metric
from theo_workers.messages import Outcome


def read(metrics: Metrics, metric: Metric) -> Mapping[tuple[str, ...], float | Distribution]:
    (family,) = (family for family in metrics.collect() if family.metric is metric)
    return dict(family.samples)


def nonzero(metrics: Metrics, metric: Metric) -> Mapping[tuple[str, ...], float | Distribution]:
    return {labels: value for labels, value in read(metrics, metric).items() if value}


def counted(metrics: Metrics, metric: Metric) -> Mapping[tuple[str, ...], tuple[int, float]]:
    found = {}
    for labels, value in read(metrics, metric).items():
        assert isinstance(value, Distribution)
        if any(value.counts):
            found[labels] = (sum(value.counts), value.total)
    return found


def test_jobs_are_counted_by_status_and_code() -> None:
    metrics = Metrics([FAST])
    for outcome in (answered(), answered(), failed("rate_limited"), failed("not_a_code_of_ours")):
        metrics.job_finished(job_record(outcome))
    assert nonzero(metrics, names.JOBS_FINISHED) == {
        ("ok", "none"): 2,
        ("error", "rate_limited"): 1,
        ("error", "other"): 1,
    }


CODES = [
    "invalid_job",
    "id_conflict",
    "unsupported_version",
    "payload_too_large",
    "unknown_model",
    "reply_to_not_allowed",
    "invalid_request",
    "context_length_exceeded",
    "content_filtered",
    "authentication_failed",
    "provider_quota_exhausted",
    "rate_limited",
    "provider_unavailable",
    "provider_timeout",
    "no_model_available",
    "budget_exceeded",
    "deadline_exceeded",
    "cancelled",
    "outcome_unknown",
    "delivery_limit_exceeded",
    "internal_error",
]


def test_every_code_of_the_contract_has_its_series_from_the_start() -> None:
    assert set(read(Metrics(), names.JOBS_FINISHED)) == {
        ("ok", "none"),
        *(("error", code) for code in [*CODES, "other"]),
    }


def test_hits_and_shared_answers_are_counted_apart() -> None:
    metrics = Metrics()
    metrics.job_finished(job_record(answered(cache_hit=True)))
    metrics.job_finished(job_record(answered(coalesced=True)))
    metrics.job_finished(job_record(answered(coalesced=True)))
    assert read(metrics, names.CACHE_HITS) == {(): 1}
    assert read(metrics, names.COALESCED) == {(): 2}
    totals = metrics.totals()
    assert (totals.ok, totals.failed, totals.cache_hits, totals.coalesced) == (3, 0, 1, 2)


def test_durations_of_a_job_add_its_attempts_and_leave_out_jobs_without_a_call() -> None:
    metrics = Metrics([FAST])
    metrics.job_finished(job_record(None, attempt_record(), attempt_record(number=2)))
    metrics.job_finished(job_record(answered(cache_hit=True)))
    assert counted(metrics, names.JOB_CALL) == {(): (1, 0.5)}
    assert counted(metrics, names.JOB_QUEUED) == {(): (2, 0.006)}
    assert counted(metrics, names.JOB_TOTAL) == {(): (2, 2.0)}


def test_attempts_tokens_and_cost_are_counted_by_model() -> None:
    metrics = Metrics([FAST, CLAUDE])
    metrics.attempt_finished(attempt_record())
    metrics.attempt_finished(attempt_record(cost_nano=1))
    metrics.attempt_finished(
        attempt_record("claude", Outcome.MAYBE, error_code="provider_timeout", usage=None, cost_nano=0)
    )
    metrics.attempt_finished(attempt_record("claude", Outcome.UNKNOWN, usage=None, cost_nano=0))
    assert nonzero(metrics, names.ATTEMPTS_FINISHED) == {
        ("fast", "ok"): 2,
        ("claude", "maybe"): 1,
        ("claude", "unknown"): 1,
    }
    assert read(metrics, names.ATTEMPTS_UNKNOWN) == {("fast",): 0, ("claude",): 2}
    assert nonzero(metrics, names.MODEL_COST) == {("fast",): 0.000042001}
    assert nonzero(metrics, names.MODEL_TOKENS) == {
        ("fast", "prompt"): 24,
        ("fast", "completion"): 68,
        ("fast", "cached"): 10,
        ("fast", "reasoning"): 14,
    }


def test_attempts_after_one_that_may_have_been_billed_are_counted_with_their_cost() -> None:
    metrics = Metrics([FAST, CLAUDE])
    metrics.attempt_finished(attempt_record(outcome=Outcome.MAYBE))
    metrics.attempt_finished(attempt_record(number=2, resent=True))
    metrics.attempt_finished(attempt_record("claude", number=3, resent=True, cost_nano=1))
    assert read(metrics, names.ATTEMPTS_RESENT) == {("fast",): 1, ("claude",): 1}
    assert read(metrics, names.RESENT_COST) == {("fast",): 0.000042, ("claude",): 1e-9}


def test_calls_have_the_labels_of_the_gen_ai_conventions() -> None:
    metrics = Metrics([CLAUDE])
    metrics.attempt_finished(attempt_record("claude"))
    metrics.attempt_finished(attempt_record("claude", Outcome.FAILED, error_code="rate_limited", usage=None))
    gen_ai = ("chat", "anthropic", "claude-x", "claude")
    assert counted(metrics, names.GEN_AI_DURATION) == {
        (*gen_ai, "none"): (1, 0.25),
        (*gen_ai, "rate_limited"): (1, 0.25),
    }
    assert counted(metrics, names.GEN_AI_TOKENS) == {
        (*gen_ai, "input"): (1, 12),
        (*gen_ai, "output"): (1, 34),
    }


def test_what_is_in_no_closed_set_adds_one_series_and_no_more() -> None:
    metrics = Metrics([FAST])
    for number in range(50):
        metrics.attempt_finished(attempt_record(f"model-{number}", error_code=f"code-{number}"))
        metrics.event(f"event-{number}")
        metrics.job_finished(
            job_record(failed(f"code-{number}"), tenant=f"tenant-{number}", job_id=f"id-{number}")
        )
    assert nonzero(metrics, names.ATTEMPTS_FINISHED) == {("other", "ok"): 50}
    assert set(counted(metrics, names.GEN_AI_DURATION)) == {("chat", "other", "other", "other", "other")}
    assert nonzero(metrics, names.EVENTS_TOTAL) == {("other",): 50, ("job_finished",): 50}
    assert nonzero(metrics, names.JOBS_FINISHED) == {("error", "other"): 50}


@pytest.mark.parametrize(
    ("value", "bucket"), [(0.0, 0), (0.0005, 0), (0.00051, 1), (1.024, 11), (1.0241, 12), (9_999.0, 12)]
)
def test_a_bucket_includes_its_upper_bound(value: float, bucket: int) -> None:
    metrics = Metrics()
    metrics.commit_finished(value)
    read_back = read(metrics, names.LEDGER_COMMIT)[()]
    assert isinstance(read_back, Distribution)
    assert read_back.counts.index(1) == bucket


def test_observed_series_are_asked_at_each_reading_and_left_out_when_unknown() -> None:
    metrics = Metrics()
    depth: dict[str, int | None] = {"high": 3, "low": None}
    metrics.observe(names.LANE_DEPTH, ("high",), lambda: depth["high"])
    metrics.observe(names.LANE_DEPTH, ("low",), lambda: depth["low"])
    assert read(metrics, names.LANE_DEPTH) == {("high",): 3}
    depth["low"] = 7
    assert read(metrics, names.LANE_DEPTH) == {("high",): 3, ("low",): 7}


def test_a_series_with_other_labels_than_its_metric_is_refused() -> None:
    with pytest.raises(ValueError, match=r"theo\.lane\.depth has the labels"):
        Metrics().observe(names.LANE_DEPTH, (), lambda: 1)


def test_no_metric_has_a_tenant_or_an_id_as_label() -> None:
    labels = {label for metric in names.METRICS.values() for label in metric.labels}
    assert not [label for label in labels if "tenant" in label or label.endswith("id")]


def test_the_time_to_the_first_text_is_counted_for_streams_alone() -> None:
    metrics = Metrics([FAST])
    for first_token_ms in (None, 250.0, 750.0):
        metrics.attempt_finished(attempt_record(first_token_ms=first_token_ms))
    assert counted(metrics, names.GEN_AI_FIRST_CHUNK) == {("chat", "openai", "gpt-4o-mini", "fast"): (2, 1.0)}


def test_every_metric_is_either_counted_here_or_observed() -> None:
    counted_here = {family.metric.name for family in Metrics([FAST]).collect()}
    observed = {metric.name for metric in names.METRICS.values() if metric.kind is Kind.GAUGE}
    others = {
        names.MODEL_AMENDMENTS.name,
        names.MODEL_PASSED_OVER.name,
        names.CPU_TIME.name,
        names.LINES_DROPPED.name,
        names.TRACES_DROPPED.name,
    }
    assert counted_here | observed | others == set(names.METRICS)


def test_counting_a_job_costs_less_than_two_encodings_of_a_small_object() -> None:
    metrics, record, attempt = Metrics([FAST]), job_record(None, attempt_record()), attempt_record()

    def two_thousand_jobs() -> None:
        for _ in range(2_000):
            metrics.attempt_finished(attempt)
            metrics.job_finished(record)

    assert in_encodings(two_thousand_jobs) < 2 * 2_000  # 0.7 of one is usual
