"""Puts telemetry together from its settings."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from theo_daemon.telemetry import names
from theo_daemon.telemetry.facade import Telemetry
from theo_daemon.telemetry.line_sink import LineSink
from theo_daemon.telemetry.logs import Logs, capture_everything
from theo_daemon.telemetry.metrics import Metrics, ModelName
from theo_daemon.telemetry.process import observe_process
from theo_daemon.telemetry.redaction import Redactor
from theo_workers.clock import Clock


class RunningTelemetry:
    """Telemetry of one process, from start to `close`. Built on the loop's thread, before everything else."""

    def __init__(
        self,
        *,
        log_level: str,
        otlp_endpoint: str,
        models: Sequence[ModelName],
        secrets: Iterable[str],
        group: str,
        version: str,
        instance: str,
        clock: Clock,
        log_fd: int = 2,
    ) -> None:
        """`otlp_endpoint` is a collector's base URL, "" for none: then OpenTelemetry is not even imported.

        `secrets` are every value that must never leave: keys, passwords, URLs with passwords.
        """
        self.redactor = Redactor()
        for secret in secrets:
            self.redactor.register_secret(secret)
        self._sink = sink = LineSink(log_fd)
        sink.attach(asyncio.get_running_loop())
        logs = Logs(level=log_level, clock=clock, redactor=self.redactor, sink=sink)
        capture_everything(logs)
        metrics = Metrics(models)
        observe_process(metrics, clock, version)
        metrics.observe(names.LINES_DROPPED, (), lambda: sink.dropped)
        self._export = None
        if otlp_endpoint:
            from theo_daemon.telemetry.export import Export  # noqa: PLC0415 - 150 ms that most starts need not spend

            self._export = Export(
                endpoint=otlp_endpoint,
                metrics=metrics,
                models=models,
                group=group,
                version=version,
                instance=instance,
                clock=clock,
                redactor=self.redactor,
            )
        tracer = self._export.tracing if self._export else None
        self.telemetry = Telemetry(metrics=metrics, logs=logs, tracer=tracer)

    async def close(self) -> None:
        """Send and write what is left."""
        if self._export is not None:
            await self._export.close()
        self._sink.close()
