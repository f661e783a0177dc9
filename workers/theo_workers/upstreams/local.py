"""Provider `local`: a llama.cpp server on this machine, which speaks OpenAI's chat format and needs no key.

While it loads its weights it answers 503; `refusals` turns that into a short pause, not into a failure.
"""

from __future__ import annotations

from theo_workers.clock import Clock
from theo_workers.model_spec import ModelSpec
from theo_workers.upstreams.openai import OpenAIUpstream
from theo_workers.upstreams.room import Room

BASE_URL = "http://127.0.0.1:8081/v1"


class LocalUpstream(OpenAIUpstream):
    """One model of a local server."""

    def __init__(self, spec: ModelSpec, clock: Clock, room: Room | None = None) -> None:
        super().__init__(spec, clock, room, default_base_url=BASE_URL)
