"""One whole dispatcher on a stage: real core, workers, books and decisions; a scripted world around them."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
from msgspec import structs

from tests.fakes import Delta, Final, MemoryBooks, MemoryLedger, MemoryReplies, QuickCounter, VirtualClock
from theo_daemon import core as core_module
from theo_daemon.cancellations import Cancel
from theo_daemon.config import BudgetConfig, Config, IngressConfig, LedgerConfig, ModelConfig, RoutingConfig
from theo_daemon.core import Core
from theo_daemon.dispatcher import Dispatcher
from theo_daemon.flight import Ticket
from theo_daemon.job import Answered, Delivery, EntryRef, Failed, JobOutcome
from theo_daemon.ledger import Ledger
from theo_daemon.ledger.records import News
from theo_daemon.observer import LibraryObserver
from theo_daemon.ports import DeadLetter
from theo_daemon.telemetry.records import AttemptRecord
from theo_workers.clock import Clock, sleep
from theo_workers.messages import Completion, DeltaSink, Request
from theo_workers.upstreams.script import Fate
from theo_workers.upstreams.scripted import ScriptedUpstream

FateFor = Callable[[str], Fate]  # by the prompt


def said(request: Request) -> str:
    """The prompt of a request."""
    content = request.messages[-1].content
    assert isinstance(content, str)
    return content


class WatchedUpstream(ScriptedUpstream):
    """A scripted provider that writes down what it was asked, and who was still at it when."""

    def __init__(self, clock: Clock, fates: Sequence[Fate] = (), **options: Any) -> None:
        super().__init__(clock, fates, **options)
        self.prompts: list[str] = []
        self.streamed: list[bool] = []
        self.params: list[Mapping[str, Any]] = []
        self.running: list[str] = []
        self.closed: list[str] = []  # calls that were cancelled
        self.fate_for: Callable[[str], Fate | BaseException] | None = None

    async def generate(self, request: Request, *, deadline: float, on_delta: DeltaSink | None) -> Completion:
        prompt = said(request)
        self.prompts.append(prompt)
        self.streamed.append(request.stream)
        self.params.append(request.params)
        self.running.append(prompt)
        try:
            if self.fate_for is not None:
                fate = self.fate_for(prompt)
                if isinstance(fate, BaseException):
                    raise fate
                self._fates, self._end = (fate,), "cycle"
            return await super().generate(request, deadline=deadline, on_delta=on_delta)
        except asyncio.CancelledError:
            self.closed.append(prompt)
            raise
        finally:
            self.running.remove(prompt)


class Listening(LibraryObserver):
    """Hears everything, and keeps what ought never to happen."""

    def __init__(self) -> None:
        self.bugs: list[BaseException] = []
        self.defects: list[BaseException] = []
        self.transitions: list[tuple[str, str]] = []
        self.regions: list[tuple[str, str]] = []
        self.news: list[News] = []
        self.violations: list[str] = []
        self.retries_spent: list[str] = []
        self.unknown: list[str] = []
        self.duplicates: list[EntryRef] = []
        self.attempts: list[AttemptRecord] = []
        self.dead: list[tuple[EntryRef, str]] = []

    def on_dead(self, ref: EntryRef, letter: DeadLetter) -> None:
        self.dead.append((ref, letter.code))

    def on_settled(self, record: AttemptRecord) -> None:
        self.attempts.append(record)

    def on_bug(self, error: BaseException, ref: EntryRef) -> None:
        self.bugs.append(error)

    def on_defect(self, model: str, error: BaseException) -> None:
        self.defects.append(error)

    def on_transition(self, model: str, event: str, details: Mapping[str, Any]) -> None:
        self.transitions.append((model, event))

    def on_region(self, event: str, region: str, details: Mapping[str, Any]) -> None:
        self.regions.append((event, region))

    def on_news(self, news: News) -> None:
        self.news.append(news)

    def on_retries_spent(self, model: str) -> None:
        self.retries_spent.append(model)

    def on_bound_violated(self, model: str, cost_nano: int, bound_nano: int) -> None:
        assert cost_nano > bound_nano
        self.violations.append(model)

    def on_duplicate(self, ticket: Ticket, outcome: JobOutcome) -> None:
        self.duplicates.append(ticket.ref)

    def on_model_unknown(self, model: str, detail: str) -> None:
        assert detail
        self.unknown.append(model)


def model(name: str, *fates: Fate, routing: Mapping[str, Any] | None = None, **options: Any) -> ModelConfig:
    """A scripted model; without fates it echoes. Priced ones need `output_cost_per_mtok` and a cap."""
    return ModelConfig(
        name=name,
        provider="scripted",
        model=f"{name}-1",
        script=fates,
        routing=RoutingConfig(**(routing or {})),
        **options,
    )


def merged(model: ModelConfig, over: Mapping[str, Any]) -> ModelConfig:
    """The model with what holds for all, where it says nothing of its own."""
    default = RoutingConfig()
    inherited = {
        key: value for key, value in over.items() if getattr(model.routing, key) == getattr(default, key)
    }
    return structs.replace(model, routing=structs.replace(model.routing, **inherited))


class Stage:
    """Push, advance, look."""

    def __init__(self, config: Config, *, clock: Clock, seed: int = 7, ledger: Ledger) -> None:
        self.config, self.clock = config, clock
        self.observer = Listening()
        self.replies = MemoryReplies(clock)
        with mock.patch.object(core_module, "TokenCounter", QuickCounter):
            self.core = Core(
                config, ledger=ledger, clock=clock, observer=self.observer, rng=random.Random(seed)
            )
        self.ledger = ledger
        self.upstreams: dict[str, WatchedUpstream] = {}
        for one in config.models:
            self.upstreams[one.name] = WatchedUpstream(clock, one.script, end=one.script_end)
            self.core.fleet[one.name].worker.upstream = self.upstreams[one.name]
        self.expected_bugs: list[BaseException] = []
        self._pushed = 0

    @property
    def dispatcher(self) -> Dispatcher:
        return self.core.dispatcher

    @property
    def now_ms(self) -> int:
        return int(self.clock.wall() * 1000)

    @property
    def calls(self) -> int:
        """How many calls were sent, to all models."""
        return sum(len(one.prompts) for one in self.upstreams.values())

    def entry(
        self, prompt: str | None = "hi", *, redelivered: bool = False, lane: str = "default", age_s: float = 0.0,
        **fields: Any,
    ) -> Delivery:  # fmt: skip
        """A job as the intake would bring it, pushed `age_s` ago. Values that are no text are put as JSON."""
        self._pushed += 1
        flat: list[bytes] = []
        for name, value in {"prompt": prompt, **fields}.items():
            if value is None:
                continue
            flat += [name.encode(), value.encode() if isinstance(value, str) else msgspec.json.encode(value)]
        ref = EntryRef("theo:jobs", f"{self.now_ms - int(age_s * 1000)}-{self._pushed}")
        return Delivery(ref, lane, flat, redelivered)

    def push(self, prompt: str | None = "hi", **fields: Any) -> EntryRef:
        """One job, delivered at once."""
        delivery = self.entry(prompt, **fields)
        self.dispatcher.deliver([delivery])
        return delivery.ref

    def push_all(self, prompts: Sequence[str], **fields: Any) -> list[EntryRef]:
        """Several in one batch."""
        deliveries = [self.entry(prompt, **fields) for prompt in prompts]
        self.dispatcher.deliver(deliveries)
        return [delivery.ref for delivery in deliveries]

    def cancel(self, name: str, *, tenant: str | None = None) -> None:
        self.dispatcher.cancel(Cancel(name, tenant, self.now_ms))

    async def advance(self, seconds: float = 0.0) -> None:
        """Let time pass; with the real ledger, real time."""
        if isinstance(self.clock, VirtualClock):
            await self.clock.advance(seconds)
        else:
            await sleep(self.clock, seconds)

    def final(self, ref: EntryRef) -> Final | None:
        """The final reply, if it is out; there is never more than one."""
        finals = self.replies.finals.get(ref, [])
        assert len(finals) <= 1, f"{ref} was answered {len(finals)} times"
        return finals[0] if finals else None

    def outcome(self, ref: EntryRef) -> JobOutcome:
        final = self.final(ref)
        assert final is not None, f"{ref} is not answered yet"
        return final.outcome

    def ok(self, ref: EntryRef) -> Answered:
        outcome = self.outcome(ref)
        assert isinstance(outcome, Answered), outcome
        return outcome

    def error(self, ref: EntryRef) -> Failed:
        outcome = self.outcome(ref)
        assert isinstance(outcome, Failed), outcome
        return outcome

    def end(self, ref: EntryRef) -> str:
        """`ok`, an error code, or `waiting`."""
        final = self.final(ref)
        if final is None:
            return "waiting"
        return "ok" if isinstance(final.outcome, Answered) else final.outcome.code

    def ends(self, refs: Sequence[EntryRef]) -> list[str]:
        return [self.end(ref) for ref in refs]

    async def answer(self, prompt: str = "hi", *, within_s: float = 1.0, **fields: Any) -> JobOutcome:
        """Push, wait, and look."""
        ref = self.push(prompt, **fields)
        await self.advance(within_s)
        return self.outcome(ref)

    def deltas(self, ref: EntryRef) -> list[Delta]:
        return self.replies.deltas.get(ref, [])

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """What the books say."""
        assert isinstance(self.ledger, MemoryLedger)
        return self.ledger.books.rows(sql)


@contextlib.asynccontextmanager
async def staged(
    *models: ModelConfig, routing: Mapping[str, Any] | None = None, ingress: Mapping[str, Any] | None = None,
    groups: Mapping[str, tuple[str, ...]] | None = None, on_unknown: Any = "retry", seed: int = 7,
    books: MemoryBooks | None = None, name: str | None = None, budgets: Sequence[BudgetConfig] = (),
    clock: VirtualClock | None = None,
) -> AsyncIterator[Stage]:  # fmt: skip
    """A dispatcher in virtual time over books in memory. The group `all` has every model."""
    clock = clock or VirtualClock()
    own_books = MemoryBooks() if books is None else books
    everything = RoutingConfig(default="all", **(routing or {}))
    config = Config(
        routing=everything,
        models=tuple(merged(one, routing or {}) for one in models),
        groups={"all": tuple(one.name for one in models), **(groups or {})},
        budgets=tuple(budgets),
        ingress=IngressConfig(**(ingress or {})),
        ledger=LedgerConfig(url=Path("unused.db"), on_unknown=on_unknown),
    )
    stage = Stage(config, clock=clock, seed=seed, ledger=MemoryLedger(own_books, clock=clock, name=name))
    try:
        async with open_stage(stage):
            yield stage
        assert [repr(bug) for bug in stage.observer.bugs] == [repr(bug) for bug in stage.expected_bugs]
    finally:
        if books is None:
            own_books.close()


@contextlib.asynccontextmanager
async def open_stage(stage: Stage) -> AsyncIterator[Stage]:
    """Its core opened and its dispatcher built."""
    async with stage.core:
        stage.core.dispatch(
            publisher=stage.replies,
            holds=stage.replies,
            redis_now_ms=lambda: stage.now_ms,
            reply_refusal=lambda name: None if name.startswith("theo:reply:") else "not allowed",
        )
        await stage.advance()
        yield stage
