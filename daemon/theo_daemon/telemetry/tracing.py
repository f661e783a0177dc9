"""Spans of finished jobs, dated back to when things happened, sent by OTLP over HTTP.

Nothing of this runs while a job does: a finished job's record waits a moment in a queue, and a few at a
time become spans between other work. Importing this module imports the OpenTelemetry SDK, so it is
imported only where an endpoint is configured. Further settings come from the exporter's own
OTEL_EXPORTER_OTLP_* variables (headers, certificates, compression) and OTEL_RESOURCE_ATTRIBUTES.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from theo_daemon.job import Answered, Envelope, JobOutcome
from theo_daemon.money import to_usd
from theo_daemon.telemetry import names
from theo_daemon.telemetry.daemon_thread import in_daemon_thread
from theo_daemon.telemetry.records import AttemptRecord, JobRecord
from theo_daemon.telemetry.redaction import Redactor
from theo_workers.clock import Clock
from theo_workers.messages import Outcome, Usage

_PAUSE_S = 0.05
_SLICE = 16  # about a millisecond of the loop's time
_EXPORT_TIMEOUT_S = 5.0
_SHUTDOWN_TIMEOUT_MS = 3_000
_SAMPLED = 1
_propagator = TraceContextTextMapPropagator()

Value = str | int | float | bool | tuple[str, ...]
Attributes = Mapping[str, Value | None]


class Tracing:
    """Turns JobRecords into spans. Everything but `close` belongs to the loop's thread."""

    def __init__(
        self,
        *,
        endpoint: str,
        resource: Resource,
        clock: Clock,
        redactor: Redactor,
        group: str,
        model_names: Mapping[str, str],
        ratio: float = 1.0,
        max_waiting: int = 2_048,
    ) -> None:
        """`endpoint` is the collector's base URL, such as `http://127.0.0.1:4318`.

        `ratio` of the jobs without a trace context are traced; the others' own sampled flag is obeyed.

        `model_names` maps configured names to the providers' own.
        """
        self.dropped = 0  # jobs not traced because too many waited
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(ratio)), resource=resource, shutdown_on_exit=False
        )
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=_EXPORT_TIMEOUT_S)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("theo_daemon")
        self._clock = clock
        self._redactor = redactor
        self._group = group
        self._model_names = model_names
        self._waiting: deque[JobRecord] = deque()
        self._max_waiting = max_waiting
        self._timer: asyncio.TimerHandle | None = None

    def trace_job(self, record: JobRecord) -> None:
        """Keep the record until its spans are made, unless its sender asked for none."""
        if _refused(record.envelope.traceparent):
            return
        if len(self._waiting) >= self._max_waiting:
            self.dropped += 1
            return
        self._waiting.append(record)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_PAUSE_S, self._work)

    def flush(self) -> None:
        """Make spans of all that waits, at once."""
        offset = self._clock.wall() - self._clock.monotonic()
        while self._waiting:
            self._spans(self._waiting.popleft(), offset)

    async def close(self) -> None:
        """Send what is left. Takes as long as the collector takes: the caller sets the limit."""
        if self._timer is not None:
            self._timer.cancel()
        self.flush()
        await in_daemon_thread(self._shutdown, "otlp-traces-close")

    def _shutdown(self) -> None:
        self._provider.force_flush(_SHUTDOWN_TIMEOUT_MS)
        self._provider.shutdown()

    def _work(self) -> None:
        offset = self._clock.wall() - self._clock.monotonic()
        for _ in range(min(_SLICE, len(self._waiting))):
            self._spans(self._waiting.popleft(), offset)
        loop = asyncio.get_running_loop()
        # Behind whatever else is ready: jobs go first.
        self._timer = loop.call_later(0.001, self._work) if self._waiting else None

    def _spans(self, record: JobRecord, offset: float) -> None:
        span = self._tracer.start_span(
            f"process {record.envelope.ref.stream}",
            context=_parent(record.envelope),
            kind=SpanKind.CONSUMER,
            attributes=_present(self._job_attributes(record)),
            start_time=_nano(record.received_at + offset),
        )
        if span.is_recording():
            context = trace.set_span_in_context(span)
            for attempt in record.attempts:
                self._attempt_span(attempt, context, offset)
            if not isinstance(record.outcome, Answered):
                span.set_status(Status(StatusCode.ERROR, record.outcome.code))
        span.end(_nano(record.finished_at + offset))

    def _attempt_span(self, record: AttemptRecord, context: Context, offset: float) -> None:
        span = self._tracer.start_span(
            f"chat {self._model_name(record)}",
            context=context,
            kind=SpanKind.CLIENT,
            attributes=_present(self._attempt_attributes(record)),
            start_time=_nano(record.started_at + offset),
        )
        if record.attempt.outcome is not Outcome.OK:
            span.set_status(Status(StatusCode.ERROR, record.attempt.error_code))
        span.end(_nano(record.finished_at + offset))

    def _job_attributes(self, record: JobRecord) -> Attributes:
        envelope = record.envelope
        return {
            names.MESSAGING_SYSTEM: "redis",
            names.MESSAGING_OPERATION: "process",
            names.MESSAGING_OPERATION_TYPE: "process",
            names.MESSAGING_DESTINATION: envelope.ref.stream,
            names.MESSAGING_GROUP: self._group,
            names.MESSAGING_MESSAGE_ID: envelope.ref.entry_id,
            names.JOB_ID: self._redactor.text(envelope.id),
            names.JOB_LANE: record.lane,
            names.JOB_TENANT: None if envelope.tenant is None else self._redactor.text(envelope.tenant),
            names.JOB_QUEUED_MS: record.queued_ms,
            names.COST: to_usd(record.outcome.cost_nano),
            **_outcome_attributes(record.outcome),
        }

    def _attempt_attributes(self, record: AttemptRecord) -> Attributes:
        attempt = record.attempt
        return {
            names.GEN_AI_OPERATION: "chat",
            names.GEN_AI_PROVIDER: names.genai_provider(attempt.provider),
            names.GEN_AI_MODEL: self._model_name(record),
            names.GEN_AI_FINISH: None if record.finish_reason is None else (record.finish_reason,),
            names.GEN_AI_FIRST_CHUNK_S: None
            if record.first_token_ms is None
            else record.first_token_ms / 1e3,
            names.MODEL: attempt.model,
            names.ATTEMPT_NUMBER: record.number,
            names.ATTEMPT_OUTCOME: attempt.outcome.value,
            names.COST: to_usd(record.cost_nano),
            names.HTTP_STATUS: attempt.status_code,
            names.ERROR_TYPE: attempt.error_code,
            **_usage_attributes(record.usage),
        }

    def _model_name(self, record: AttemptRecord) -> str:
        return self._model_names.get(record.attempt.model, record.attempt.model)


