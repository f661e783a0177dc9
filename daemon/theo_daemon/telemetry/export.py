"""Traces and metrics on their way to one collector. Importing this imports the OpenTelemetry SDK."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable

from theo_daemon.telemetry import names
from theo_daemon.telemetry.metrics import Metrics, ModelName
from theo_daemon.telemetry.otel_metrics import OtelMetrics
from theo_daemon.telemetry.redaction import Redactor
from theo_daemon.telemetry.resource import make_resource
from theo_daemon.telemetry.tracing import Tracing
from theo_workers.clock import Clock, timeout_at


class Export:
    """Starts with its construction, on the loop's thread."""

    def __init__(
        self,
        *,
        endpoint: str,
        metrics: Metrics,
        models: Iterable[ModelName],
        group: str,
        version: str,
        instance: str,
        clock: Clock,
        redactor: Redactor,
    ) -> None:
        resource = make_resource(version=version, instance=instance)
        self.tracing = tracing = Tracing(
            endpoint=endpoint,
            resource=resource,
            clock=clock,
            redactor=redactor,
            group=group,
            model_names={model.name: model.model for model in models},
        )
        metrics.observe(names.TRACES_DROPPED, (), lambda: tracing.dropped)
        self._clock = clock
        self._metrics = OtelMetrics(endpoint=endpoint, metrics=metrics, resource=resource, clock=clock)
        self._sending = asyncio.get_running_loop().create_task(self._metrics.run(), name="otlp-metrics")

    async def close(self, patience_s: float = 3.0) -> None:
        """Send what is left, and give up on a collector that has not taken it after `patience_s`."""
        self._sending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._sending
        with contextlib.suppress(TimeoutError):
            async with timeout_at(self._clock, self._clock.monotonic() + patience_s):
                await asyncio.gather(self.tracing.close(), self._metrics.close())
