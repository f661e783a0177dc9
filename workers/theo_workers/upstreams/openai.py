"""Provider `openai`: Chat Completions at OpenAI, Azure, and every server that speaks the same format."""

from __future__ import annotations

from theo_workers.clock import Clock
from theo_workers.model_spec import ModelSpec
from theo_workers.upstreams.chat_completions import ChatCompletions
from theo_workers.upstreams.chat_dialects import dialect_of
from theo_workers.upstreams.endpoint import base_url_of, bearer_of, open_endpoint, origin_of
from theo_workers.upstreams.http_upstream import HttpUpstream
from theo_workers.upstreams.room import Room

BASE_URL = "https://api.openai.com/v1"


class OpenAIUpstream(HttpUpstream):
    """One model behind a Chat Completions endpoint. Raises ConfigError where it cannot work."""

    def __init__(
        self, spec: ModelSpec, clock: Clock, room: Room | None = None, *, default_base_url: str = BASE_URL
    ) -> None:
        base, origin = base_url_of(spec, default_base_url), origin_of(spec)
        wire = ChatCompletions(
            origin,
            model=spec.model,
            dialect=dialect_of(base.host or ""),
            max_output_tokens=spec.max_output_tokens,
        )
        auth = bearer_of(spec, base)
        endpoint = open_endpoint(spec, base, "chat/completions", auth, origin=origin, clock=clock, room=room)
        super().__init__(origin, wire, endpoint, clock)
