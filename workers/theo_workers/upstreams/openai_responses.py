"""Provider `openai_responses`: the Responses format at OpenAI, Azure, and compatible servers."""

from __future__ import annotations

from theo_workers.clock import Clock
from theo_workers.messages import Completion, DeltaSink, Request
from theo_workers.model_spec import ModelSpec
from theo_workers.upstreams.endpoint import base_url_of, bearer_of, open_endpoint, origin_of
from theo_workers.upstreams.http_upstream import HttpUpstream
from theo_workers.upstreams.openai import BASE_URL
from theo_workers.upstreams.responses import Responses
from theo_workers.upstreams.room import Room


class OpenAIResponsesUpstream(HttpUpstream):
    """One model behind a Responses endpoint. Raises ConfigError where it cannot work."""

    def __init__(self, spec: ModelSpec, clock: Clock, room: Room | None = None) -> None:
        base, origin = base_url_of(spec, BASE_URL), origin_of(spec)
        self._responses = wire = Responses(
            origin, model=spec.model, max_output_tokens=spec.max_output_tokens, host=base.host or ""
        )
        endpoint = open_endpoint(
            spec, base, "responses", bearer_of(spec, base), origin=origin, clock=clock, room=room
        )
        super().__init__(origin, wire, endpoint, clock)

    async def generate(self, request: Request, *, deadline: float, on_delta: DeltaSink | None) -> Completion:
        """See `HttpUpstream.generate`."""
        completion = await super().generate(request, deadline=deadline, on_delta=on_delta)
        return self._responses.ended(request, completion)
