"""What this process and its lanes look like right now: for /status, /readyz, and the gauges of /metrics."""

from __future__ import annotations

import asyncio
from functools import partial
from itertools import islice
from typing import Any

from redis.exceptions import RedisError, ResponseError

from theo_daemon import __version__
from theo_daemon.budget_gauges import BudgetGauges
from theo_daemon.core import Core
from theo_daemon.fleet import Member
from theo_daemon.intake import StreamIntake
from theo_daemon.keys import Keys
from theo_daemon.ledger.figures import ModelSpend
from theo_daemon.oldest import age_s, oldest_ids
from theo_daemon.publisher import StreamPublisher
from theo_daemon.redis_refusals import in_words
from theo_daemon.regions import Evicted
from theo_daemon.telemetry import names
from theo_daemon.telemetry.facade import Telemetry
from theo_daemon.telemetry.metrics import Metrics
from theo_daemon.telemetry.status import (
    BreakerState,
    LaneStatus,
    ModelState,
    ModelStatus,
    Prediction,
    RegionStatus,
    Status,
)
from theo_daemon.wire import Wire
from theo_workers.breaker import Closed, HalfOpen, Open, State
from theo_workers.clock import Clock, sleep
from theo_workers.standing import Unavailable

LOOK_EVERY_S = 2.0
SHOWN_WORKFLOWS = 9

_STATES: dict[str, ModelState] = {
    "circuit_open": "open",
    "paused": "paused",
    "disabled": "disabled",
    "stopped": "stopped",
}


def _breaker_state(state: State) -> BreakerState:
    match state:
        case Closed():
            return "closed"
        case Open():
            return "open"
        case HalfOpen():
            return "half_open"


