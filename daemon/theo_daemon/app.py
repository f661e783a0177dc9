"""The composition root of one process: builds every part, orders start, drain and stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from theo_daemon import __version__
from theo_daemon.config import Config
from theo_daemon.control import ControlReader
from theo_daemon.core import Core
from theo_daemon.events import StreamEvents
from theo_daemon.held import HeldEntries, Room
from theo_daemon.intake import IntakeRules, StreamIntake
from theo_daemon.keys import Keys
from theo_daemon.leases import LeaseRules, Leases
from theo_daemon.levelling import LevelRules
from theo_daemon.observer import DaemonObserver
from theo_daemon.publisher import ReplyBounds, StreamPublisher
from theo_daemon.redis_clock import RedisClock
from theo_daemon.redis_link import RedisLink
from theo_daemon.reply import delta_fields, final_fields
from theo_daemon.reply_patterns import allowed_reply, compile_patterns
from theo_daemon.server_check import check_server
from theo_daemon.snapshot import Snapshot
from theo_daemon.telemetry import names
from theo_daemon.telemetry.metrics import ModelName
from theo_daemon.telemetry.start import RunningTelemetry
from theo_daemon.telemetry.status_http import StatusServer
from theo_workers.clock import Clock, SystemClock, timeout_at

BLOCK_S = 1.0
READ_TIMEOUT_S = 5.0  # above BLOCK_S: a reader that hears nothing for so long has lost its connection


class Daemon:
    """One `serve` process. `run` returns when `drain` has let everything finish, or after `stop`."""

    def __init__(self, config: Config, redis_url: str, *, clock: Clock | None = None) -> None:
        self.config, self._url = config, redis_url
        self._clock = clock or SystemClock()
        self._rng = random.Random()
        self.consumer = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._drain_asked = asyncio.Event()
        self._stop_asked = asyncio.Event()
        self.status_url: str | None = None

    def drain(self) -> None:
        """Read no more, hand back what was not sent, let sent calls finish."""
        self._drain_asked.set()

    def stop(self) -> None:
        """End now; what has no reply stays pending in Redis."""
        self._drain_asked.set()
        self._stop_asked.set()

    async def run(self) -> None:
        """Serve. Raises ConfigError, LedgerError, RedisUnreachable or CrashedTooOften."""
        config, clock, rng = self.config, self._clock, self._rng
        link = RedisLink(self._url, client_name=self.consumer)
        facts = await check_server(link)
        async with AsyncExitStack() as stack:
            telemetry = self._telemetry(stack)
            for warning in (*config.warnings, *facts.warnings):
                telemetry.event("warning", reason=warning)
            keys = Keys(config.redis.prefix)
            redis_clock = RedisClock(link.wire(), clock)
            await redis_clock.sync()
            events = StreamEvents(
                wire=link.wire(), keys=keys, max_len=config.events.max_len, now_ms=redis_clock.now_ms,
                clock=clock, rng=rng, log=telemetry.event,
            )  # fmt: skip
            core = Core(config, clock=clock, rng=rng, observer=DaemonObserver(telemetry, events, clock))
            await stack.enter_async_context(core)
            telemetry.event(names.LEDGER_OPENED, path=str(core.ledger.path))
            publisher = StreamPublisher(
                wire=link.wire(), queries=link.wire(), keys=keys, group=config.ingress.group,
                bounds=self._bounds(), final_fields=final_fields, delta_fields=delta_fields,
                now_ms=redis_clock.now_ms, events=events, clock=clock, rng=rng,
            )  # fmt: skip
            held = HeldEntries()
            patterns = compile_patterns(config.redis.prefix, config.reply.allowed)
            dispatcher = core.dispatch(
                publisher=publisher, holds=held, redis_now_ms=redis_clock.now_ms,
                reply_allowed=lambda name: allowed_reply(patterns, name),
            )  # fmt: skip
            ingress = config.ingress

            def room() -> Room:
                return Room(ingress.max_in_flight - len(held), ingress.max_in_flight_bytes - held.bytes)

            intake = StreamIntake(
                wire=link.wire(timeout_s=READ_TIMEOUT_S), keys=keys, rules=self._intake_rules(),
                consumer=self.consumer, held=held, room=room, events=events, clock=clock, rng=rng,
            )  # fmt: skip
            leases = Leases(
                wire=link.wire(), keys=keys, rules=self._lease_rules(), consumer=self.consumer, held=held,
                room=room, events=events, clock=clock, rng=rng,
            )  # fmt: skip
            control = ControlReader(
                wire=link.wire(timeout_s=READ_TIMEOUT_S), keys=keys, on_cancel=dispatcher.cancel,
                levers=self._levers(core), clock=clock, rng=rng,
            )  # fmt: skip
            await control.catch_up()
            snapshot = Snapshot(
                core=core, intake=intake, publisher=publisher, wire=link.wire(), keys=keys, clock=clock,
                metrics=telemetry.metrics, consumer=self.consumer,
            )  # fmt: skip
            snapshot.observe(telemetry)
            status = StatusServer(
                metrics=telemetry.metrics, not_ready=snapshot.not_ready, status=snapshot.take,
                report=telemetry.event,
            )  # fmt: skip
            stack.push_async_callback(status.close)
            self.status_url = await status.start(config.telemetry.http)
            await stack.enter_async_context(_running(publisher.run(), stop=publisher.stop))
            await stack.enter_async_context(_running(events.run(), stop=events.stop))
            for endless in (redis_clock.run(), control.run(), snapshot.run()):
                await stack.enter_async_context(_running(endless))
            leasing = asyncio.create_task(leases.run(dispatcher.deliver))
            reading = asyncio.create_task(intake.run(dispatcher.deliver))
            events.emit("process_joined", consumer=self.consumer)
            telemetry.event(
                names.PROCESS_STARTED, version=__version__, consumer=self.consumer, redis=link.shown
            )
            try:
                await self._until_drained(reading, leasing, core.supervising)
                telemetry.event(names.DRAIN_STARTED, held=dispatcher.held)
            finally:
                intake.stop()
                with contextlib.suppress(asyncio.CancelledError):
                    await reading
            handed_back = await dispatcher.drain()
            await leases.hand_back(handed_back)
            cut_off = 0 if await self._finish(dispatcher.idle()) else dispatcher.held
            telemetry.event(names.DRAIN_FINISHED, handed_back=len(handed_back), cut_off=cut_off)
            await dispatcher.stop()
            leasing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await leasing
            await leases.leave()
            events.emit("process_left", consumer=self.consumer, handed_back=len(handed_back), cut_off=cut_off)
            telemetry.event(names.PROCESS_STOPPED)

    # -- parts ---------------------------------------------------------------------------------------

    def _telemetry(self, stack: AsyncExitStack) -> Any:
        config = self.config
        running = RunningTelemetry(
            log_level=config.telemetry.log_level,
            otlp_endpoint=config.telemetry.otlp_endpoint,
            models=[ModelName(one.name, one.provider, one.model) for one in config.models],
            secrets=[one.api_key.reveal() for one in config.models if one.api_key is not None],
            group=config.ingress.group,
            version=__version__,
            instance=self.consumer,
            clock=self._clock,
        )
        stack.push_async_callback(running.close)
        return running.telemetry

    def _bounds(self) -> ReplyBounds:
        reply = self.config.reply
        return ReplyBounds(
            default_reply=reply.default,
            max_len=reply.max_len,
            ttl_s=reply.ttl_s,
            dead_max_len=self.config.dead.max_len,
        )

    def _intake_rules(self) -> IntakeRules:
        ingress = self.config.ingress
        return IntakeRules(
            group=ingress.group,
            lanes=ingress.lanes,
            max_job_bytes=ingress.max_job_bytes,
            block_s=BLOCK_S,
            level=LevelRules(base=64),
        )

    def _lease_rules(self) -> LeaseRules:
        ingress = self.config.ingress
        return LeaseRules(
            group=ingress.group,
            lanes=tuple(ingress.lanes),
            lease_s=ingress.lease_s,
            max_job_bytes=ingress.max_job_bytes,
            adopt_after_s=2 * READ_TIMEOUT_S,
        )

    def _levers(self, core: Core) -> dict[str, Callable[[str], None]]:
        def disable(model: str) -> None:
            if model in core.fleet:
                core.fleet[model].worker.disable("operator")

        def reset(model: str) -> None:
            if model in core.fleet:
                core.fleet[model].worker.reset()

        return {"disable": disable, "enable": reset, "reset": reset}

    # -- the end -------------------------------------------------------------------------------------

    async def _until_drained(self, *essential: asyncio.Task[None]) -> None:
        """Wait for the order to drain; an essential task that ends before is an error, and raised."""
        asked = asyncio.create_task(self._drain_asked.wait())
        try:
            await asyncio.wait((asked, *essential), return_when=asyncio.FIRST_COMPLETED)
        finally:
            asked.cancel()
        for task in essential:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _finish(self, idle: Coroutine[Any, Any, None]) -> bool:
        """Let sent calls finish, at most `drain_s`, or until told to stop at once. True: all did."""
        stop = asyncio.create_task(self._stop_asked.wait())
        waiting = asyncio.create_task(idle)
        deadline = self._clock.monotonic() + self.config.ingress.drain_s
        with contextlib.suppress(TimeoutError):
            async with timeout_at(self._clock, deadline):
                await asyncio.wait((stop, waiting), return_when=asyncio.FIRST_COMPLETED)
        finished = waiting.done()
        for task in (stop, waiting):
            task.cancel()
        return finished


@asynccontextmanager
async def _running(
    work: Coroutine[Any, Any, None], *, stop: Callable[[], None] | None = None
) -> AsyncIterator[asyncio.Task[None]]:
    """Run `work` beside; at the end ask it to stop and wait a little, or cancel it."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        if stop is not None:
            stop()
            await asyncio.wait((task,), timeout=5.0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
