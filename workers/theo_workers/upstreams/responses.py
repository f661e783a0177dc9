"""OpenAI's Responses format: requests to bytes, bytes to completions. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from theo_workers.errors import UpstreamError
from theo_workers.messages import Completion, Request
from theo_workers.upstreams.chat_dialects import PLAIN, dialect_of
from theo_workers.upstreams.origin import Origin
from theo_workers.upstreams.params import take_cap
from theo_workers.upstreams.refusals import call_id
from theo_workers.upstreams.responses_answer import ResponseObject, completed
from theo_workers.upstreams.responses_reasoning import asking, forgetting, is_asked_of, mark_of
from theo_workers.upstreams.responses_request import CAP, responses_body
from theo_workers.upstreams.responses_stream import ResponsesStream
from theo_workers.upstreams.translated import TranslatedFormat

_decoder = msgspec.json.Decoder(ResponseObject)


class Responses(TranslatedFormat):
    """One model's requests and answers in this format."""

    def __init__(
        self, origin: Origin, *, model: str, max_output_tokens: int | None = None, host: str = ""
    ) -> None:
        super().__init__(origin, model=model, max_output_tokens=max_output_tokens)
        self._mark = mark_of(host, model)
        self._says_when_cut = dialect_of(host) is not PLAIN
        self._may_ask = self._asks = is_asked_of(host, model)

    def decode(self, headers: Mapping[str, str], body: bytes | bytearray) -> Completion:
        """A 2xx body as a completion. Raises UpstreamError for errors, refusals and garbage inside it."""
        told = self._origin.decode(_decoder, body)
        return completed(self._origin, told, told.output, identity=call_id(headers), mark=self._mark)

    def ended(self, request: Request, completion: Completion) -> Completion:
        """With the reason to finish that its tokens tell: llama.cpp says `completed` of what it cut, too.

        An answer that ended by itself with its very last token counts as cut, as nobody could tell the two apart.
        """
        usage = completion.usage
        if self._says_when_cut or completion.finish_reason != "stop" or usage is None:
            return completion
        cap = take_cap(dict(request.params), self._max_output_tokens, CAP)
        if not isinstance(cap, int | float) or usage.completion_tokens < cap:
            return completion
        return replace(completion, finish_reason="length")

    def amend(self, error: UpstreamError) -> bool:
        """`include` is asked for by us, of a model whose name alone does not tell whether it knows it."""
        if error.parameter != "include" or not self._may_ask:
            return False
        self._asks = False
        return True

    def forgetting(self, request: Request, error: UpstreamError) -> Request | None:
        """Sealed reasoning can be read with the keys of one organization only."""
        return forgetting(request, error, self._mark)

    def stream(self, headers: Mapping[str, str]) -> ResponsesStream:
        """What assembles one streamed answer."""
        return ResponsesStream(self._origin, identity=call_id(headers), mark=self._mark)

    def _body(self, request: Request) -> dict[str, Any]:
        body = responses_body(
            request, model=self._model, max_output_tokens=self._max_output_tokens, mark=self._mark
        )
        if self._asks:
            asking(body)
        return body
