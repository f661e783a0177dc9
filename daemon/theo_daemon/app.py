"""The composition root of one process: builds every part, orders start, drain and stop."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from theo_daemon import __version__, process_memory
from theo_daemon.addresses import is_cluster
from theo_daemon.background import first_failure, running
from theo_daemon.config import Config
from theo_daemon.core import Core
from theo_daemon.ledger import process_name
from theo_daemon.ledger.condition import Tidings
from theo_daemon.ledger_pin import LedgerPin, plan_of
from theo_daemon.make_ledger import bookkeeping
from theo_daemon.observer import DaemonObserver
from theo_daemon.redis_link import RedisLink, redacted
from theo_daemon.redis_side import RedisSide
from theo_daemon.redis_url import secrets_in
from theo_daemon.reply_patterns import compile_patterns, why_refused
from theo_daemon.server_check import ServerFacts, check_server
from theo_daemon.snapshot import Snapshot
from theo_daemon.stall_guard import StallGuard
from theo_daemon.telemetry import names
from theo_daemon.telemetry.facade import Telemetry
from theo_daemon.telemetry.metrics import ModelName
from theo_daemon.telemetry.start import RunningTelemetry
from theo_daemon.telemetry.status_http import StatusServer
from theo_workers.clock import Clock, SystemClock, timeout_at
from theo_workers.upstreams.watchdog import STOOD_STILL_S

# Answers that lie in the sockets of a process that stood still until its drain was over are read, recorded, published.
TAKEN_IN_WITHIN_S = 1.0
STALL_LEASES = 3.0  # a loop that is silent for so many leases will not speak again


class Daemon:
    """One `serve` process. `run` returns when `drain` has let everything finish, or after `stop`."""

    def __init__(self, config: Config, redis_url: str, *, clock: Clock | None = None) -> None:
        self.config, self._url = config, redis_url
        self._clock = clock or SystemClock()
        self._rng = random.Random()
        self.consumer = process_name()  # in the consumer group and in the ledger alike
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
        link = RedisLink(self._url, prefix=self.config.redis.prefix, client_name=self.consumer)
        facts = await check_server(link)
        async with AsyncExitStack() as stack:
            telemetry = self._telemetry(stack, facts)
            side = RedisSide(
                self.config,
                link,
                consumer=self.consumer,
                clock=self._clock,
                rng=self._rng,
                log=telemetry.event,
            )
            await side.time.sync()
            core = await self._core(stack, side, telemetry)
            pin = await self._pin(stack, core, side, telemetry, link)
            looking = await self._status_port(stack, core, side, telemetry, link)
            beside = [looking, *core.background, *await side.start(stack)]
            stack.enter_context(StallGuard(STALL_LEASES * self.config.ingress.lease_s))
            process_memory.freeze()
            telemetry.event(
                names.PROCESS_STARTED, version=__version__, consumer=self.consumer, redis=link.shown
            )
            await self._serve(core, side, telemetry, pin, first_failure(beside))
            telemetry.event(names.PROCESS_STOPPED)

    # -- building ------------------------------------------------------------------------------------

    def _telemetry(self, stack: AsyncExitStack, facts: ServerFacts) -> Telemetry:
        config = self.config
        started = RunningTelemetry(
            log_level=config.telemetry.log_level,
            otlp_endpoint=config.telemetry.otlp_endpoint,
            models=[ModelName(one.name, one.provider, one.model) for one in config.models],
            secrets=_secrets(config, self._url),
            group=config.ingress.group,
            version=__version__,
            instance=self.consumer,
            clock=self._clock,
        )
        stack.push_async_callback(started.close)
        for warning in (*config.warnings, *facts.warnings):
            started.telemetry.event(names.WARNING, reason=warning)
        return started.telemetry

    async def _core(self, stack: AsyncExitStack, side: RedisSide, telemetry: Telemetry) -> Core:
        books = await stack.enter_async_context(
            bookkeeping(self.config, url=self._url, name=self.consumer, clock=self._clock, rng=self._rng)
        )
        observer = DaemonObserver(telemetry, side.events, books.clock)
        core = Core(self.config, ledger=books.ledger, clock=books.clock, rng=self._rng, observer=observer)
        core.ledger.on_commit(telemetry.commit_finished)
        await stack.enter_async_context(core)
        telemetry.event(names.LEDGER_OPENED, path=core.ledger.place)
        for warning in core.ledger.warnings:
            telemetry.event(names.WARNING, reason=warning)
        for member in core.fleet.members():
            if member.price is None:
                telemetry.event(names.PRICE_UNKNOWN, model=member.config.name)
        patterns = compile_patterns(
            self.config.redis.prefix, self.config.reply.allowed, one_slot=is_cluster(self._url)
        )
        core.dispatch(
            publisher=side.publisher,
            holds=side.held,
            redis_now_ms=side.time.now_ms,
            reply_refusal=lambda name: why_refused(patterns, name),
        )
        side.attach(core, core.standings.order, shut=lambda: core.ledger.trouble is not None)

        def told(tidings: Tidings) -> None:
            observer.on_tidings(tidings)
            side.look_again()

        core.ledger.on_tidings(told)
        return core

    async def _pin(
        self, stack: AsyncExitStack, core: Core, side: RedisSide, telemetry: Telemetry, link: RedisLink
    ) -> asyncio.Task[None]:
        """Do these streams belong to this ledger? Ends only when they do not any more."""
        plan = plan_of(self.config)
        pin = LedgerPin(
            link.wire(), side.keys, core.ledger, process=self.consumer, plan=plan, clock=self._clock
        )
        stack.push_async_callback(pin.leave)
        replaced, differing = await pin.check()
        if replaced is not None:
            gone = f"{replaced.place} (uuid {replaced.uuid}), which nobody uses any more"
            told = f"these streams belonged to the ledger {gone}; what it remembered is not known here"
            telemetry.event(names.WARNING, reason=told)
        for one in differing:
            side.events.emit(
                "budget_config_differs",
                scope=one.scope,
                ceiling=one.here,
                other=one.there,
                consumer=one.process,
            )
        return await stack.enter_async_context(running(pin.run()))

    async def _status_port(
        self, stack: AsyncExitStack, core: Core, side: RedisSide, telemetry: Telemetry, link: RedisLink
    ) -> asyncio.Task[None]:
        snapshot = Snapshot(
            core=core,
            intake=side.intake,
            publisher=side.publisher,
            wire=link.wire(),
            keys=side.keys,
            clock=self._clock,
            metrics=telemetry.metrics,
            consumer=self.consumer,
        )
        snapshot.observe(telemetry)
        status = StatusServer(
            metrics=telemetry.metrics,
            not_ready=snapshot.not_ready,
            status=snapshot.take,
            report=telemetry.event,
        )
        stack.push_async_callback(status.close)
        self.status_url = await status.start(self.config.telemetry.http)
        return await stack.enter_async_context(running(snapshot.run()))

    # -- serving and its end -------------------------------------------------------------------------

    async def _serve(
        self, core: Core, side: RedisSide, telemetry: Telemetry, *essential: asyncio.Future[None]
    ) -> None:
        """Until told to drain, or one of `essential`, or of what is started here, has failed."""
        dispatcher = core.dispatcher
        leasing = asyncio.create_task(side.leases.run(dispatcher.deliver))
        reading = asyncio.create_task(side.intake.run(dispatcher.deliver))
        take_over = partial(side.leases.take_over, deliver=dispatcher.deliver)
        inheriting = asyncio.create_task(side.heir.run(take_over))
        scouting = asyncio.create_task(side.scout.run(dispatcher.deliver))
        rehearsing = asyncio.create_task(side.quarantine.run())
        core.ledger.on_death(side.heir.inherit)
        side.events.emit("process_joined", consumer=self.consumer)
        try:
            await self._until_drained(
                *(reading, leasing, inheriting, scouting, rehearsing, core.supervising, core.ledger.crashed),
                *essential,
            )
            telemetry.event(names.DRAIN_STARTED, held=dispatcher.held)
        finally:
            side.intake.stop()
            for ending in (inheriting, scouting, rehearsing):
                ending.cancel()
            for ending in (reading, inheriting, scouting, rehearsing):
                with contextlib.suppress(asyncio.CancelledError):
                    await ending
        side.leases.take_no_more()
        handed_back = [*side.quarantine.give_back(), *await dispatcher.drain()]
        await side.leases.hand_back(handed_back)
        cut_off = 0 if await self._finish(dispatcher.idle()) else dispatcher.held
        telemetry.event(names.DRAIN_FINISHED, handed_back=len(handed_back), cut_off=cut_off)
        await dispatcher.stop()
        leasing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await leasing
        await side.leases.leave()
        side.events.emit(
            "process_left", consumer=self.consumer, handed_back=len(handed_back), cut_off=cut_off
        )

    async def _until_drained(self, *essential: asyncio.Future[None]) -> None:
        """Wait for the order to drain; an essential task that ends before is an error, and raised."""
        asked = asyncio.create_task(self._drain_asked.wait())
        waited: set[asyncio.Future[Any]] = {asked, *essential}
        try:
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
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
        await self._first_of(stop, waiting, deadline=deadline)
        now = self._clock.monotonic()
        if now > deadline + STOOD_STILL_S and not stop.done():
            await self._first_of(stop, waiting, deadline=now + TAKEN_IN_WITHIN_S)
        finished = waiting.done()
        for task in (stop, waiting):
            task.cancel()
        return finished

    async def _first_of(self, *awaited: asyncio.Task[Any], deadline: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with timeout_at(self._clock, deadline):
                await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)


def _secrets(config: Config, redis_url: str) -> Iterator[str]:
    """Every value that must never leave by a log line, trace or reply."""
    if redacted(redis_url) != redis_url:  # an address without a password helps whoever reads the log
        yield redis_url
        yield from secrets_in(redis_url)
    for model in config.models:
        if model.api_key is not None:
            yield model.api_key.reveal()
        yield from model.headers.values()
        yield from model.query.values()
        if model.proxy is not None:
            yield model.proxy
