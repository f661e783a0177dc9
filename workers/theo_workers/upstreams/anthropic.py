"""Provider `anthropic`: the Messages format at Anthropic and at servers that speak it."""

from __future__ import annotations

from theo_workers.clock import Clock
from theo_workers.model_spec import ModelSpec
from theo_workers.upstreams.anthropic_messages import AnthropicMessages
from theo_workers.upstreams.endpoint import base_url_of, key_of, open_endpoint, origin_of
from theo_workers.upstreams.http_upstream import HttpUpstream
from theo_workers.upstreams.room import Room

BASE_URL = "https://api.anthropic.com/v1"
VERSION = "2023-06-01"


class AnthropicUpstream(HttpUpstream):
    """One model behind a Messages endpoint. Raises ConfigError where it cannot work."""

    def __init__(self, spec: ModelSpec, clock: Clock, room: Room | None = None) -> None:
        base, origin, key = base_url_of(spec, BASE_URL), origin_of(spec), key_of(spec)
        wire = AnthropicMessages(origin, model=spec.model, max_output_tokens=spec.max_output_tokens)
        auth = {"anthropic-version": VERSION, **({"x-api-key": key} if key is not None else {})}
        endpoint = open_endpoint(spec, base, "messages", auth, origin=origin, clock=clock, room=room)
        super().__init__(origin, wire, endpoint, clock)
