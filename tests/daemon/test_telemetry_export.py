import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from telemetry_samples import FAST, answered, attempt_record, failed, job_record

from tests.pace import in_encodings
from theo_daemon.telemetry import names
from theo_daemon.telemetry.daemon_thread import in_daemon_thread
from theo_daemon.telemetry.export import Export
from theo_daemon.telemetry.metrics import Metrics
from theo_daemon.telemetry.redaction import Redactor
from theo_daemon.telemetry.resource import make_resource
from theo_daemon.telemetry.signals import Kind
from theo_daemon.telemetry.tracing import Tracing
from theo_workers.clock import FakeClock
from theo_workers.messages import Outcome

TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE_ID}-{PARENT_ID}-01", f"00-{TRACE_ID}-{PARENT_ID}-00"
OFFSET = 1_700_000_000 - 1_000  # FakeClock's wall less its monotonic


class Collector:
    """Decodes what an OpenTelemetry collector would."""

    def __init__(self) -> None:
        self.url = ""
        self.traces: list[ExportTraceServiceRequest] = []
        self.metrics: list[ExportMetricsServiceRequest] = []

    @property
    def spans(self) -> list[Span]:
        scopes = [scope for sent in self.traces for by in sent.resource_spans for scope in by.scope_spans]
        return [span for scope in scopes for span in scope.spans]

    @property
    def series(self) -> dict[str, Metric]:
        by_scope = [scope for by in self.metrics[-1].resource_metrics for scope in by.scope_metrics]
        return {metric.name: metric for scope in by_scope for metric in scope.metrics}

    async def take_traces(self, request: web.Request) -> web.Response:
        self.traces.append(ExportTraceServiceRequest.FromString(await request.read()))
        return web.Response()

    async def take_metrics(self, request: web.Request) -> web.Response:
        self.metrics.append(ExportMetricsServiceRequest.FromString(await request.read()))
        return web.Response()


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    collector = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", collector.take_traces)
    app.router.add_post("/v1/metrics", collector.take_metrics)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    collector.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield collector
    finally:
        await runner.cleanup()


def exporting(
    endpoint: str,
    metrics: Metrics | None = None,
    redactor: Redactor | None = None,
    clock: FakeClock | None = None,
) -> Export:
    return Export(
        endpoint=endpoint,
        metrics=metrics or Metrics([FAST]),
        models=[FAST],
        group="theo",
        version="0.1.0",
        instance="theo-1",
        clock=clock or FakeClock(),
        redactor=redactor or Redactor(),
    )


async def traced(*records: Any, redactor: Redactor | None = None) -> list[Span]:
    async with collecting() as collector:
        export = exporting(collector.url, redactor=redactor)
        for record in records:
            export.tracing.trace_job(record)
        await export.close()
        return collector.spans


def plain(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    return (
        [plain(item) for item in value.array_value.values]
        if kind == "array_value"
        else getattr(value, str(kind))
    )


def attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: plain(pair.value) for pair in pairs if isinstance(pair, KeyValue)}


async def test_a_job_continues_its_senders_trace_with_one_child_per_attempt() -> None:
    record = job_record(
        None,
        attempt_record(
            outcome=Outcome.FAILED, error_code="rate_limited", status_code=429, usage=None, cost_nano=0
        ),
        attempt_record(number=2, started_at=1_000.8, finished_at=1_001.0),
        traceparent=SAMPLED,
        tracestate="vendor=value",
    )
    spans = {
        span.name if span.kind == Span.SPAN_KIND_CONSUMER else span.start_time_unix_nano: span
        for span in await traced(record)
    }
    assert len(spans) == 3
    job = spans.pop("process theo:jobs")
    assert (job.trace_id.hex(), job.parent_span_id.hex(), job.trace_state) == (
        TRACE_ID,
        PARENT_ID,
        "vendor=value",
    )
    assert (job.start_time_unix_nano, job.end_time_unix_nano) == (
        (1_000 + OFFSET) * 10**9,
        (1_001 + OFFSET) * 10**9,
    )
    first, second = (span for _, span in sorted(spans.items(), key=str))
    for attempt in (first, second):
        assert (attempt.trace_id, attempt.parent_span_id) == (job.trace_id, job.span_id)
        assert (attempt.name, attempt.kind) == ("chat gpt-4o-mini", Span.SPAN_KIND_CLIENT)
    assert (first.status.code, first.status.message) == (Status.STATUS_CODE_ERROR, "rate_limited")
    assert first.start_time_unix_nano == int((1_000.5 + OFFSET) * 1e9)
    told = attributes(first.attributes)
    assert (told["error.type"], told["http.response.status_code"], told["theo.attempt.outcome"]) == (
        "rate_limited",
        429,
        "failed",
    )
    assert second.status.code == Status.STATUS_CODE_UNSET


