"""One streamed chat answer, put together event by event. Pure."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from theo_workers.errors import UpstreamError
from theo_workers.messages import Completion, Usage
from theo_workers.texts import clean
from theo_workers.upstreams.answer import completion
from theo_workers.upstreams.chat_dialects import Dialect
from theo_workers.upstreams.chat_history import keeping
from theo_workers.upstreams.chat_words import joined_text, read_usage
from theo_workers.upstreams.complaint import complaint_of
from theo_workers.upstreams.gathered import Gathered
from theo_workers.upstreams.indexed import TOO_MANY, Indexed
from theo_workers.upstreams.origin import Origin, request_id
from theo_workers.upstreams.reasoning_details import Details
from theo_workers.upstreams.refusals import refusal_in_answer
from theo_workers.upstreams.retained import TOO_MUCH, Retained
from theo_workers.upstreams.sse import SseEvent

_ABSENT = Raw()


class _Delta(Struct):
    content: str | list[Any] | None = None
    refusal: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    reasoning_content: Any = None
    reasoning_details: Any = None  # OpenRouter


class _Choice(Struct):
    index: int | None = 0
    delta: _Delta | None = None
    finish_reason: str | None = None
    error: Any = None
    usage: Raw = _ABSENT  # Moonshot


class _GroqPart(Struct):
    usage: Raw = _ABSENT


class _Chunk(Struct):
    choices: list[_Choice] | None = None
    usage: Raw = _ABSENT
    error: Any = None
    id: Any = None
    x_groq: _GroqPart | None = None


_decoder = msgspec.json.Decoder(_Chunk)
_any_decoder = msgspec.json.Decoder()


class ChatStream:
    """Assembles the answer. `feed` gives back each piece of text; `finish` the whole completion."""

    def __init__(self, origin: Origin, *, identity: str | None, dialect: Dialect) -> None:
        self._origin = origin
        self._identity = identity
        self._dialect = dialect
        self._thoughts, self._details, self._texts = Gathered(), Details(), Gathered()
        self._refusals: list[str] = []
        self._calls: Indexed[_CallParts] = Indexed()
        self._finish: str | None = None
        self._usage: Usage | None = None
        self._seen_choice = False
        self._retained = Retained()
        self.kept = 0
        self.done = False  # the terminal event came: nothing more will

    @property
    def sufficient(self) -> bool:
        """The answer is whole, even if the connection ends badly from here."""
        return self.done or self._finish is not None

    def feed(self, event: SseEvent) -> str:
        """Text that the event adds, often none. Raises UpstreamError for an error in the stream, or too much in it."""
        if event.data == b"[DONE]":
            self.done = True
            return ""
        if event.event == b"error":
            raise self._failed(self._origin.decode(_any_decoder, event.data))
        chunk = self._origin.decode(_decoder, event.data)
        if self._identity is None and isinstance(chunk.id, str):
            self._identity = request_id(chunk.id)
        if chunk.x_groq is not None:
            self._usage = read_usage(chunk.x_groq.usage) or self._usage
        if chunk.usage:
            self._usage = read_usage(chunk.usage) or self._usage
        if chunk.error:
            raise self._failed(chunk.error)
        # Azure's first chunk and most usage chunks have no choices.
        return self._take(chunk.choices[0], event.data) if chunk.choices else ""

    def finish(self) -> Completion:
        """The answer. Raises ProviderUnavailable when the stream ended without a terminal event."""
        if not self.sufficient or not (self._seen_choice or self._finish):
            raise self._origin.garbage(
                "the stream ended in the middle of the answer"
                if self._seen_choice
                else "the stream was empty",
                provider_request_id=self._identity,
                usage=self._usage,
            )
        return completion(
            self._origin,
            text=self._texts.whole(),
            refused="".join(self._refusals) or None,
            finish=self._finish,
            calls=keeping(
                self._dialect,
                [call.joined() for call in self._calls],
                self._thoughts.whole() or self._details.whole(),
            ),
            usage=self._usage,
            identity=self._identity,
        )

    def _take(self, choice: _Choice, data: bytes) -> str:
        if choice.index:
            return ""  # only one was asked for
        if choice.error:
            raise self._failed(choice.error)
        self._seen_choice = True
        if choice.usage:
            self._usage = read_usage(choice.usage) or self._usage
        if choice.finish_reason:
            self._finish = choice.finish_reason
        return "" if choice.delta is None else self._add(choice.delta, data)

    def _add(self, delta: _Delta, data: bytes) -> str:
        if delta.tool_calls or delta.refusal or self._dialect.reasoning is not None:
            self.kept += len(data)
        more = False
        for piece in delta.tool_calls or ():
            more |= self._call_of(piece).add(piece)
        if self._dialect.reasoning is not None:
            more |= self._think(delta)
        if more and self._retained.too_much(data):
            raise self._origin.garbage(TOO_MUCH, provider_request_id=self._identity, usage=self._usage)
        if delta.refusal:
            self._refusals.append(delta.refusal)
        text = clean(joined_text(delta.content))
        if text:
            self._texts.add(text)
            self.kept += len(text)
        return text

    def _think(self, delta: _Delta) -> bool:
        """Was there more than text?"""
        if self._dialect.reasoning_field == "reasoning_details":
            return self._details.add(delta.reasoning_details)
        if isinstance(delta.reasoning_content, str):
            self._thoughts.add(delta.reasoning_content)
        return False

    def _call_of(self, piece: dict[str, Any]) -> _CallParts:
        """The call that a piece continues, or a new one, which some servers begin under the same index."""
        index, identity = piece.get("index"), piece.get("id")
        call = self._calls.latest if index is None else self._calls.named(index)
        if call is not None and not (identity and call.identity and identity != call.identity):
            return call
        if self._calls.full:
            raise self._origin.garbage(TOO_MANY, provider_request_id=self._identity, usage=self._usage)
        return self._calls.begin(index, _CallParts())

    def _failed(self, told: Any) -> UpstreamError:
        error = refusal_in_answer(
            self._origin, complaint_of(told), begun=self._seen_choice, provider_request_id=self._identity
        )
        error.usage = self._usage
        return error


class _CallParts:
    """One tool call while its pieces arrive: everything from the first piece, arguments from all of them."""

    def __init__(self) -> None:
        self.identity: object = None
        self._first: dict[str, Any] = {}
        self._function: dict[str, Any] = {}
        self._arguments = Gathered()
        self._odd_arguments: Any = None  # the object itself, as of old Ollama

    def add(self, piece: dict[str, Any]) -> bool:
        """Was there anything new in it but arguments?"""
        before = len(self._first) + len(self._function)
        odd = False
        self.identity = self.identity or piece.get("id")
        for name, value in piece.items():
            if name != "function" and value not in (None, ""):
                self._first.setdefault(name, value)
        function = piece.get("function")
        if isinstance(function, dict):
            for name, value in function.items():
                if name == "arguments" and isinstance(value, str):
                    self._arguments.add(value)
                elif name == "arguments":
                    self._odd_arguments, odd = value or self._odd_arguments, True
                elif value not in (None, ""):
                    self._function.setdefault(name, value)
        return odd or len(self._first) + len(self._function) > before

    def joined(self) -> dict[str, Any]:
        whole = self._odd_arguments or self._arguments.whole()
        return {**self._first, "function": {**self._function, "arguments": whole}}
