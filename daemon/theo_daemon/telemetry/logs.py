"""JSON lines on standard error: by structlog now and then, by a prebuilt line for each finished job.

Both ways go through one `Redactor` and one `LineSink`. msgspec escapes what JSON must escape; control
characters that JSON lets pass (C1, line separators, direction marks) are escaped too: no text can forge a
line or move a terminal's cursor.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import traceback
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import msgspec
import structlog
from msgspec import Struct

from theo_daemon.job import Answered
from theo_daemon.money import to_usd
from theo_daemon.telemetry import names
from theo_daemon.telemetry.line_sink import LineSink
from theo_daemon.telemetry.records import JobRecord
from theo_daemon.telemetry.redaction import Redactor
from theo_workers.clock import Clock

LEVELS: dict[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_UNSAFE = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_encode = msgspec.json.Encoder().encode


class JobLine(Struct, gc=False, omit_defaults=True):
    """The line of a finished job. Costs are USD."""

    timestamp: str
    level: str
    event: str
    id: str
    entry_id: str
    stream: str
    lane: str
    status: str
    cost: float
    cache_hit: bool
    coalesced: bool
    attempts: int
    queued_ms: float
    total_ms: float
    latency_ms: float | None = None
    tenant: str | None = None
    model: str | None = None
    provider: str | None = None
    error_code: str | None = None
    status_code: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Logs:
    """Where log lines are made and leave. `level` is one of debug, info, warning, error."""

    def __init__(self, *, level: str, clock: Clock, redactor: Redactor, sink: LineSink) -> None:
        self.level = LEVELS[level]
        self.sink = sink
        self._clock = clock
        self._redactor = redactor
        self._second, self._second_text = -1, ""
        self._logs_jobs = self.level <= LEVELS[names.EVENTS[names.JOB_FINISHED].level]
        self.processors = (structlog.processors.add_log_level, _describe_exception, self._leave)
        sink.notice = self._lost_lines

    def job_finished(self, record: JobRecord) -> None:
        """Write the line of a finished job, at info."""
        if self._logs_jobs:
            line = _encode(self._job_line(record))
            self.sink.put((line if line.isascii() else _escape(line)) + b"\n")

    def event(self, name: str, fields: Mapping[str, Any]) -> None:
        """Write an event of `names` at its own level; one that is not listed there at info."""
        known = names.EVENTS.get(name)
        self.write(known.level if known else "info", name, fields)

    def write(self, level: str, name: str, fields: Mapping[str, Any]) -> None:
        """Write one line. `exc_info` among the fields becomes a traceback without the values of variables."""
        if LEVELS[level] >= self.level:
            self._put(level, name, _describe_exception(None, level, dict(fields)))

    def _leave(self, _logger: object, _method: str, event_dict: MutableMapping[str, Any]) -> Any:
        """The last of structlog's processors: the line is on its way, there is no logger behind."""
        self._put(event_dict.pop("level"), event_dict.pop("event"), event_dict)
        raise structlog.DropEvent

    def _put(self, level: str, name: str, fields: Mapping[str, Any]) -> None:
        line: dict[str, Any] = {"timestamp": self._timestamp(), "level": level, "event": name}
        for key, value in fields.items():
            line[f"{key}_" if key in line else key] = value
        self.sink.put(self._render(line))

    def _render(self, line: Mapping[str, Any]) -> bytes:
        return _escape(_encode(self._redactor.value(line))) + b"\n"

    def _job_line(self, record: JobRecord) -> JobLine:
        envelope, outcome = record.envelope, record.outcome
        known = self._redactor.known
        tenant = envelope.tenant
        ref = envelope.ref
        line = JobLine(
            self._timestamp(),
            "info",
            names.JOB_FINISHED,
            # An entry id is Redis's own: most jobs bring no other.
            envelope.id if envelope.id == ref.entry_id else self._redactor.text(envelope.id),
            ref.entry_id,
            known(ref.stream),
            known(record.lane),
            "error",
            to_usd(outcome.cost_nano),
            False,
            False,
            len(record.attempts),
            round(record.queued_ms, 1),
            round((record.finished_at - record.received_at) * 1e3, 1),
        )
        if tenant is not None:
            line.tenant = known(tenant)
        if isinstance(outcome, Answered):
            answer = outcome.answer
            line.status = "ok"
            line.cache_hit, line.coalesced = outcome.cache_hit, outcome.coalesced
            line.model, line.provider = known(answer.model), known(answer.provider)
            line.latency_ms = round(answer.latency_ms, 1)
            line.prompt_tokens = answer.usage.prompt_tokens
            line.completion_tokens = answer.usage.completion_tokens
            return line
        line.error_code, line.status_code = outcome.code, outcome.status_code
        if record.attempts:
            last = record.attempts[-1].attempt
            line.model, line.provider, line.latency_ms = (
                known(last.model),
                known(last.provider),
                last.latency_ms,
            )
        return line

    def _timestamp(self) -> str:
        now = self._clock.wall()
        second = int(now)
        if second != self._second:
            self._second_text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S.")
            self._second = second
        return f"{self._second_text}{int((now - second) * 1000):03d}Z"

    def _lost_lines(self, count: int) -> bytes:
        name = names.LOG_LINES_DROPPED
        return self._render(
            {"timestamp": self._timestamp(), "level": "warning", "event": name, "lines": count}
        )


class LibraryHandler(logging.Handler):
    """Standard library logging, as `library_log` events."""

    def __init__(self, logs: Logs) -> None:
        super().__init__(logging.WARNING)
        self._logs = logs

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # arguments that do not fit their format
            message = str(record.msg)
        fields: dict[str, Any] = {"logger": record.name, "message": message}
        if record.exc_info:
            fields["exc_info"] = record.exc_info
        self._logs.write("error" if record.levelno >= logging.ERROR else "warning", names.LIBRARY_LOG, fields)


def capture_everything(logs: Logs) -> None:
    """Route structlog, standard library logging, warnings and uncaught exceptions through `logs`."""
    structlog.configure(
        processors=logs.processors,
        wrapper_class=structlog.make_filtering_bound_logger(logs.level),
        logger_factory=lambda *_: None,
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, handlers=[LibraryHandler(logs)], force=True)
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # a broken log call is not worth a plain traceback among JSON lines

    def crashed(
        kind: type[BaseException], error: BaseException | None, trace: TracebackType | None, thread: str
    ) -> None:
        if not issubclass(kind, (KeyboardInterrupt, SystemExit)) and error is not None:
            exception = error.with_traceback(trace)
            logs.write("error", names.PROCESS_CRASHED, {"thread": thread, "exc_info": exception})
            logs.sink.flush()

    sys.excepthook = lambda kind, error, trace: crashed(kind, error, trace, "main")
    threading.excepthook = lambda args: crashed(
        args.exc_type, args.exc_value, args.exc_traceback, args.thread.name if args.thread else ""
    )


def _describe_exception(
    _logger: object, _method: str, event_dict: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """`exc_info` (True, an exception or a triple) as a traceback in text, without the values of variables."""
    match event_dict.pop("exc_info", None):
        case BaseException() as error:
            event_dict["exception"] = "".join(traceback.format_exception(error))
        case (_, BaseException() as error, _):
            event_dict["exception"] = "".join(traceback.format_exception(error))
        case True:
            event_dict["exception"] = traceback.format_exc()
    return event_dict


def _escape(line: bytes) -> bytes:
    if line.isascii() and b"\x7f" not in line:
        return line
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", line.decode()).encode()
