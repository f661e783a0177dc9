"""One streamed answer of OpenAI's Responses format, put together event by event. Pure."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from theo_workers.errors import UpstreamError
from theo_workers.messages import Completion
from theo_workers.texts import clean
from theo_workers.upstreams.complaint import complaint_of
from theo_workers.upstreams.gathered import Gathered
from theo_workers.upstreams.indexed import MOST_PARTS, TOO_MANY
from theo_workers.upstreams.origin import Origin
from theo_workers.upstreams.refusals import refusal_in_answer
from theo_workers.upstreams.responses_answer import Item, ResponseObject, completed, spoken
from theo_workers.upstreams.retained import TOO_MUCH, Retained
from theo_workers.upstreams.sse import SseEvent


class _Event(Struct):
    type: str | None = None
    delta: Any = None
    item: Item | None = None
    response: ResponseObject | None = None
    error: Any = None


_BEFORE_WORK = frozenset({"response.created", "response.queued", "response.in_progress", "error"})
_TERMINAL = frozenset({"response.completed", "response.incomplete", "response.failed", "response.cancelled"})

_decoder = msgspec.json.Decoder(_Event)
_any_decoder = msgspec.json.Decoder()


class ResponsesStream:
    """Assembles the answer. The last event tells it whole once more; its text is what was delivered."""

    def __init__(self, origin: Origin, *, identity: str | None, mark: str | None = None) -> None:
        self._origin, self._identity, self._mark = origin, identity, mark
        self._texts = Gathered()
        self._items: list[Item] = []
        self._response: ResponseObject | None = None
        self._begun = False
        self._retained = Retained()
        self.kept = 0
        self.done = False

    @property
    def sufficient(self) -> bool:
        """The answer is whole, even if the connection ends badly from here."""
        return self.done

    def feed(self, event: SseEvent) -> str:
        """Text that the event adds, often none. Raises UpstreamError for an error in the stream."""
        if event.data == b"[DONE]":  # some compatible servers add it
            return ""
        told = self._origin.decode(_decoder, event.data)
        self._begun = self._begun or told.type not in _BEFORE_WORK
        if told.type == "response.output_text.delta":
            return self._say(told.delta)
        if told.type == "response.output_item.done" and told.item is not None:
            if len(self._items) >= MOST_PARTS:
                raise self._origin.garbage(TOO_MANY, provider_request_id=self._identity)
            if self._retained.too_much(event.data):
                raise self._origin.garbage(TOO_MUCH, provider_request_id=self._identity)
            self._items.append(told.item)
            self.kept += len(event.data)
        elif told.type in _TERMINAL and told.response is not None:
            self._response, self.done = told.response, True
            self.kept += len(event.data)
            return self._rest(told.response)
        elif told.type == "error" or told.error:
            raise self._failed(event.data)
        return ""

    def finish(self) -> Completion:
        """The answer. Raises ProviderUnavailable when the stream ended without a terminal event."""
        if self._response is None:
            raise self._origin.garbage(
                "the stream ended in the middle of the answer" if self._begun else "the stream was empty",
                provider_request_id=self._identity,
            )
        return completed(
            self._origin,
            self._response,
            self._response.output or self._items,
            identity=self._identity,
            mark=self._mark,
            text=self._texts.whole() if self._texts else None,
        )

    def _rest(self, response: ResponseObject) -> str:
        """Text that the last event brings and no delta did, as from servers that send none."""
        said = clean(spoken(response.output or ())[0])
        if self._texts.size >= len(said):
            return ""
        delivered = self._texts.so_far()
        return self._say(said[len(delivered) :]) if said.startswith(delivered) else ""

    def _say(self, delta: Any) -> str:
        if not isinstance(delta, str) or not delta:
            return ""
        text = clean(delta)
        self._texts.add(text)
        self.kept += len(text)
        return text

    def _failed(self, data: bytes) -> UpstreamError:
        complaint = complaint_of(self._origin.decode(_any_decoder, data))
        return refusal_in_answer(
            self._origin, complaint, begun=self._begun, provider_request_id=self._identity
        )
