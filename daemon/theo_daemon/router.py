"""The library face: the daemon's dispatcher, ledger and workers inside a Python program, without Redis."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
from msgspec import Struct

from theo_daemon.cancellations import Cancel
from theo_daemon.config import Config
from theo_daemon.config_file import load_config
from theo_daemon.core import Core
from theo_daemon.job import Answered, CacheMode, Delivery
from theo_daemon.ledger import Ledger, LedgerTransaction
from theo_daemon.local_intake import LocalReplies
from theo_daemon.make_ledger import bookkeeping
from theo_daemon.money import to_usd
from theo_daemon.observer import LibraryObserver
from theo_workers.clock import Clock, SystemClock
from theo_workers.errors import GenerationError, LedgerError
from theo_workers.health import ModelHealth
from theo_workers.messages import Attempt, FinishReason, Usage
from theo_workers.texts import plain

__all__ = ["GenerationError", "Ledger", "LedgerTransaction", "ModelHealth", "RoutedGeneration", "Router"]

_encode = msgspec.json.Encoder().encode


class RoutedGeneration(Struct, frozen=True, kw_only=True):
    """An answer, and what it took. `cost` is USD, 0 for a cache hit or a shared answer."""

    model: str
    output: str
    latency_ms: float
    cost: float
    cache_hit: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0
    provider: str
    finish_reason: FinishReason
    coalesced: bool = False
    tool_calls: list[dict[str, Any]] | None = None
    usage: Usage
    attempts: tuple[Attempt, ...] = ()


class Router:
    """Routes generations of this program over the configured models.

    ```
    async with Router.from_config("theo-router.toml") as router:
        result = await router.execute_generation(prompt="Say hi", model="fast")
    ```
    Several programs, and daemons, may share one ledger file: budgets, cache and calls in flight are common.
    """

    def __init__(self, config: Config, *, clock: Clock | None = None) -> None:
        self._config, self._clock = config, clock or SystemClock()
        self._stack = AsyncExitStack()
        self._core: Core | None = None
        self._replies: LocalReplies | None = None
        self._closed = False

    @classmethod
    def from_config(cls, path: str | Path | None = None, clock: Clock | None = None) -> Self:
        """From a TOML file; found like the daemon's when `path` is None. Raises ConfigError."""
        return cls(load_config(None if path is None else Path(path)), clock=clock)

    async def __aenter__(self) -> Self:
        """Open the ledger and start the workers. Raises LedgerError; with a ledger in Redis, RedisUnreachable, too."""
        url = self._config.redis.url
        books = await self._stack.enter_async_context(
            bookkeeping(
                self._config,
                url=None if url is None else url.reveal(),
                clock=self._clock,
                rng=random.Random(),
            )
        )
        core = Core(self._config, ledger=books.ledger, clock=books.clock, observer=LibraryObserver())
        await self._stack.enter_async_context(core)
        self._core, self._replies, self._closed = core, LocalReplies(core.ledger.name), False
        core.ledger.crashed.add_done_callback(self._ledger_lost)
        core.dispatch(
            publisher=self._replies,
            holds=self._replies,
            redis_now_ms=lambda: int(self._clock.wall() * 1000),
            reply_refusal=lambda _: "there are no streams here to reply on",
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Cancel what still runs, settle it, and close."""
        self._closed = True
        await self._stack.aclose()

    @property
    def core(self) -> Core:
        if self._core is None:
            raise RuntimeError("the router is not open: use `async with`")
        return self._core

    @property
    def ledger(self) -> Ledger:
        """The open ledger: `with router.ledger.transaction() as txn: txn.get_all_spend()`."""
        return self.core.ledger

    @property
    def model_health(self) -> Mapping[str, ModelHealth]:
        """The health record of each model, by its configured name."""
        return {member.config.name: member.worker.health for member in self.core.fleet.members()}

    def is_available(self, model: str, workflow: str = "default") -> bool:
        """Would a generation for this model or group be tried now? False while every circuit is open."""
        route = self.core.catalogue.resolve(model, workflow)
        return route is not None and bool(self.core.fleet.available([one.name for one in route.candidates]))

    def estimate_tokens(self, text: str, model: str) -> int:
        """Tokens of `text` for a configured model, or for a provider's model name. Exact where tiktoken is."""
        names = {member.config.name: member.config.model for member in self.core.fleet.members()}
        return self.core.counter.count_text(text, names.get(model, model)).tokens

    async def execute_generation(
        self,
        *,
        prompt: str | None = None,
        messages: Sequence[Mapping[str, Any]] | None = None,
        system: str | None = None,
        model: str | None = None,
        workflow: str = "default",
        params: Mapping[str, Any] | None = None,
        tenant: str | None = None,
        cache: CacheMode = "use",
    ) -> RoutedGeneration:
        """Generate, with failover, shared answers and budgets as a job from Redis has them.

        Exactly one of `prompt` and `messages` (OpenAI's chat form). Raises GenerationError, whose `code`,
        `provider`, `status_code` and `retryable` say why; LedgerError once the ledger is lost.
        Cancelling it ends the call once nobody else waits. RuntimeError when the router is not open.
        """
        if self._closed:
            raise RuntimeError("the router is closed: use it inside its `async with`")
        dispatcher = self.core.dispatcher
        assert self._replies is not None
        if (crashed := self.core.ledger.crashed).done():
            crashed.result()
        fields: dict[str, object] = {
            "prompt": prompt,
            "messages": messages,
            "system": system,
            "model": model,
            "workflow": workflow,
            "params": dict(params or {}),
            "tenant": tenant,
            "cache": cache,
        }
        job = _encode({name: value for name, value in fields.items() if value is not None})
        ref, outcome = self._replies.expect(int(self._clock.wall() * 1000))
        dispatcher.deliver([Delivery(ref, "default", [b"job", job])])
        try:
            ended = await outcome
        finally:
            if outcome.cancelled():
                dispatcher.cancel(Cancel(ref.entry_id, None, ref.pushed_ms))
        if isinstance(ended, Answered):
            return _routed(ended)
        raise GenerationError.restored(
            ended.code,
            ended.message,
            provider=ended.provider,
            status_code=ended.status_code,
            retryable=ended.retryable,
            retry_after_s=None if ended.retry_after_ms is None else ended.retry_after_ms / 1000,
        )

    def _ledger_lost(self, crashed: asyncio.Future[None]) -> None:
        if (
            self._replies is not None
            and not crashed.cancelled()
            and (error := crashed.exception()) is not None
        ):
            self._replies.fail(LedgerError(str(error)))


def _routed(ended: Answered) -> RoutedGeneration:
    answer = ended.answer
    return RoutedGeneration(
        model=answer.model,
        provider=answer.provider,
        output=plain(answer.output),
        finish_reason=answer.finish_reason,
        latency_ms=answer.latency_ms,
        cost=to_usd(ended.cost_nano),
        cache_hit=ended.cache_hit,
        coalesced=ended.coalesced,
        prompt_tokens=answer.usage.prompt_tokens,
        completion_tokens=answer.usage.completion_tokens,
        usage=answer.usage,
        tool_calls=None if answer.tool_calls is None else msgspec.json.decode(_encode(answer.tool_calls)),
        attempts=ended.attempts,
    )
