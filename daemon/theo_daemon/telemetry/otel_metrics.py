"""The numbers of `metrics` sent by OTLP over HTTP, through OpenTelemetry's observable instruments.

The loop reads the numbers and hands a snapshot to a thread, where the instruments' callbacks find it: no
gauge is asked outside the loop's thread. OpenTelemetry has no observable histogram, so the exporter adds
ours as ready data points; they are cumulative whatever temporality is asked for. Imports the SDK, as
`tracing` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider, MetricsTimeoutError
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.sdk.metrics.export import Metric as OtelMetric
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from theo_daemon.telemetry import names
from theo_daemon.telemetry.daemon_thread import in_daemon_thread
from theo_daemon.telemetry.metrics import Distribution, Family, Metrics
from theo_daemon.telemetry.signals import Kind, Metric
from theo_workers.clock import Clock, sleep

_EXPORT_TIMEOUT_S = 5.0
_SCOPE = "theo_daemon"
_HISTOGRAM_SCOPE = InstrumentationScope("theo_daemon.histograms")


class _Snapshot:
    """What the loop read last. `families` is replaced as a whole, never changed."""

    def __init__(self, started_ns: int) -> None:
        self.started_ns = started_ns
        self.now_ns = started_ns
        self.families: dict[str, Family] = {}


class OtelMetrics:
    """Sends all metrics every `interval_s` while `run` runs, and once more when it is closed."""

    def __init__(
        self, *, endpoint: str, metrics: Metrics, resource: Resource, clock: Clock, interval_s: float = 15.0
    ) -> None:
        """`endpoint` is the collector's base URL, such as `http://127.0.0.1:4318`."""
        self._metrics = metrics
        self._clock = clock
        self._interval_s = interval_s
        self._snapshot = _Snapshot(_nano(clock.wall()))
        exporter = _Exporter(f"{endpoint.rstrip('/')}/v1/metrics", self._snapshot)
        self._reader = PeriodicExportingMetricReader(exporter, export_interval_millis=math.inf)
        self._provider = MeterProvider([self._reader], resource=resource, shutdown_on_exit=False)
        _create_instruments(self._provider, self._snapshot)

    async def run(self) -> None:
        """Send for ever."""
        while True:
            await sleep(self._clock, self._interval_s)
            await self.send()

    async def send(self) -> None:
        """Send everything once. A collector that does not answer is logged by the exporter, not raised."""
        self._snapshot.families = {family.metric.name: family for family in self._metrics.collect()}
        self._snapshot.now_ns = _nano(self._clock.wall())
        await in_daemon_thread(self._collect, "otlp-metrics")

    async def close(self) -> None:
        """Send a last time and let go, after `run` was cancelled. The caller sets the limit."""
        await self.send()
        await in_daemon_thread(self._provider.shutdown, "otlp-metrics-close")

    def _collect(self) -> None:
        try:
            self._reader.collect(timeout_millis=_EXPORT_TIMEOUT_S * 1e3)
        except MetricsTimeoutError:
            return  # the next round tells it all again: the numbers are totals


class _Exporter(OTLPMetricExporter):
    """Adds the histograms to what the instruments gave."""

    def __init__(self, endpoint: str, snapshot: _Snapshot) -> None:
        super().__init__(endpoint=endpoint, timeout=_EXPORT_TIMEOUT_S)
        self._theo_snapshot = snapshot

    def export(
        self, metrics_data: MetricsData, timeout_millis: float | None = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        added = _histograms(self._theo_snapshot)
        # Into the resource that is there: the encoder keeps only one entry for each resource and each scope.
        both = [
            ResourceMetrics(by.resource, [*by.scope_metrics, added], by.schema_url)
            for by in metrics_data.resource_metrics
        ]
        return super().export(MetricsData(both), timeout_millis=timeout_millis, **kwargs)


def _create_instruments(provider: MeterProvider, snapshot: _Snapshot) -> None:
    meter = provider.get_meter(_SCOPE)
    for metric in names.METRICS.values():
        create = {
            Kind.COUNTER: meter.create_observable_counter,
            Kind.GAUGE: meter.create_observable_gauge,
        }.get(metric.kind)
        if create is not None:
            create(metric.name, [_reader_of(metric, snapshot)], metric.unit, metric.meaning)


def _reader_of(metric: Metric, snapshot: _Snapshot) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def read(_options: CallbackOptions) -> Sequence[Observation]:
        family = snapshot.families.get(metric.name)
        samples = family.samples if family else []
        return [
            Observation(value, dict(zip(metric.labels, labels, strict=True)))
            for labels, value in samples
            if not isinstance(value, Distribution)
        ]

    return read


def _histograms(snapshot: _Snapshot) -> ScopeMetrics:
    families = [family for family in snapshot.families.values() if family.metric.kind is Kind.HISTOGRAM]
    return ScopeMetrics(_HISTOGRAM_SCOPE, [_histogram(family, snapshot) for family in families], "")


def _histogram(family: Family, snapshot: _Snapshot) -> OtelMetric:
    metric = family.metric
    points = [
        HistogramDataPoint(
            attributes=dict(zip(metric.labels, labels, strict=True)),
            start_time_unix_nano=snapshot.started_ns,
            time_unix_nano=snapshot.now_ns,
            count=sum(value.counts),
            sum=value.total,
            bucket_counts=value.counts,
            explicit_bounds=metric.buckets,
            min=None,  # type: ignore[arg-type]  # not kept; the wire format lets both out
            max=None,  # type: ignore[arg-type]
        )
        for labels, value in family.samples
        if isinstance(value, Distribution)
    ]
    return OtelMetric(
        metric.name, metric.meaning, metric.unit, Histogram(points, AggregationTemporality.CUMULATIVE)
    )


def _nano(seconds: float) -> int:
    return int(seconds * 1e9)
