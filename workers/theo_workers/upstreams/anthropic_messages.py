"""Anthropic's Messages format: requests to bytes, bytes to completions. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw, Struct

from theo_workers.messages import Completion
from theo_workers.upstreams.anthropic_answer import Block, completed, read_usage, usage_told
from theo_workers.upstreams.anthropic_request import anthropic_body
from theo_workers.upstreams.anthropic_stream import AnthropicStream
from theo_workers.upstreams.complaint import complaint_of
from theo_workers.upstreams.origin import request_id
from theo_workers.upstreams.refusals import call_id, refusal_in_answer
from theo_workers.upstreams.translated import TranslatedFormat


class _Answer(Struct):
    id: Any = None
    content: list[Block] | None = None
    stop_reason: str | None = None
    usage: Raw = Raw()
    error: Any = None


_decoder = msgspec.json.Decoder(_Answer)


class AnthropicMessages(TranslatedFormat):
    """One model's requests and answers in this format."""

    translation = staticmethod(anthropic_body)

    def decode(self, headers: Mapping[str, str], body: bytes | bytearray) -> Completion:
        """A 2xx body as a completion. Raises UpstreamError for errors, refusals and garbage inside it."""
        told = self._origin.decode(_decoder, body)
        identity = call_id(headers) or (request_id(told.id) if isinstance(told.id, str) else None)
        if told.error:
            raise refusal_in_answer(
                self._origin, complaint_of(told.error), begun=False, provider_request_id=identity
            )
        usage = read_usage(usage_told(told.usage))
        if told.content is None:
            raise self._origin.garbage("the answer has no content", provider_request_id=identity, usage=usage)
        return completed(
            self._origin, told.content, stop_reason=told.stop_reason, usage=usage, identity=identity
        )

    def stream(self, headers: Mapping[str, str]) -> AnthropicStream:
        """What assembles one streamed answer."""
        return AnthropicStream(self._origin, identity=call_id(headers))