def _outcome_attributes(outcome: JobOutcome) -> Attributes:
    if not isinstance(outcome, Answered):
        return {names.ERROR_TYPE: outcome.code}
    return {
        names.JOB_CACHE_HIT: outcome.cache_hit,
        names.JOB_COALESCED: outcome.coalesced,
        names.MODEL: outcome.answer.model,
    }


def _usage_attributes(usage: Usage | None) -> Attributes:
    if usage is None:
        return {}
    return {
        names.GEN_AI_INPUT: usage.prompt_tokens,
        names.GEN_AI_OUTPUT: usage.completion_tokens,
        names.GEN_AI_CACHED: usage.cached_tokens,
        names.GEN_AI_REASONING: usage.reasoning_tokens,
    }


def _parent(envelope: Envelope) -> Context:
    carrier = {"traceparent": envelope.traceparent or "", "tracestate": envelope.tracestate or ""}
    return _propagator.extract(carrier, context=Context())


def _refused(traceparent: str | None) -> bool:
    """Does the sender's own trace context say "not sampled"? What cannot be read says nothing."""
    if traceparent is None:
        return False
    try:
        return not int(traceparent[53:55], 16) & _SAMPLED
    except ValueError:
        return False


def _present(attributes: Attributes) -> dict[str, Value]:
    return {name: value for name, value in attributes.items() if value is not None}


def _nano(seconds: float) -> int:
    return int(seconds * 1e9)