async def test_spans_have_the_attributes_that_are_listed_and_no_other() -> None:
    records = [
        job_record(None, attempt_record(first_token_ms=80.0)),
        job_record(failed(), attempt_record(outcome=Outcome.FAILED, error_code="provider_unavailable")),
    ]
    told = [attributes(span.attributes) for span in await traced(*records)]
    assert {name for one in told for name in one} == set(names.ATTRIBUTES)
    (call,) = (one for one in told if one.get("gen_ai.usage.input_tokens") and "error.type" not in one)
    assert call == {
        "gen_ai.response.time_to_first_chunk": 0.08,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.output_tokens": 34,
        "gen_ai.usage.cache_read.input_tokens": 5,
        "gen_ai.usage.reasoning.output_tokens": 7,
        "http.response.status_code": 200,
        "theo.attempt.number": 1,
        "theo.attempt.outcome": "ok",
        "theo.cost_usd": 0.000042,
        "theo.model": "fast",
    }


async def test_a_failed_job_is_an_error_with_its_code() -> None:
    (span,) = await traced(job_record(failed("no_model_available")))
    assert (span.status.code, span.status.message) == (Status.STATUS_CODE_ERROR, "no_model_available")


@pytest.mark.parametrize(
    ("traceparent", "sent", "continued"),
    [
        (SAMPLED, 1, True),
        (UNSAMPLED, 0, False),
        (None, 1, False),
        ("nonsense", 1, False),
        (f"00-{'0' * 32}-{PARENT_ID}-01", 1, False),
        (f"ff-{TRACE_ID}-{PARENT_ID}-01", 1, False),
        (f"00-{TRACE_ID}-{PARENT_ID}-03", 1, True),
    ],
)
async def test_the_senders_sampled_flag_is_obeyed(
    traceparent: str | None, sent: int, continued: bool
) -> None:
    spans = await traced(job_record(traceparent=traceparent))
    assert len(spans) == sent
    assert [span.trace_id.hex() == TRACE_ID for span in spans] == [continued] * sent


async def test_no_prompt_output_or_secret_is_in_a_span() -> None:
    redactor = Redactor()
    redactor.register_secret("CANARY-7f3a9c")
    record = job_record(
        failed(message="CANARY-7f3a9c"), job_id="CANARY-7f3a9c", tenant="CANARY-7f3a9c", traceparent=SAMPLED
    )
    told = str(await traced(record, job_record(), redactor=redactor))
    assert "CANARY" not in told
    assert "the output" not in told


async def test_spans_are_made_between_other_work_and_not_while_the_job_is_told() -> None:
    async with collecting() as collector:
        export = exporting(collector.url)
        made: list[int] = []
        spans = export.tracing._spans
        export.tracing._spans = lambda *args: (made.append(1), spans(*args))[1]  # type: ignore[method-assign,func-returns-value]
        for _ in range(40):
            export.tracing.trace_job(job_record())
        assert made == []
        async with asyncio.timeout(10):
            while len(made) < 40:
                await asyncio.sleep(0)
        await export.close()
        assert len(collector.spans) == 40


async def test_more_jobs_than_can_wait_are_dropped_and_counted() -> None:
    async with collecting() as collector:
        metrics = Metrics([FAST])
        export = exporting(collector.url, metrics)
        for _ in range(2_050):
            export.tracing.trace_job(job_record())
        await export.close()
        assert export.tracing.dropped == 2
        (point,) = collector.series[names.TRACES_DROPPED.name].sum.data_points
        assert point.as_int == 2


async def test_a_share_of_the_jobs_without_a_trace_context_can_be_traced() -> None:
    async with collecting() as collector:
        tracing = Tracing(
            endpoint=collector.url,
            resource=make_resource(version="0.1.0", instance="theo-1"),
            clock=FakeClock(),
            redactor=Redactor(),
            group="theo",
            model_names={},
            ratio=0.0,
        )
        tracing.trace_job(job_record(answered(), attempt_record()))
        tracing.trace_job(job_record(traceparent=SAMPLED))
        await tracing.close()
        assert [span.trace_id.hex() for span in collector.spans] == [TRACE_ID]


