"""What one provider's wire format has to offer; everything behind it is pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from theo_workers.errors import UpstreamError
from theo_workers.messages import Completion, Request
from theo_workers.upstreams.sse import SseEvent

Headers = Mapping[str, str]
"""A response's headers; names are looked up in lower case, whatever case they came in."""


class StreamedAnswer(Protocol):
    """Assembles one streamed answer."""

    done: bool
    """The terminal event came."""

    kept: int
    """Characters that it holds of the answer, more or less."""

    @property
    def sufficient(self) -> bool:
        """The answer is whole, even if the connection ends badly from here."""

    def feed(self, event: SseEvent) -> str:
        """Text that the event adds, often none. Raises UpstreamError for an error in the stream."""

    def finish(self) -> Completion:
        """The whole answer. Raises UpstreamError when it is not whole, or was withheld."""


class WireFormat(Protocol):
    """Encodes one model's requests and decodes its answers."""

    def encode(self, request: Request) -> bytes:
        """The body to post. Raises InvalidRequest."""

    def decode(self, headers: Headers, body: bytes | bytearray) -> Completion:
        """A 2xx body. Raises UpstreamError."""

    def refusal(self, status: int, headers: Headers, body: bytes | bytearray, *, now: float) -> UpstreamError:
        """The error for another status; `now` is Unix seconds."""

    def amend(self, error: UpstreamError) -> bool:
        """Was the request refused for a word of ours that has another, or can be left unsaid?

        From then on requests say it otherwise. What a job asked for is never left out.
        """

    def forgetting(self, request: Request, error: UpstreamError) -> Request | None:
        """The request without what an earlier answer gave to be sent back, if it was refused for that; else None.

        So it is None for what this gave back itself.
        """

    def stream(self, headers: Headers) -> StreamedAnswer:
        """What assembles one streamed answer."""
