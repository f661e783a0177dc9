"""The providers of a world: they do what the plan says, and write down who asked what, and how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from theo_workers.clock import sleep_until
from theo_workers.errors import (
    AuthenticationFailed,
    ContentFiltered,
    ContextLengthExceeded,
    InvalidRequest,
    ProviderQuotaExhausted,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
    UpstreamError,
)
from theo_workers.failures import FailureClass
from theo_workers.messages import Completion, DeltaSink, Request, Usage

PROMPT_TOKENS, ANSWER_TOKENS = 12, 20
DELTAS = 4
FOREVER = float("inf")

MakeError = Callable[[], UpstreamError]


def _error(kind: type[UpstreamError], message: str, **options: Any) -> MakeError:
    return lambda: kind(message, provider="scripted", **options)


FAILURES: dict[str, MakeError] = {
    "refused": _error(ProviderUnavailable, "connection refused", failure=FailureClass.NEVER_SENT),
    "429": _error(RateLimited, "slow down", status_code=429),
    "429 retry-after": _error(RateLimited, "slow down", status_code=429, retry_after_s=0.4),
    "500": _error(ProviderUnavailable, "oops", status_code=500),
    "529": _error(ProviderUnavailable, "overloaded", status_code=529, retry_after_s=0.2),
    "reset": _error(ProviderUnavailable, "reset", failure=FailureClass.MAYBE),
    "garbage": _error(ProviderUnavailable, "no JSON", status_code=200, failure=FailureClass.MAYBE),
    "truncated": _error(ProviderUnavailable, "cut off", status_code=200, failure=FailureClass.MAYBE),
    "filter": _error(
        ContentFiltered, "no", usage=Usage(prompt_tokens=PROMPT_TOKENS, completion_tokens=ANSWER_TOKENS)
    ),
    "context": _error(ContextLengthExceeded, "too long", status_code=400),
    "invalid": _error(InvalidRequest, "bad", status_code=400),
    "model unknown": _error(InvalidRequest, "no such model", status_code=404, failure=FailureClass.MODEL_UNKNOWN),
    "credential": _error(AuthenticationFailed, "who are you", status_code=401),
    "quota": _error(ProviderQuotaExhausted, "pay first", status_code=402),
}  # fmt: skip
NOT_BILLED = frozenset(
    {
        "refused",
        "429",
        "429 retry-after",
        "500",
        "529",
        "context",
        "invalid",
        "model unknown",
        "credential",
        "quota",
    }
)
TERMINAL = frozenset({"filter", "context", "invalid"})
BREAKING = frozenset({"refused", "500", "529", "reset", "garbage", "truncated", "hang"})  # to a breaker
KINDS = (*FAILURES, "hang", "length", "overbilled")


class Call(Struct, kw_only=True):
    """One call as the provider saw it. `how`: ok, the fault, `closed` by the caller, `lost` with its process."""

    number: int
    boot: Any
    model: str
    prompt: str
    started_at: float
    deadline: float
    ended_at: float = FOREVER
    how: str = "running"

    @property
    def output(self) -> str:
        return f"{self.prompt} #{self.number}"


class Providers:
    """`fate` tells what befalls the n-th call (from 1) of a prompt: seconds, and a kind of KINDS or None."""

    def __init__(
        self,
        fate: Callable[[str, str, int, float], tuple[float, str | None]],
        point: Callable[[str, Any], Any],
        began: Callable[[Call], None],
    ) -> None:
        self._fate, self._point, self._began = fate, point, began
        self.calls: list[Call] = []
        self._times: dict[str, int] = {}

    def upstream(self, boot: Any, model: str) -> SimUpstream:
        return SimUpstream(self, boot, model)

    def begin(self, boot: Any, model: str, prompt: str, deadline: float) -> tuple[Call, float, str | None]:
        times = self._times[prompt] = self._times.get(prompt, 0) + 1
        now = boot.clock.monotonic()
        call = Call(
            number=len(self.calls) + 1, boot=boot, model=model, prompt=prompt, started_at=now, deadline=deadline
        )  # fmt: skip
        self.calls.append(call)
        self._began(call)
        takes_s, kind = self._fate(prompt, model, times, now)
        self._point("call begins", boot)
        return call, takes_s, kind

    def end(self, call: Call, how: str) -> None:
        call.ended_at, call.how = call.boot.clock.monotonic(), how
        if how != "closed":
            self._point("call ends", call.boot)

    def lose(self, boot: Any, now: float) -> None:
        """Its process is gone."""
        for call in self.calls:
            if call.boot is boot and call.how == "running":
                call.ended_at, call.how = now, "lost"


class SimUpstream:
    """Implements `theo_workers.upstream.Upstream`."""

    provider = "scripted"

    def __init__(self, providers: Providers, boot: Any, model: str) -> None:
        self._providers, self._boot, self._model = providers, boot, model

    async def generate(self, request: Request, *, deadline: float, on_delta: DeltaSink | None) -> Completion:
        content = request.messages[-1].content
        assert isinstance(content, str)
        providers, clock = self._providers, self._boot.clock
        call, takes_s, kind = providers.begin(self._boot, self._model, content, deadline)
        try:
            if on_delta is not None:
                await self._stream(call, takes_s, on_delta)
            ends_at = FOREVER if kind == "hang" else call.started_at + takes_s
            await sleep_until(clock, min(ends_at, deadline))
        except asyncio.CancelledError:
            providers.end(call, "closed")
            raise
        if ends_at >= deadline:
            providers.end(call, "hang")
            raise ProviderTimeout("no answer in time", provider=self.provider)
        providers.end(call, kind or "ok")
        if kind in FAILURES:
            error = FAILURES[kind]()
            raise error
        tokens = ANSWER_TOKENS * (1_000 if kind == "overbilled" else 1)
        return Completion(
            output=call.output,
            finish_reason="length" if kind == "length" else "stop",
            usage=Usage(prompt_tokens=PROMPT_TOKENS, completion_tokens=tokens),
        )

    async def _stream(self, call: Call, takes_s: float, on_delta: DeltaSink) -> None:
        """The text in pieces, the last of which comes with the end."""
        size = -(-len(call.output) // DELTAS)
        for number in range(DELTAS):
            moment = call.started_at + takes_s * (number + 1) / (DELTAS + 1)
            if moment >= call.deadline:
                return
            await sleep_until(self._boot.clock, moment)
            on_delta(call.output[number * size : (number + 1) * size])

    async def close(self) -> None:
        """Nothing is held."""
