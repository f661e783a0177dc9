"""Provider `scripted`: answers from a script, for demonstrations, rehearsals and tests. It costs nothing."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from theo_workers.clock import Clock, sleep_until
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
from theo_workers.messages import Completion, DeltaSink, Message, Request, Usage
from theo_workers.upstreams.script import Fate, ScriptEnd

_LEAVES: dict[str, type[UpstreamError]] = {
    leaf.code: leaf
    for leaf in (
        InvalidRequest,
        ContextLengthExceeded,
        ContentFiltered,
        AuthenticationFailed,
        ProviderQuotaExhausted,
        RateLimited,
        ProviderUnavailable,
        ProviderTimeout,
    )
}
_ECHO = Fate()
_WORD = re.compile(r"\S+\s*|\s+")


class ScriptedUpstream:
    """Implements `theo_workers.upstream.Upstream`. Calls take the fates in the order in which they begin."""

    provider = "scripted"
    amendments = 0

    def __init__(
        self,
        clock: Clock,
        fates: Sequence[Fate] = (),
        *,
        end: ScriptEnd = "repeat_last",
        rng: random.Random | None = None,
    ) -> None:
        self._clock, self._fates, self._end, self._rng = clock, tuple(fates), end, rng
        self.calls = 0

    async def generate(self, request: Request, *, deadline: float, on_delta: DeltaSink | None) -> Completion:
        """See `Upstream.generate`. Waits by the injected clock; without a script it echoes at once."""
        fate = self._next()
        began = self._clock.monotonic()
        if fate.hang:
            await self._wait(deadline, deadline)
        latency_ms = fate.latency_ms + (self._rng.random() * fate.jitter_ms if self._rng is not None else 0.0)
        if latency_ms > 0:
            await self._wait(began + latency_ms / 1_000, deadline)
        text = fate.text if fate.text is not None else "".join(fate.chunks)
        if fate.error is None and fate.text is None and not fate.chunks:
            text = _last_user_text(request.messages)
        first_token_ms = None
        if request.stream:
            first_token_ms = (self._clock.monotonic() - began) * 1_000 if text else None
            await self._stream(fate, text, on_delta, deadline)
        if fate.error is not None:
            raise self._failure(fate, fate.error)
        return Completion(
            output=text,
            finish_reason=fate.finish_reason,
            usage=_usage(fate, request.messages, text),
            first_token_ms=first_token_ms,
        )

    async def close(self) -> None:
        """Nothing to release."""

    def _next(self) -> Fate:
        index, self.calls = self.calls, self.calls + 1
        if not self._fates:
            return _ECHO
        if self._end == "cycle":
            return self._fates[index % len(self._fates)]
        return self._fates[min(index, len(self._fates) - 1)]

    async def _wait(self, until: float, deadline: float) -> None:
        await sleep_until(self._clock, min(until, deadline))
        if until >= deadline:
            raise ProviderTimeout("no answer in time", provider=self.provider)

    async def _stream(self, fate: Fate, text: str, on_delta: DeltaSink | None, deadline: float) -> None:
        for number, piece in enumerate(fate.chunks or _WORD.findall(text)):
            if number and fate.chunk_interval_ms > 0:
                await self._wait(self._clock.monotonic() + fate.chunk_interval_ms / 1_000, deadline)
            if on_delta is not None:
                on_delta(piece)

    def _failure(self, fate: Fate, code: str) -> UpstreamError:
        return _LEAVES[code](
            fate.message if fate.message is not None else "scripted failure",
            provider=self.provider,
            status_code=fate.status_code,
            retry_after_s=fate.retry_after_s,
            failure=fate.failure,
        )


def _usage(fate: Fate, messages: Sequence[Message], text: str) -> Usage:
    asked = fate.prompt_tokens
    if asked is None:
        asked = sum(len(_text(message).split()) for message in messages)
    answered = fate.completion_tokens if fate.completion_tokens is not None else len(text.split())
    return Usage(prompt_tokens=asked, completion_tokens=answered)


def _last_user_text(messages: Sequence[Message]) -> str:
    return next((_text(message) for message in reversed(messages) if message.role == "user"), "")


def _text(message: Message) -> str:
    if isinstance(message.content, list):
        texts = (part.get("text") for part in message.content)
        return "".join(text for text in texts if isinstance(text, str))
    return message.content or ""
