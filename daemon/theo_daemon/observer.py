"""Tells telemetry and the event stream what workers and dispatcher report."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from theo_daemon.budget_names import selectors_of
from theo_daemon.flight import Ticket
from theo_daemon.job import EntryRef, JobOutcome
from theo_daemon.ledger.condition import Recovered, Restored, Tidings, Troubled, Unrecorded, WalLarge
from theo_daemon.ledger.records import CallLost, CeilingEased, CeilingNear, CeilingReached, News, Scope
from theo_daemon.money import format_usd
from theo_daemon.outcomes import earlier
from theo_daemon.ports import DeadLetter, Events
from theo_daemon.reception import Refused
from theo_daemon.telemetry import names
from theo_daemon.telemetry.facade import Telemetry
from theo_daemon.telemetry.records import AttemptRecord, JobRecord
from theo_workers.clock import Clock
from theo_workers.messages import Outcome

_log = logging.getLogger("theo.router")


class DaemonObserver:
    """Of the daemon: counted, logged, traced, and published where the contract says so."""

    def __init__(self, telemetry: Telemetry, events: Events, clock: Clock) -> None:
        self._telemetry, self._events, self._clock = telemetry, events, clock

    def on_transition(self, model: str, event: str, details: Mapping[str, Any]) -> None:
        self._events.emit(event, model=model, **details)

    def on_region(self, event: str, region: str, details: Mapping[str, Any]) -> None:
        self._events.emit(event, region=region, **details)

    def on_attempt(
        self, model: str, outcome: Outcome, latency_ms: float, error: BaseException | None
    ) -> None:
        """Attempts are told with their cost, once they are settled: see `on_settled`."""

    def on_settled(self, record: AttemptRecord) -> None:
        self._telemetry.attempt_finished(record)
        if record.attempt.outcome in (Outcome.MAYBE, Outcome.UNKNOWN):
            self._events.emit(
                "outcome_unknown",
                model=record.attempt.model,
                error_code=record.attempt.error_code,
                cost=format_usd(record.cost_nano),
            )

    def on_bound_violated(self, model: str, cost_nano: int, bound_nano: int) -> None:
        self._events.emit(
            "bound_violated", model=model, cost=format_usd(cost_nano), bound=format_usd(bound_nano)
        )

    def on_retries_spent(self, model: str) -> None:
        self._events.emit("retries_spent", model=model)

    def on_model_unknown(self, model: str, detail: str) -> None:
        self._events.emit("model_unknown", model=model, reason=detail)

    def on_news(self, news: News) -> None:
        match news:
            case CeilingNear(scope, spent_nano):
                self._events.emit("budget_warning", **_money(scope, spent_nano))
            case CeilingEased(scope, spent_nano):
                self._events.emit("budget_downgrade", **_money(scope, spent_nano))
            case CeilingReached(scope, spent_nano):
                wait_ms = None
                if scope.reset_ms is not None:
                    wait_ms = max(0, scope.reset_ms - int(self._clock.wall() * 1000))
                self._events.emit("budget_exhausted", **_money(scope, spent_nano), retry_after_ms=wait_ms)
            case CallLost(_, lost):
                now = self._clock.monotonic()
                self.on_settled(
                    AttemptRecord(
                        attempt=earlier(lost),
                        number=1,
                        started_at=now,
                        finished_at=now,
                        cost_nano=lost.cost_nano,
                    )
                )

    def on_tidings(self, tidings: Tidings) -> None:
        match tidings:
            case Troubled(reason):
                self._events.emit("ledger_trouble", reason=reason)
            case Recovered(after_s):
                self._events.emit("ledger_back", after_s=after_s)
            case WalLarge(size):
                self._events.emit("ledger_wal_large", bytes=size)
            case Restored(batches):
                self._events.emit("ledger_restored", batches=batches)
            case Unrecorded(calls, reason):
                self._telemetry.event(names.LEDGER_UNRECORDED, calls=calls, reason=reason)

    def on_defect(self, model: str, error: BaseException) -> None:
        self._telemetry.event(names.WORKER_RESTARTED, model=model, exc_info=error)

    def on_job(self, ticket: Ticket, outcome: JobOutcome, attempts: tuple[AttemptRecord, ...]) -> None:
        self._telemetry.job_finished(
            JobRecord(
                envelope=ticket.job.envelope,
                lane=ticket.job.lane,
                outcome=outcome,
                queued_ms=ticket.queued_ms,
                received_at=ticket.received,
                finished_at=self._clock.monotonic(),
                attempts=attempts,
            )
        )

    def on_duplicate(self, ticket: Ticket, outcome: JobOutcome) -> None:
        self._events.emit(
            "duplicate_suppressed",
            entry_id=ticket.ref.entry_id,
            job_stream=ticket.ref.stream,
            cost=format_usd(outcome.cost_nano),
        )

    def on_refusal(self, refused: Refused) -> None:
        now = self._clock.monotonic()
        self._telemetry.job_finished(
            JobRecord(
                envelope=refused.envelope,
                lane=refused.lane,
                outcome=refused.outcome,
                queued_ms=0,
                received_at=now,
                finished_at=now,
            )
        )
        if refused.dead is not None:
            self.on_dead(refused.envelope.ref, refused.dead)

    def on_dead(self, ref: EntryRef, letter: DeadLetter) -> None:
        self._events.emit("dead_lettered", code=letter.code, entry_id=ref.entry_id)

    def on_bug(self, error: BaseException, ref: EntryRef) -> None:
        self._telemetry.event(names.UNCAUGHT_BUG, entry_id=ref.entry_id, exc_info=error)


def _money(scope: Scope, spent_nano: int) -> dict[str, str | None]:
    """What the events about a ceiling tell of it; `model` where the budget is one model's."""
    return {
        "model": selectors_of(scope.name).get("model"),
        "scope": scope.name,
        "spent": format_usd(spent_nano),
        "ceiling": format_usd(scope.ceiling_nano or 0),
    }


