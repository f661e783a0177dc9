"""OpenAI's Chat Completions format, plain answers: requests to bytes, bytes to completions. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw, Struct

from theo_workers.errors import InvalidRequest, UpstreamError
from theo_workers.messages import Completion, Request
from theo_workers.upstreams.answer import completion
from theo_workers.upstreams.chat_dialects import PLAIN, Dialect
from theo_workers.upstreams.chat_history import keeping, said
from theo_workers.upstreams.chat_stream import ChatStream
from theo_workers.upstreams.chat_words import joined_text, read_usage
from theo_workers.upstreams.complaint import complaint_of
from theo_workers.upstreams.origin import Origin, request_id
from theo_workers.upstreams.params import UntranslatableError
from theo_workers.upstreams.refusals import call_id, refusal, refusal_in_answer

_OWN = frozenset({"model", "messages", "stream", "stream_options", "n"})
_CAPS = ("max_completion_tokens", "max_tokens")

# OpenAI's models that think refuse `max_tokens`; elsewhere it is the name that every server knows.
_THINKS = re.compile(r"(?:ft:|openai/)?(?:o[1-9]|gpt-[5-9]|gpt-\d\d|codex|computer-use)")


class _Message(Struct):
    content: str | list[Any] | None = None
    refusal: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    function_call: dict[str, Any] | None = None
    reasoning_content: Any = None
    reasoning_details: Any = None  # OpenRouter


class _Choice(Struct):
    message: _Message | None = None
    finish_reason: str | None = None
    error: Any = None


class _Answer(Struct):
    choices: list[_Choice] | None = None
    usage: Raw = Raw()
    error: Any = None
    id: Any = None


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Answer)


class ChatCompletions:
    """One model's requests and answers in this format."""

    def __init__(
        self,
        origin: Origin,
        *,
        model: str,
        dialect: Dialect = PLAIN,
        max_output_tokens: int | None = None,
    ) -> None:
        self._origin = origin
        self._model = model
        self._max_output_tokens = max_output_tokens
        self._dialect = dialect
        thinks = dialect.thinking_cap is not None and _THINKS.match(model) is not None
        self._cap: str | None = dialect.thinking_cap if thinks else dialect.cap
        self._asks_usage = True
        self._unknown_caps: set[str] = set()

    def encode(self, request: Request) -> bytes:
        """The request's body. Raises InvalidRequest for params and messages that cannot be sent.

        A configured `max_output_tokens` is sent as the cap, or lowers a higher one that was asked for:
        what money was held for must be the most that can be billed.
        """
        params = request.params
        if params and not _OWN.isdisjoint(params):
            names = ", ".join(sorted(_OWN.intersection(params)))
            raise self._origin.error(InvalidRequest, f"params may not set {names}")
        try:
            messages = said(request.messages, self._dialect)
        except UntranslatableError as error:
            raise self._origin.error(InvalidRequest, str(error)) from None
        body: dict[str, Any] = {"model": self._model, "messages": messages, **params}
        if params:
            self._rename(body)
        if self._max_output_tokens is not None:
            self._bound(body, self._max_output_tokens)
        if request.stream:
            body["stream"] = True
            if self._asks_usage:
                body["stream_options"] = {"include_usage": True}
        try:
            return _encoder.encode(body)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise self._origin.error(InvalidRequest, f"params or messages are not JSON: {error}") from None

    def decode(self, headers: Mapping[str, str], body: bytes | bytearray) -> Completion:
        """A 2xx body as a completion. Raises UpstreamError for errors, refusals and garbage inside it."""
        answer = self._origin.decode(_decoder, body)
        identity = call_id(headers) or (request_id(answer.id) if isinstance(answer.id, str) else None)
        choice = answer.choices[0] if answer.choices else None
        if error := answer.error or (choice and choice.error):
            raise refusal_in_answer(
                self._origin, complaint_of(error), begun=choice is not None, provider_request_id=identity
            )
        usage = read_usage(answer.usage)
        if choice is None or (message := choice.message) is None:
            raise self._origin.garbage("the answer has no choices", provider_request_id=identity, usage=usage)
        calls = keeping(self._dialect, message.tool_calls, getattr(message, self._dialect.reasoning_field))
        if not calls and message.function_call:
            calls = [{"type": "function", "function": message.function_call}]
        return completion(
            self._origin,
            text=joined_text(message.content),
            refused=message.refusal,
            finish=choice.finish_reason,
            calls=calls,
            usage=usage,
            identity=identity,
        )

    def amend(self, error: UpstreamError) -> bool:
        """The cap on the answer has two names, and `stream_options` is asked for by us alone."""
        name = error.parameter
        if name == "stream_options":
            self._asks_usage = False
        elif name not in _CAPS or (self._cap == name and name in self._unknown_caps):
            return False
        elif self._cap != (other := _CAPS[1 - _CAPS.index(name)]):
            self._cap = other  # else a call that ran at the same time has changed it
            self._unknown_caps.add(name)
        return True

    def forgetting(self, request: Request, error: UpstreamError) -> Request | None:  # noqa: ARG002
        """Reasoning is text here, or sealed for a host that knows whose it was."""
        return None

    def refusal(
        self, status: int, headers: Mapping[str, str], body: bytes | bytearray, *, now: float
    ) -> UpstreamError:
        """The error for an answer that is not 2xx; `now` is Unix seconds."""
        return refusal(self._origin, status, headers, body, now=now)

    def stream(self, headers: Mapping[str, str]) -> ChatStream:
        """What assembles one streamed answer."""
        return ChatStream(self._origin, identity=call_id(headers), dialect=self._dialect)

    def _rename(self, body: dict[str, Any]) -> None:
        if self._cap is not None:
            _rename_cap(body, self._cap)
        if "seed" in body and self._dialect.seed != "seed":
            body[self._dialect.seed] = body.pop("seed")

    def _bound(self, body: dict[str, Any], most: int) -> None:
        asked = [name for name in _CAPS if body.get(name) is not None]
        for name in asked:
            if isinstance(body[name], int | float):
                body[name] = min(body[name], most)
        if not asked:
            body[self._cap or _CAPS[1]] = most


def _rename_cap(body: dict[str, Any], name: str) -> None:
    """The cap under the name that this endpoint knows; of two the lower one holds for both."""
    asked = [body.pop(cap) for cap in _CAPS if body.get(cap) is not None]
    if asked:
        body[name] = min(asked) if all(isinstance(cap, int | float) for cap in asked) else asked[0]
