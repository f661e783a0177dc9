"""One streamed answer of Gemini's streamGenerateContent, put together event by event. Pure."""

from __future__ import annotations

import msgspec

from theo_workers.errors import UpstreamError
from theo_workers.messages import Completion
from theo_workers.texts import clean
from theo_workers.upstreams.answer import latest
from theo_workers.upstreams.complaint import complaint_of
from theo_workers.upstreams.gathered import Gathered
from theo_workers.upstreams.gemini_answer import (
    Candidate,
    Chunk,
    Part,
    PromptFeedback,
    UsageTold,
    blocked,
    completed,
    read_usage,
    text_of,
    usage_told,
)
from theo_workers.upstreams.indexed import MOST_PARTS, TOO_MANY
from theo_workers.upstreams.origin import Origin, request_id
from theo_workers.upstreams.refusals import refusal_in_answer
from theo_workers.upstreams.retained import TOO_MUCH, Retained
from theo_workers.upstreams.sse import SseEvent

_decoder = msgspec.json.Decoder(Chunk)


class GeminiStream:
    """Assembles the answer. There is no terminal event: the reason to finish says that it is whole."""

    done = False

    def __init__(self, origin: Origin, *, identity: str | None) -> None:
        self._origin, self._identity = origin, identity
        self._texts = Gathered()
        self._calls: list[Part] = []
        self._finish: str | None = None
        self._blocked: PromptFeedback | None = None
        self._told = UsageTold()
        self._begun = False
        self._retained = Retained()
        self.kept = 0

    @property
    def sufficient(self) -> bool:
        """The answer is whole, even if the connection ends badly from here."""
        return self._finish is not None or self._blocked is not None

    def feed(self, event: SseEvent) -> str:
        """Text that the event adds, often none. Raises UpstreamError for an error in the stream."""
        chunk = self._origin.decode(_decoder, event.data)
        if self._identity is None and isinstance(chunk.response_id, str):
            self._identity = request_id(chunk.response_id)
        if chunk.usage_metadata:  # they grow, and not every one says everything
            self._told = latest(self._told, usage_told(chunk.usage_metadata))
        if chunk.error:
            error = refusal_in_answer(
                self._origin, complaint_of(chunk.error), begun=self._begun, provider_request_id=self._identity
            )
            error.usage = read_usage(self._told)
            raise error
        if chunk.prompt_feedback is not None and chunk.prompt_feedback.block_reason:
            self._blocked = chunk.prompt_feedback
        return self._take(chunk.candidates[0], event.data) if chunk.candidates else ""

    def finish(self) -> Completion:
        """The answer. Raises ProviderUnavailable when the stream ended without a reason to finish."""
        usage = read_usage(self._told)
        if self._blocked is not None:
            raise blocked(self._origin, self._blocked, usage, self._identity)
        if self._finish is None:
            raise self._garbage(
                "the stream ended in the middle of the answer" if self._begun else "the stream was empty"
            )
        return completed(
            self._origin,
            self._calls,
            text=self._texts.whole(),
            finish=self._finish,
            usage=usage,
            identity=self._identity,
        )

    def _take(self, candidate: Candidate, data: bytes) -> str:
        self._begun = True
        self._finish = candidate.finish_reason or self._finish
        if candidate.content is None or not candidate.content.parts:
            return ""
        parts = candidate.content.parts
        calls = [part for part in parts if part.function_call is not None]
        if calls:
            if len(self._calls) + len(calls) > MOST_PARTS:
                raise self._garbage(TOO_MANY)
            if self._retained.too_much(data):
                raise self._garbage(TOO_MUCH)
            self._calls += calls
            self.kept += len(data)
        text = clean(text_of(parts))
        if text:
            self._texts.add(text)
            self.kept += len(text)
        return text

    def _garbage(self, what: str) -> UpstreamError:
        return self._origin.garbage(what, provider_request_id=self._identity, usage=read_usage(self._told))