class LibraryObserver:
    """Of the library face: a standard logger, `theo.router`, that the host program configures."""

    def on_transition(self, model: str, event: str, details: Mapping[str, Any]) -> None:
        _log.warning("%s model=%s %s", event, model, dict(details))

    def on_region(self, event: str, region: str, details: Mapping[str, Any]) -> None:
        _log.warning("%s region=%s %s", event, region, dict(details))

    def on_attempt(
        self, model: str, outcome: Outcome, latency_ms: float, error: BaseException | None
    ) -> None:
        _log.debug("attempt model=%s outcome=%s latency_ms=%.1f error=%s", model, outcome, latency_ms, error)

    def on_settled(self, record: AttemptRecord) -> None:
        """The attempts are in the result."""

    def on_bound_violated(self, model: str, cost_nano: int, bound_nano: int) -> None:
        _log.error("bound_violated model=%s cost_nano=%d bound_nano=%d", model, cost_nano, bound_nano)

    def on_retries_spent(self, model: str) -> None:
        _log.warning("retries_spent model=%s", model)

    def on_model_unknown(self, model: str, detail: str) -> None:
        _log.error("model_unknown model=%s: %s", model, detail)

    def on_news(self, news: News) -> None:
        match news:
            case CeilingNear(scope, spent_nano):
                _log.warning("budget_warning scope=%s spent_nano=%d", scope.name, spent_nano)
            case CeilingEased(scope, spent_nano):
                _log.warning("budget_downgrade scope=%s spent_nano=%d", scope.name, spent_nano)
            case CeilingReached(scope, spent_nano):
                _log.warning("budget_exhausted scope=%s spent_nano=%d", scope.name, spent_nano)
            case CallLost(_, lost):
                _log.warning("outcome_unknown model=%s cost_nano=%d", lost.model, lost.cost_nano)

    def on_tidings(self, tidings: Tidings) -> None:
        _log.log(logging.INFO if isinstance(tidings, Recovered) else logging.ERROR, "ledger: %s", tidings)

    def on_defect(self, model: str, error: BaseException) -> None:
        _log.error("worker of %s failed", model, exc_info=error)

    def on_job(self, ticket: Ticket, outcome: JobOutcome, attempts: tuple[AttemptRecord, ...]) -> None:
        _log.debug(
            "job_finished id=%s attempts=%d cost_nano=%d",
            ticket.job.envelope.id,
            len(attempts),
            outcome.cost_nano,
        )

    def on_duplicate(self, ticket: Ticket, outcome: JobOutcome) -> None:
        """A library's jobs have no second process."""

    def on_refusal(self, refused: Refused) -> None:
        _log.debug("job_refused entry_id=%s", refused.envelope.ref.entry_id)

    def on_dead(self, ref: EntryRef, letter: DeadLetter) -> None:
        _log.warning("dead_lettered code=%s entry_id=%s", letter.code, ref.entry_id)

    def on_bug(self, error: BaseException, ref: EntryRef) -> None:
        _log.error("the router failed on job %s", ref.entry_id, exc_info=error)
