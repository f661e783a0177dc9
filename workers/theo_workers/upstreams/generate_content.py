"""Gemini's generateContent format: requests to bytes, bytes to completions. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from theo_workers.messages import Completion
from theo_workers.upstreams.complaint import complaint_of
from theo_workers.upstreams.gemini_answer import Chunk, blocked, completed, read_usage, text_of, usage_told
from theo_workers.upstreams.gemini_request import gemini_body
from theo_workers.upstreams.gemini_stream import GeminiStream
from theo_workers.upstreams.origin import request_id
from theo_workers.upstreams.refusals import call_id, refusal_in_answer
from theo_workers.upstreams.translated import TranslatedFormat

_decoder = msgspec.json.Decoder(Chunk)


class GenerateContent(TranslatedFormat):
    """One model's requests and answers in this format. Whether to stream is in the URL, not in the body."""

    translation = staticmethod(gemini_body)

    def decode(self, headers: Mapping[str, str], body: bytes | bytearray) -> Completion:
        """A 2xx body as a completion. Raises UpstreamError for errors, refusals and garbage inside it."""
        told = self._origin.decode(_decoder, body)
        identity = call_id(headers) or (
            request_id(told.response_id) if isinstance(told.response_id, str) else None
        )
        usage = read_usage(usage_told(told.usage_metadata))
        if told.error:
            raise refusal_in_answer(
                self._origin, complaint_of(told.error), begun=False, provider_request_id=identity
            )
        if told.prompt_feedback is not None and told.prompt_feedback.block_reason:
            raise blocked(self._origin, told.prompt_feedback, usage, identity)
        if not told.candidates:
            raise self._origin.garbage(
                "the answer has no candidates", provider_request_id=identity, usage=usage
            )
        candidate = told.candidates[0]
        parts = candidate.content.parts or [] if candidate.content is not None else []
        return completed(
            self._origin,
            parts,
            text=text_of(parts),
            finish=candidate.finish_reason,
            usage=usage,
            identity=identity,
        )

    def stream(self, headers: Mapping[str, str]) -> GeminiStream:
        """What assembles one streamed answer."""
        return GeminiStream(self._origin, identity=call_id(headers))
