"""A wire format into which requests are translated from OpenAI's chat form. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import msgspec

from theo_workers.errors import InvalidRequest, UpstreamError
from theo_workers.messages import Request
from theo_workers.upstreams.origin import Origin
from theo_workers.upstreams.params import UntranslatableError
from theo_workers.upstreams.refusals import refusal

Translation = Callable[..., dict[str, Any]]
"""From a request, with `model` and `max_output_tokens`, to the body as JSON's objects."""

_encoder = msgspec.json.Encoder()


class TranslatedFormat:
    """What such formats share: requests to bytes, and refusals."""

    translation: ClassVar[Translation]

    def __init__(self, origin: Origin, *, model: str, max_output_tokens: int | None = None) -> None:
        self._origin, self._model, self._max_output_tokens = origin, model, max_output_tokens

    def encode(self, request: Request) -> bytes:
        """The request's body. Raises InvalidRequest for what the format can't say.

        A configured `max_output_tokens` is sent as the cap, or lowers a higher one that was asked for:
        what money was held for must be the most that can be billed.
        """
        try:
            return _encoder.encode(self._body(request))
        except UntranslatableError as error:
            reason = str(error)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            reason = f"params or messages cannot be read: {error}"
        raise self._origin.error(InvalidRequest, reason)

    def amend(self, error: UpstreamError) -> bool:  # noqa: ARG002 - a word of the port
        """These formats have one word for each thing."""
        return False

    def forgetting(self, request: Request, error: UpstreamError) -> Request | None:  # noqa: ARG002
        """What Anthropic and Gemini signed is valid for every key."""
        return None

    def refusal(
        self, status: int, headers: Mapping[str, str], body: bytes | bytearray, *, now: float
    ) -> UpstreamError:
        """The error for an answer that is not 2xx; `now` is Unix seconds."""
        return refusal(self._origin, status, headers, body, now=now)

    def _body(self, request: Request) -> dict[str, Any]:
        translate = type(self).translation
        return translate(request, model=self._model, max_output_tokens=self._max_output_tokens)
