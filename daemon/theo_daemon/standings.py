"""Keeps every model's standing equal in all processes: tells the ledger of changes, and the workers of others'."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

from theo_daemon.ledger.port import SharedModels
from theo_daemon.ledger.rates import Pace
from theo_daemon.ledger.records import Changed, Granted, Throttled, Unfit, Verdict
from theo_daemon.ledger.shared import (
    Change,
    CircuitClosed,
    CircuitOpened,
    FailureCounted,
    HealthReport,
    ModelDisabled,
    Ordered,
    PauseAsked,
    SharedStanding,
    entry_order,
    owner_of,
    set_back,
)
from theo_workers.breaker import Closed, Counted, Open
from theo_workers.call import Observer
from theo_workers.clock import Clock, sleep
from theo_workers.errors import AuthenticationFailed, LedgerError, ProviderQuotaExhausted
from theo_workers.health import HealthSnapshot
from theo_workers.messages import Outcome
from theo_workers.model_worker import ModelWorker
from theo_workers.standing import Disabled, Paused, Shared
from theo_workers.standing import Pace as WorkerPace

SAVE_EVERY_S = 5.0
OPERATOR = "operator"
CREDENTIAL_CAUSES = frozenset((AuthenticationFailed.code, ProviderQuotaExhausted.code))


class Shareholder:
    """One model's worker, and what this process knows of the model's row."""

    __slots__ = ("credential", "known", "telling", "worker")

    def __init__(self, worker: ModelWorker, credential: str) -> None:
        self.worker, self.credential = worker, credential
        self.known = SharedStanding(model=worker.name)
        self.telling = 0  # changes of ours on their way into the ledger


class Standings:
    """The workers' observer: their changes are told to `observer` once the ledger has taken them as news.

    So a circuit that two processes open at once is one event, and evidence from before a change that another
    process made counts for nothing.
    """

    def __init__(self, ledger: SharedModels, *, clock: Clock, observer: Observer) -> None:
        self._ledger, self._clock, self._observer = ledger, clock, observer
        self._models: dict[str, Shareholder] = {}

    def add(self, worker: ModelWorker, credential: str) -> None:
        """Share this model. `credential` is a fingerprint: another one is not disabled with it."""
        self._models[worker.name] = Shareholder(worker, credential)

    async def start(self) -> None:
        """Take over what is on record; the ledger is open by now."""
        standings, health = await self._ledger.standings()
        for model, record in health.items():
            if model in self._models:
                self._models[model].worker.remember(record)
        self.learn(standings)
        self._ledger.on_standings(self.learn)

    async def run(self) -> None:
        """Share health records from time to time, until cancelled."""
        while True:
            await sleep(self._clock, SAVE_EVERY_S)
            with contextlib.suppress(LedgerError):  # it cannot be read now: later will do
                _, kept = await self._ledger.standings()
                self.save(kept)

    def save(self, kept: Mapping[str, HealthSnapshot] = MappingProxyType({})) -> None:
        """Report what was recorded since the last time; `kept` is what all have recorded, where that is known."""
        reports: list[HealthReport] = []
        for model, one in self._models.items():
            health, record = one.worker.health, kept.get(model)
            news = health.news() if record is None else health.renew(record)
            if news is not None:
                reports.append(HealthReport(model, *news))
        self._ledger.report_health(reports)

    # -- from the ledger -----------------------------------------------------------------------------

    def learn(self, standings: Sequence[SharedStanding]) -> None:
        """Rows as they are in the ledger by now. While a change of ours is on its way, its answer says more."""
        for row in standings:
            one = self._models.get(row.model)
            if one is not None and one.telling == 0 and row.version > one.known.version:
                self._adopt(one, row, expected=one.known.generation)

    def heed(self, model: str, verdict: Verdict) -> None:
        """What a claim told of the model beside its verdict."""
        one = self._models[model]
        match verdict:
            case Granted(standing=standing, pace=pace):
                if standing is not None:
                    self._adopt(one, standing, expected=standing.generation if standing.probe else -1)
                if pace is not None:
                    self._keep_pace(one, pace)
            case Unfit(standing):
                self._adopt(one, standing, expected=one.known.generation)
            case Throttled(pace):
                self._keep_pace(one, pace)

    def _adopt(self, one: Shareholder, row: SharedStanding, *, expected: int) -> None:
        """Hand the row to the worker; `expected` is the generation that our own evidence belongs to."""
        if row.version < one.known.version:
            return
        one.known = row
        mine = owner_of(row.probe) == self._ledger.owner
        applies = row.credential in ("", one.credential)
        over = set_back(row, int(self._clock.wall() * 1000))

        def at(unix_ms: int) -> float:
            if not unix_ms:
                return -math.inf
            return self._clock.monotonic() if over else self._moment(unix_ms)

        one.worker.adopt(
            Shared(
                open_until=at(row.open_until_ms) if row.openings else None,
                openings=row.openings,
                probed_until=at(row.probe_until_ms) if row.probe and not mine else -math.inf,
                paused_until=at(row.paused_until_ms),
                # Another credential's fault says nothing of ours.
                disabled=row.disabled if row.disabled is None or applies else one.worker.disabled,
                anew=row.generation != expected,
            )
        )

    def _keep_pace(self, one: Shareholder, pace: Pace) -> None:
        since = self._moment(pace.from_ms)
        plenty = pace.calls > one.worker.limit and since <= self._clock.monotonic()
        one.worker.keep_pace(None if plenty else WorkerPace(since, pace.calls))

    def _moment(self, unix_ms: int) -> float:
        """As monotonic seconds."""
        return self._clock.monotonic() + unix_ms / 1000 - self._clock.wall()

    # -- from the workers ----------------------------------------------------------------------------

    def on_transition(self, model: str, event: str, details: Mapping[str, Any]) -> None:
        change = self._change(model, event, details)
        if isinstance(change, FailureCounted):
            self._count(change, details)
        elif change is None:
            self._observer.on_transition(model, event, details)
        elif not (isinstance(change, ModelDisabled) and change.cause == OPERATOR):  # see `order`
            self._tell(change, lambda: self._observer.on_transition(model, event, details))

    def on_attempt(
        self, model: str, outcome: Outcome, latency_ms: float, error: BaseException | None
    ) -> None:
        self._observer.on_attempt(model, outcome, latency_ms, error)

    def on_defect(self, model: str, error: BaseException) -> None:
        self._observer.on_defect(model, error)

    def _change(self, model: str, event: str, details: Mapping[str, Any]) -> Change | None:
        """The change to share; None for a probe's beginning, of which its claim has told."""
        one = self._models[model]
        match event:
            case Open.event:
                return CircuitOpened(
                    model, one.known.generation, self._unix_ms(details), int(details["openings"])
                )
            case Closed.event:
                return CircuitClosed(model, one.known.generation)
            case Counted.event:
                until_ms = int((self._clock.wall() + float(details["timeout_s"])) * 1000)
                return FailureCounted(model, one.known.generation, int(details["threshold"]), until_ms)
            case Paused.event:
                return PauseAsked(model, self._unix_ms(details))
            case Disabled.event:
                cause = str(details["cause"])
                return ModelDisabled(model, cause, one.credential if cause in CREDENTIAL_CAUSES else "")
        return None

    def _count(self, failure: FailureCounted, details: Mapping[str, Any]) -> None:
        """With those that other processes met it may be one too many: then this process tells of the opening."""
        of_all = {"reason": "in_a_row", "failures": failure.threshold, "openings": 1}
        of_all["retry_after_ms"] = int(float(details["timeout_s"]) * 1000)
        cause = {key: details[key] for key in ("error_code", "status_code") if key in details}
        told = partial(self._observer.on_transition, failure.model, Open.event, of_all | cause)
        self._tell(failure, told)

    def _unix_ms(self, details: Mapping[str, Any]) -> int:
        return int(self._clock.wall() * 1000) + int(details["retry_after_ms"])

    # -- from operators ------------------------------------------------------------------------------

    def order(self, command: str, model: str, entry_id: str) -> None:
        """Carry out `disable`, `enable` or `reset`, unless a later command is on record already."""
        one = self._models.get(model)
        if one is None or entry_order(entry_id) <= entry_order(one.known.order_id):
            return
        event = Disabled.event if command == "disable" else "model_enabled"
        details = {"cause": OPERATOR}
        self._tell(
            Ordered(model, entry_id, command == "disable"),
            lambda: self._observer.on_transition(model, event, details),
        )
        if command == "disable":
            one.worker.disable(OPERATOR)
        else:
            one.worker.reset()

    # -- telling -------------------------------------------------------------------------------------

    def _tell(self, change: Change, announce: Callable[[], None]) -> None:
        one = self._models[change.model]
        one.telling += 1
        expected = one.known.generation + isinstance(change, CircuitOpened | CircuitClosed)
        self._ledger.change(change).add_done_callback(partial(self._told, one, expected, announce))

    def _told(
        self,
        one: Shareholder,
        expected: int,
        announce: Callable[[], None],
        answer: asyncio.Future[Verdict | None],
    ) -> None:
        one.telling -= 1
        if answer.cancelled():
            return
        changed = answer.result()
        assert isinstance(changed, Changed)
        # Else the answer to come knows of what this one does not, as of a circuit opened since.
        if one.telling == 0:
            self._adopt(one, changed.standing, expected=expected)
        if changed.news:
            announce()
