"""Provider `gemini`: generateContent at Google's Gemini API, and at Vertex with its base_url and headers."""

from __future__ import annotations

from theo_workers.clock import Clock
from theo_workers.model_spec import ModelSpec
from theo_workers.upstreams.endpoint import base_url_of, key_of, open_endpoint, origin_of
from theo_workers.upstreams.generate_content import GenerateContent
from theo_workers.upstreams.http_upstream import HttpUpstream
from theo_workers.upstreams.room import Room

BASE_URL = "https://generativelanguage.googleapis.com/v1beta"


class GeminiUpstream(HttpUpstream):
    """One model behind generateContent. Raises ConfigError where it cannot work."""

    def __init__(self, spec: ModelSpec, clock: Clock, room: Room | None = None) -> None:
        base, origin, key = base_url_of(spec, BASE_URL), origin_of(spec), key_of(spec)
        wire = GenerateContent(origin, model=spec.model, max_output_tokens=spec.max_output_tokens)
        auth = {"x-goog-api-key": key} if key is not None else {}
        path = spec.model if "/" in spec.model else f"models/{spec.model}"
        plain = open_endpoint(
            spec, base, f"{path}:generateContent", auth, origin=origin, clock=clock, room=room
        )
        events = base.update_query(alt="sse")  # without it the stream is one JSON array
        streamed = open_endpoint(
            spec, events, f"{path}:streamGenerateContent", auth, origin=origin, clock=clock, room=room
        )
        super().__init__(origin, wire, plain, clock, streamed=streamed)
