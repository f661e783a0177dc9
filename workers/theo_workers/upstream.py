"""The port to a provider: one request in, one completion out."""

from __future__ import annotations

from typing import Protocol

from theo_workers.messages import Completion, DeltaSink, Request


class Upstream(Protocol):
    """One model at one endpoint with one credential."""

    @property
    def provider(self) -> str:
        """The provider's name as replies and metrics show it."""

    @property
    def amendments(self) -> int:
        """Requests refused for a parameter's name or for reasoning that went back, and sent again at once."""

    async def generate(self, request: Request, *, deadline: float, on_delta: DeltaSink | None) -> Completion:
        """Ask the model; `deadline` is monotonic seconds of the injected clock.

        `on_delta` is given if and only if `request.stream`; it receives the text piece by piece. Raises
        UpstreamError (any leaf) and nothing else of its own making. Cancelling the task closes the
        connection; the provider may bill all the same.
        """

    async def close(self) -> None:
        """Release connections. Idempotent."""