async def test_metrics_are_the_numbers_that_prometheus_sees() -> None:
    metrics = Metrics([FAST])
    metrics.job_finished(job_record(None, attempt_record()))
    metrics.attempt_finished(attempt_record())
    metrics.observe(names.BREAKER_STATE, ("fast",), lambda: 2)
    async with collecting() as collector:
        await exporting(collector.url, metrics).close()
        series = collector.series
        assert set(series) == {family.metric.name for family in metrics.collect()}
        finished = {
            attributes(point.attributes)["code"]: point.as_int
            for point in series[names.JOBS_FINISHED.name].sum.data_points
        }
        assert (finished["none"], finished["rate_limited"]) == (1, 0)
        assert series[names.JOBS_FINISHED.name].sum.is_monotonic
        (breaker,) = series[names.BREAKER_STATE.name].gauge.data_points
        assert (breaker.as_int, attributes(breaker.attributes)) == (2, {"model": "fast"})
        calls = series[names.GEN_AI_DURATION.name].histogram.data_points[0]
        assert (calls.count, calls.sum, list(calls.explicit_bounds)) == (
            1,
            0.25,
            list(names.GEN_AI_DURATION.buckets),
        )
        assert sum(calls.bucket_counts) == 1
        assert not calls.HasField("min")
        for metric in names.METRICS.values():
            if metric.name in series:
                assert (series[metric.name].unit, series[metric.name].description) == (
                    metric.unit,
                    metric.meaning,
                )
                assert bool(series[metric.name].HasField("histogram")) is (metric.kind is Kind.HISTOGRAM)


async def test_the_sender_names_itself_and_the_environment_has_the_last_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=prod,service.name=ours")
    async with collecting() as collector:
        export = exporting(collector.url)
        export.tracing.trace_job(job_record())
        await export.close()
        for resource in (
            collector.traces[0].resource_spans[0].resource,
            collector.metrics[0].resource_metrics[0].resource,
        ):
            told = attributes(resource.attributes)
            assert (told["service.name"], told["deployment.environment.name"]) == ("ours", "prod")
            assert (told["service.version"], told["service.instance.id"]) == ("0.1.0", "theo-1")


async def test_metrics_are_sent_again_and_again_by_the_clock() -> None:
    async with collecting() as collector:
        clock = FakeClock()
        export = exporting(collector.url, clock=clock)
        await clock.advance(14.9)
        assert collector.metrics == []
        async with asyncio.timeout(20):
            while len(collector.metrics) < 3:
                await clock.advance(15)  # rings only once the sender waits for it again
        await export.close()


async def test_a_collector_that_never_answers_does_not_hold_up_the_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        clock = FakeClock()
        export = exporting(f"http://127.0.0.1:{silent.getsockname()[1]}", clock=clock)
        export.tracing.trace_job(job_record())
        closing = asyncio.ensure_future(export.close(patience_s=3.0))
        await clock.advance(2.9)
        assert not closing.done()
        await clock.advance(0.2)
        async with asyncio.timeout(2):
            await closing


async def test_what_the_thread_raises_is_raised_to_who_waits() -> None:
    def breaks() -> None:
        raise LookupError("here")

    with pytest.raises(LookupError, match="here"):
        await in_daemon_thread(breaks, "test")


def test_opentelemetrys_sdk_is_not_imported_where_no_endpoint_is_configured() -> None:
    program = """
import asyncio, sys
from theo_daemon.telemetry.start import RunningTelemetry
from theo_workers.clock import SystemClock
async def main():
    running = RunningTelemetry(log_level="info", otlp_endpoint="", models=[], secrets=[], group="theo",
                               version="0", instance="i", clock=SystemClock())
    await running.close()
asyncio.run(main())
sys.exit(any(name.startswith("opentelemetry") for name in sys.modules))
"""
    assert (
        subprocess.run(
            [sys.executable, "-c", program], check=False, env={"PYTHONPATH": ":".join(sys.path)}
        ).returncode
        == 0
    )


async def test_telling_a_job_to_the_tracer_costs_less_than_encoding_a_small_object() -> None:
    tracing = exporting("http://127.0.0.1:9").tracing
    record = job_record(traceparent=UNSAMPLED)

    def five_thousand_jobs() -> None:
        for _ in range(5_000):
            tracing.trace_job(record)

    assert in_encodings(five_thousand_jobs, rounds=3) < 5_000  # a tenth of one is usual
    assert tracing.dropped == 0  # none was kept: their sender wants no spans
