"""What daemon and library have in common: ledger, models and their workers, and the dispatcher over them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from theo_daemon import process_memory
from theo_daemon.addresses import is_loopback
from theo_daemon.budgets import Budgets
from theo_daemon.catalogue import Catalogue
from theo_daemon.config import Config, ModelConfig, RoutingConfig
from theo_daemon.dispatcher import Dispatcher, DispatchObserver
from theo_daemon.fleet import Fleet, Member
from theo_daemon.learner import Learner
from theo_daemon.ledger import Ledger
from theo_daemon.ledger.condition import Tidings
from theo_daemon.ledger.records import News
from theo_daemon.ports import Holds, Publisher
from theo_daemon.reception import Reception, Refused
from theo_daemon.region_watch import RegionObserver, RegionWatch, Watched
from theo_daemon.repricing import keep_prices
from theo_daemon.retry_budget import RetryBudget
from theo_daemon.standings import Standings
from theo_daemon.usual import UsualLatency
from theo_workers.breaker import Breaker
from theo_workers.clock import Clock
from theo_workers.failure_rate import RateRule
from theo_workers.health import ModelHealth
from theo_workers.load import Load
from theo_workers.model_spec import ModelSpec, Timeouts
from theo_workers.model_worker import ModelWorker
from theo_workers.price_table import price_for
from theo_workers.prices import Price
from theo_workers.slots import Slots
from theo_workers.standing import Standing
from theo_workers.supervisor import Supervisor
from theo_workers.throttle import Throttle
from theo_workers.tokens.count import TokenCounter
from theo_workers.tokens.families import OWN_HIDDEN, family_for, is_known
from theo_workers.upstreams.build import build_upstream
from theo_workers.upstreams.room import Room


class CoreObserver(RegionObserver, DispatchObserver, Protocol):
    """Hears of workers, regions, jobs and defects."""

    def on_refusal(self, refused: Refused) -> None:
        """A job was refused before it ran."""

    def on_news(self, news: News) -> None:
        """Money: a ceiling came near or was reached, or a call was lost with its process."""

    def on_tidings(self, tidings: Tidings) -> None:
        """The ledger cannot be written, or can again, or grows too long a WAL."""


class Core:
    """Opens the ledger it is given, starts the workers; `dispatch` then builds the dispatcher over them."""

    reception: Reception
    dispatcher: Dispatcher

    def __init__(
        self,
        config: Config,
        *,
        ledger: Ledger,
        clock: Clock,
        observer: CoreObserver,
        rng: random.Random | None = None,
    ) -> None:
        self.config, self.ledger, self.clock = config, ledger, clock
        self._observer = observer
        self._rng = rng or random.Random()
        self._room = Room(on_left=process_memory.trim)
        ledger.share_room(self._room)
        self.catalogue = Catalogue(config)
        self.counter = TokenCounter()
        self.regions = _regions(config, clock, observer)
        self.standings = Standings(self.ledger, clock=clock, observer=self.regions or observer)
        self.ledger.on_news(observer.on_news)
        self.ledger.on_tidings(observer.on_tidings)
        self._retries: dict[str, RetryBudget] = {}  # by endpoint
        self.fleet = Fleet(
            {model.name: self._member(model) for model in config.models},
            budgets=Budgets(config),
            standings=self.standings,
            counter=self.counter,
            clock=clock,
            rng=self._rng,
            regions=self.regions,
        )
        if config.routing.strategy == "predictive":
            self.fleet.learner = Learner(
                self._rng, cost=self.fleet.usd, usd_per_s=config.routing.predictive_usd_per_s
            )
        for member in self.fleet.members():
            self.standings.add(member.worker, _fingerprint(member.config))
        workers = [member.worker for member in self.fleet.members()]
        self.supervisor = Supervisor(workers, clock=clock, observer=observer)
        self._supervising: asyncio.Task[None] | None = None
        self._repricing: asyncio.Task[None] | None = None
        self._saving: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Raises LedgerError."""
        await self.counter.warm([model.model for model in self.config.models])
        await self.ledger.__aenter__()
        await self.standings.start()
        loop = asyncio.get_running_loop()
        self._supervising = loop.create_task(self.supervisor.run())
        self._saving = loop.create_task(self.standings.run())
        self._repricing = loop.create_task(
            keep_prices(self.fleet, lambda model: asyncio.to_thread(self._price, model), self.clock)
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Cancel what still runs, settle it, close connections and books."""
        if hasattr(self, "dispatcher"):
            await self.dispatcher.stop()
        for task in (self._repricing, self._supervising, self._saving):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        self.standings.save()
        for member in self.fleet.members():
            await member.worker.upstream.close()
        await self.ledger.__aexit__(kind, error, traceback)

    @property
    def supervising(self) -> asyncio.Task[None]:
        """Ends only when a worker crashed too often, or all are drained."""
        assert self._supervising is not None
        return self._supervising

    @property
    def background(self) -> list[asyncio.Task[None]]:
        """What must not fail, beside the workers."""
        return [task for task in (self._repricing, self._saving) if task is not None]

    def dispatch(
        self,
        *,
        publisher: Publisher,
        holds: Holds,
        redis_now_ms: Callable[[], int],
        reply_refusal: Callable[[str], str | None],
    ) -> Dispatcher:
        """Build the dispatcher between an intake and `publisher`."""
        config = self.config
        self.reception = Reception(
            catalogue=self.catalogue,
            max_job_bytes=config.ingress.max_job_bytes,
            reply_refusal=reply_refusal,
            on_refusal=self._observer.on_refusal,
        )
        self.dispatcher = Dispatcher(
            config,
            reception=self.reception,
            fleet=self.fleet,
            ledger=self.ledger,
            publisher=publisher,
            holds=holds,
            clock=self.clock,
            redis_now_ms=redis_now_ms,
            rng=self._rng,
            observer=self._observer,
        )
        for member in self.fleet.members():
            member.worker.on_change = self.dispatcher.pump
        return self.dispatcher

    def _member(self, model: ModelConfig) -> Member:
        routing = model.routing
        upstream = build_upstream(_spec(model), self.clock, self._rng, self._room)
        breaker, slots = _breaker(routing), _slots(model)
        worker = ModelWorker(
            model.name,
            upstream,
            Standing(breaker, slots, timeout_s=routing.timeout_s),
            ModelHealth(),
            clock=self.clock,
            rng=self._rng,
            observer=self.standings,
        )
        # Models without an address are endpoints of their own.
        endpoint = model.base_url or f"{model.provider}:{model.name}"
        retries = self._retries.setdefault(endpoint, RetryBudget(self.config.routing.retry_budget))
        place = 0
        if self.regions is not None:
            place = self.regions.place(model.region)
            if model.region is not None:
                self.regions.add(Watched(model.name, model.region, breaker, worker))
        usual = UsualLatency(worker.health)
        return Member(
            model, worker, self._price(model), breaker, retries, usual, place=place, unseen=_unseen(model)
        )

    def _price(self, model: ModelConfig) -> Price | None:
        return price_for(
            model.provider,
            model.model,
            input_cost_per_mtok=model.input_cost_per_mtok,
            output_cost_per_mtok=model.output_cost_per_mtok,
            base_url=model.base_url,
            at=self.clock.wall(),
        )


def _breaker(routing: RoutingConfig) -> Breaker:
    rate = None
    if routing.circuit_breaker_failure_ratio > 0:
        rate = RateRule(
            ratio=routing.circuit_breaker_failure_ratio,
            minimum_calls=routing.circuit_breaker_minimum_calls,
            window_s=routing.circuit_breaker_window_s,
        )
    return Breaker(
        threshold=routing.circuit_breaker_threshold,
        timeout_s=routing.circuit_breaker_timeout_s,
        rate=rate,
        adaptive=routing.circuit_breaker_adaptive in (True, "history"),
        throttle=Throttle() if routing.circuit_breaker_adaptive in (True, "throttle") else None,
    )


def _slots(model: ModelConfig) -> Slots:
    routing, load = model.routing, None
    if routing.adaptive_concurrency:
        load = Load(model.concurrency, least_slow_ms=routing.latency_threshold_ms)
    return Slots(model.concurrency, ramp_s=routing.circuit_breaker_ramp_s, load=load)


def _regions(config: Config, clock: Clock, observer: RegionObserver) -> RegionWatch | None:
    """None: regions make no difference."""
    routing = config.routing
    if not routing.regions:
        return None
    return RegionWatch(routing.regions, ratio=routing.region_eviction_ratio, clock=clock, observer=observer)


def _spec(model: ModelConfig) -> ModelSpec:
    return ModelSpec(
        name=model.name,
        provider=model.provider,
        model=model.model,
        base_url=model.base_url,
        api_key=model.api_key,
        headers=model.headers,
        query=model.query,
        proxy=model.proxy,
        ca_file=model.ca_file,
        concurrency=model.concurrency,
        max_output_tokens=model.max_output_tokens,
        timeouts=Timeouts(first_byte_s=model.routing.timeout_s, inter_chunk_s=model.routing.timeout_s),
        max_response_bytes=model.routing.max_response_bytes,
        script=model.script,
        script_end=model.script_end,
    )


def _unseen(model: ModelConfig) -> int:
    """What its provider adds to a prompt beyond what is usual of its kind, in tokens at most; less where negative."""
    hidden = model.hidden_tokens
    if (
        hidden is None
        and model.base_url
        and is_loopback(model.base_url)
        and not is_known(model.provider, model.model)
    ):
        hidden = OWN_HIDDEN
    return 0 if hidden is None else hidden - family_for(model.provider, model.model).hidden


def _fingerprint(model: ModelConfig) -> str:
    """Names a credential at its provider without telling it."""
    key = "" if model.api_key is None else model.api_key.reveal()
    parts = (model.provider, model.base_url or "", key, *model.headers.values(), *model.query.values())
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()
