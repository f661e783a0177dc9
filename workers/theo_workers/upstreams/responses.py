"""OpenAI's Responses format: requests to bytes, bytes to completions. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from theo_workers.messages import Completion
from theo_workers.upstreams.refusals import call_id
from theo_workers.upstreams.responses_answer import ResponseObject, completed
from theo_workers.upstreams.responses_request import responses_body
from theo_workers.upstreams.responses_stream import ResponsesStream
from theo_workers.upstreams.translated import TranslatedFormat

_decoder = msgspec.json.Decoder(ResponseObject)


class Responses(TranslatedFormat):
    """One model's requests and answers in this format."""

    translation = staticmethod(responses_body)

    def decode(self, headers: Mapping[str, str], body: bytes | bytearray) -> Completion:
        """A 2xx body as a completion. Raises UpstreamError for errors, refusals and garbage inside it."""
        told = self._origin.decode(_decoder, body)
        return completed(self._origin, told, told.output, identity=call_id(headers))

    def stream(self, headers: Mapping[str, str]) -> ResponsesStream:
        """What assembles one streamed answer."""
        return ResponsesStream(self._origin, identity=call_id(headers))