class Snapshot:
    """Looks at Redis every few seconds, at everything else when asked."""

    def __init__(
        self, *, core: Core, intake: StreamIntake, publisher: StreamPublisher, wire: Wire, keys: Keys, clock: Clock,
        metrics: Metrics, consumer: str,
    ) -> None:  # fmt: skip
        self._core, self._intake, self._publisher = core, intake, publisher
        self._wire, self._keys, self._clock, self._metrics = wire, keys, clock, metrics
        self._consumer = consumer
        self._budgets = BudgetGauges(core.config, core.ledger, clock)
        self._started = clock.monotonic()
        self._lanes: tuple[LaneStatus, ...] = ()
        self._consumers: int | None = None
        self._dead: int | None = None

    def not_ready(self) -> str | None:
        """Why no jobs are read; None while they are."""
        if not self._intake.connected:
            return in_words(self._intake.lost_by)
        if self._publisher.trouble is not None:
            return f"replies are kept back: {in_words(self._publisher.trouble)}"
        if self._core.ledger.trouble is not None:
            return f"the ledger cannot be written: {self._core.ledger.trouble}"
        return None

    async def run(self) -> None:
        """Look at lanes and budgets until cancelled."""
        await asyncio.gather(self._look_at_lanes(), self._budgets.run())

    async def _look_at_lanes(self) -> None:
        while True:
            try:
                await self._look()
            except RedisError:  # the intake reports it; what is not known is not shown
                self._lanes, self._consumers, self._dead = (), None, None
            await sleep(self._clock, LOOK_EVERY_S)

    async def take(self) -> Status:
        """Everything, for people."""
        dispatcher = self._core.dispatcher
        spend = await asyncio.to_thread(self._spend)
        return Status(
            at=self._clock.wall(),
            version=__version__,
            consumer=self._consumer,
            prefix=self._keys.prefix,
            uptime_s=round(self._clock.monotonic() - self._started, 3),
            not_ready=self.not_ready(),
            in_flight=dispatcher.held,
            waiting=dispatcher.waiting,
            consumers=self._consumers,
            dead=self._dead,
            jobs=self._metrics.totals(),
            lanes=self._lanes,
            models=tuple(self._model(member, spend) for member in self._core.fleet.members()),
            regions=self._regions(),
            budgets=self._budgets.status(),
        )

    def observe(self, telemetry: Telemetry) -> None:
        """Register the gauges."""
        dispatcher, fleet = self._core.dispatcher, self._core.fleet
        self._budgets.observe(telemetry)
        telemetry.gauge(names.JOBS_IN_FLIGHT, {}, lambda: dispatcher.held)
        telemetry.gauge(names.JOBS_WAITING, {}, lambda: dispatcher.waiting)
        telemetry.gauge(names.LEDGER_SIZE, {}, lambda: self._core.ledger.size)
        telemetry.gauge(names.LEDGER_WAL_SIZE, {}, lambda: self._core.ledger.wal_size)
        telemetry.gauge(names.LEDGER_WRITABLE, {}, lambda: float(self._core.ledger.trouble is None))
        telemetry.gauge(names.DEAD_LETTERS, {}, lambda: self._dead)
        telemetry.gauge(names.REDIS_UP, {}, self._redis_up)
        for lane in self._core.config.ingress.lanes:
            telemetry.gauge(names.LANE_DEPTH, {"lane": lane}, partial(self._lane, lane, "depth"))
            telemetry.gauge(names.LANE_OLDEST_AGE, {"lane": lane}, partial(self._lane, lane, "oldest_age_s"))
        for member in fleet.members():
            labels = {"model": member.config.name}
            telemetry.gauge(names.MODEL_RUNNING, labels, partial(self._running, member))
            telemetry.gauge(names.MODEL_SLOTS, labels, partial(self._slots, member))
            telemetry.gauge(names.MODEL_THROTTLE, labels, partial(self._throttle, member))
            telemetry.gauge(names.MODEL_PASSED_OVER, labels, partial(self._passed_over, member))
            telemetry.gauge(names.MODEL_RETRY_TOKENS, labels, partial(self._retry_tokens, member))
            telemetry.gauge(names.MODEL_AMENDMENTS, labels, partial(self._amendments, member))
            telemetry.gauge(names.BREAKER_STATE, labels, partial(self._breaker, member))
            telemetry.gauge(names.MODEL_DISABLED, labels, partial(self._disabled, member))

    # -- parts ---------------------------------------------------------------------------------------

    def _redis_up(self) -> float:
        return float(self._intake.connected and self._publisher.trouble is None)

    def _lane(self, lane: str, what: str) -> float | None:
        found: float | None = next((getattr(one, what) for one in self._lanes if one.lane == lane), None)
        return found

    def _running(self, member: Member) -> float:
        return member.worker.running

    def _slots(self, member: Member) -> float:
        return member.worker.slots

    def _throttle(self, member: Member) -> float | None:
        throttle = member.breaker.throttle
        return None if throttle is None else throttle.share(self._clock.monotonic())

    def _passed_over(self, member: Member) -> float | None:
        return None if member.breaker.throttle is None else member.breaker.throttle.passed_over

    def _retry_tokens(self, member: Member) -> float | None:
        return member.retries.tokens if member.retries.capacity else None

    def _amendments(self, member: Member) -> float:
        return member.worker.upstream.amendments

    def _breaker(self, member: Member) -> float:
        state = self._state(member)[0]
        return names.BREAKER_VALUES.get(state, names.BREAKER_VALUES["closed"])

    def _disabled(self, member: Member) -> float:
        return float(self._state(member)[0] == "disabled")

    def _state(self, member: Member) -> tuple[ModelState, float | None]:
        now = self._clock.monotonic()
        match member.worker.availability(now):
            case Unavailable(reason=reason, until=until):
                return _STATES[reason], None if until is None else round(max(0.0, until - now), 3)
        starts_at = member.worker.starts_at(now)
        if starts_at > now:
            return "paused", round(starts_at - now, 3)  # its rate is used up
        return ("half_open" if isinstance(member.breaker.peek(now), HalfOpen) else "closed"), None

    def _model(self, member: Member, spend: dict[str, ModelSpend]) -> ModelStatus:
        health, config = member.worker.health.snapshot(), member.config
        state, retry_in_s = self._state(member)
        spent = spend.get(config.name)
        return ModelStatus(
            name=config.name,
            provider=config.provider,
            model=config.model,
            region=config.region,
            state=state,
            breaker=_breaker_state(member.breaker.peek(self._clock.monotonic())),
            retry_in_s=retry_in_s,
            throttle=_rounded(self._throttle(member)),
            passed_over=0 if member.breaker.throttle is None else member.breaker.throttle.passed_over,
            running=member.worker.running,
            slots=member.worker.slots,
            concurrency=config.concurrency,
            total_successes=health.total_successes,
            total_failures=health.total_failures,
            consecutive_failures=health.consecutive_failures,
            last_success_at=health.last_success_time,
            last_failure_at=health.last_failure_time,
            latency_ms=_rounded(health.latency_ewma_ms),
            latency_p50_ms=_rounded(health.latency_p50_ms),
            latency_p95_ms=_rounded(health.latency_p95_ms),
            latency_p99_ms=_rounded(health.latency_p99_ms),
            ttft_p50_ms=_rounded(health.ttft_p50_ms),
            ttft_p95_ms=_rounded(health.ttft_p95_ms),
            tokens_per_s=_rounded(health.tokens_per_s),
            spent_usd=None if spent is None else spent.spent,
            held_usd=None if spent is None else spent.held,
            ceiling_usd=config.routing.spend_ceiling,
            window=str(config.routing.spend_window),
            why=self._why(config.name),
        )

    def _why(self, model: str) -> tuple[Prediction, ...]:
        learner = self._core.fleet.learner
        if learner is None:
            return ()
        known = learner.explain(model, size=1_000, now=self._clock.monotonic())
        return tuple(
            Prediction(
                workflow=workflow,
                success=round(one.success, 4),
                latency_ms=round(one.latency_s * 1000, 3),
                cost_usd=round(one.cost_usd, 9),
                calls=round(one.calls, 1),
            )
            for workflow, one in islice(known.items(), SHOWN_WORKFLOWS)
        )

    def _regions(self) -> tuple[RegionStatus, ...]:
        watch, now = self._core.regions, self._clock.monotonic()
        if watch is None:
            return ()
        return tuple(
            RegionStatus(
                name=name, evicted_s=round(now - state.since, 3), circuits=tuple(sorted(state.circuits))
            )
            if isinstance(state, Evicted)
            else RegionStatus(name=name, circuits=tuple(sorted(state.known)))
            for name, state in watch.regions().items()
        )

    def _spend(self) -> dict[str, ModelSpend]:
        with self._core.ledger.transaction() as transaction:
            return transaction.spend()

    async def _look(self) -> None:
        lanes = list(self._core.config.ingress.lanes)
        streams = [self._keys.jobs(lane) for lane in lanes]
        group = self._core.config.ingress.group
        questions: list[Any] = [("TIME",), ("XLEN", self._keys.dead)]
        for stream in streams:
            questions += [
                ("XLEN", stream),
                ("XINFO", "CONSUMERS", stream, group),
            ]
        now, dead, *answers = await self._wire.ask_all(questions)
        if isinstance(now, ResponseError):
            raise now
        oldest_of = await oldest_ids(self._wire, streams)
        now_ms = int(now[0]) * 1000 + int(now[1]) // 1000
        consumers: set[bytes] = set()
        found = []
        for lane, depth, members, oldest in zip(lanes, answers[::2], answers[1::2], oldest_of, strict=True):
            if isinstance(depth, ResponseError) or isinstance(oldest, ResponseError):
                continue
            found.append(LaneStatus(lane=lane, depth=depth, oldest_age_s=age_s(oldest, now_ms)))
            if not isinstance(members, ResponseError):
                consumers |= {row[1] for row in members}
        self._lanes, self._consumers, self._dead = tuple(found), len(consumers), _number(dead)


def _number(reply: Any) -> int | None:
    return None if isinstance(reply, ResponseError) else int(reply)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
