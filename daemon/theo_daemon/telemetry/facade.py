"""The one face that the rest of the daemon sees: tell it what happened, it counts, logs and traces."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from theo_daemon.telemetry.logs import Logs
from theo_daemon.telemetry.metrics import Metrics
from theo_daemon.telemetry.records import AttemptRecord, JobRecord
from theo_daemon.telemetry.signals import Metric


class Tracer(Protocol):
    """Turns finished jobs into spans."""

    def trace_job(self, record: JobRecord) -> None:
        """Keep the record for the exporter; cheap."""


class Telemetry:
    """Counts, logs and traces. All but `commit_finished` and `event` belong to the loop's thread."""

    def __init__(self, *, metrics: Metrics, logs: Logs, tracer: Tracer | None = None) -> None:
        self.metrics = metrics
        self.logs = logs
        self._tracer = tracer

    def job_finished(self, record: JobRecord) -> None:
        """One job ended. Its attempts were told before, by `attempt_finished`."""
        self.metrics.job_finished(record)
        self.logs.job_finished(record)
        if self._tracer is not None:
            self._tracer.trace_job(record)

    def attempt_finished(self, record: AttemptRecord) -> None:
        """One attempt ended and its cost is settled."""
        self.metrics.attempt_finished(record)

    def commit_finished(self, duration_s: float) -> None:
        """One commit of the ledger is durable. For one thread, the ledger's writer."""
        self.metrics.commit_finished(duration_s)

    def event(self, name: str, /, *, model: str | None = None, **details: Any) -> None:
        """One event of `names` happened: counted, and logged at its level. Any thread."""
        self.metrics.event(name, model)
        self.logs.event(name, details if model is None else {"model": model, **details})

    def gauge(self, metric: Metric, labels: Mapping[str, str], read: Callable[[], float | None]) -> None:
        """Ask `read` for this series whenever metrics are read; None leaves it out.

        `read` runs on the loop and must neither block nor raise. `labels` by the names in `metric.labels`,
        their values out of the configuration. Raises ValueError for other labels.
        """
        if set(labels) != set(metric.labels):
            raise ValueError(f"{metric.name} has the labels {metric.labels}, not {tuple(labels)}")
        self.metrics.observe(metric, tuple(labels[key] for key in metric.labels), read)
