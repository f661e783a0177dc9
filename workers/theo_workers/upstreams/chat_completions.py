"""OpenAI's Chat Completions format, plain answers: requests to bytes, bytes to completions. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct
from msgspec.structs import replace

from theo_workers.errors import InvalidRequest, UpstreamError
from theo_workers.messages import Completion, Message, Request
from theo_workers.upstreams.answer import completion
from theo_workers.upstreams.chat_stream import ChatStream
from theo_workers.upstreams.chat_words import joined_text, read_usage
from theo_workers.upstreams.complaint import complaint_of
from theo_workers.upstreams.origin import Origin, request_id
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
        openai_host: bool = False,
        google_host: bool = False,
        max_output_tokens: int | None = None,
    ) -> None:
        self._origin = origin
        self._model = model
        self._max_output_tokens = max_output_tokens
        self._google_host = google_host
        self._renames_cap = openai_host and _THINKS.match(model) is not None

    def encode(self, request: Request) -> bytes:
        """The request's body. Raises InvalidRequest for params that cannot be sent.

        A configured `max_output_tokens` is sent as the cap, or lowers a higher one that was asked for:
        what money was held for must be the most that can be billed.
        """
        params = request.params
        if params and not _OWN.isdisjoint(params):
            names = ", ".join(sorted(_OWN.intersection(params)))
            raise self._origin.error(InvalidRequest, f"params may not set {names}")
        body: dict[str, Any] = {"model": self._model, "messages": self._said(request.messages), **params}
        if self._renames_cap and "max_tokens" in body and "max_completion_tokens" not in body:
            body["max_completion_tokens"] = body.pop("max_tokens")
        if self._max_output_tokens is not None:
            self._bound(body, self._max_output_tokens)
        if request.stream:
            body["stream"] = True
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
        calls = message.tool_calls
        if not calls and message.function_call:
            calls = [{"id": "call_0", "type": "function", "function": message.function_call}]
        return completion(
            self._origin,
            text=joined_text(message.content),
            refused=message.refusal,
            finish=choice.finish_reason,
            calls=calls,
            usage=usage,
            identity=identity,
        )

    def refusal(
        self, status: int, headers: Mapping[str, str], body: bytes | bytearray, *, now: float
    ) -> UpstreamError:
        """The error for an answer that is not 2xx; `now` is Unix seconds."""
        return refusal(self._origin, status, headers, body, now=now)

    def stream(self, headers: Mapping[str, str]) -> ChatStream:
        """What assembles one streamed answer."""
        return ChatStream(self._origin, identity=call_id(headers))

    def _said(self, messages: tuple[Message, ...]) -> Sequence[Message]:
        """The messages, without what Gemini and Anthropic gave us to be sent back to them with their calls."""
        if all(message.tool_calls is UNSET for message in messages):
            return messages
        theirs = ("google",) if self._google_host else ()
        return [
            message
            if message.tool_calls is UNSET
            else replace(message, tool_calls=[_returned(call, theirs) for call in message.tool_calls])
            for message in messages
        ]

    def _bound(self, body: dict[str, Any], most: int) -> None:
        asked = [name for name in _CAPS if body.get(name) is not None]
        for name in asked:
            if isinstance(body[name], int | float):
                body[name] = min(body[name], most)
        if not asked:
            body["max_completion_tokens" if self._renames_cap else "max_tokens"] = most


def _returned(call: dict[str, Any], theirs: tuple[str, ...]) -> dict[str, Any]:
    """The call with what this provider gave us with it, and nothing that another one did."""
    extra = call.get("extra_content")
    if extra is None:
        return call
    kept = {name: extra[name] for name in theirs if isinstance(extra, dict) and name in extra}
    return {
        **{k: v for k, v in call.items() if k != "extra_content"},
        **({"extra_content": kept} if kept else {}),
    }
