"""Builds the upstream that a model's `provider` names."""

from __future__ import annotations

import random

from theo_workers.clock import Clock
from theo_workers.errors import ConfigError
from theo_workers.model_spec import ModelSpec
from theo_workers.upstream import Upstream
from theo_workers.upstreams.anthropic import AnthropicUpstream
from theo_workers.upstreams.gemini import GeminiUpstream
from theo_workers.upstreams.local import LocalUpstream
from theo_workers.upstreams.openai import OpenAIUpstream
from theo_workers.upstreams.openai_responses import OpenAIResponsesUpstream
from theo_workers.upstreams.room import Room
from theo_workers.upstreams.scripted import ScriptedUpstream

PROVIDERS = ("openai", "openai_responses", "anthropic", "gemini", "local", "scripted")


def build_upstream(model: ModelSpec, clock: Clock, rng: random.Random, room: Room | None = None) -> Upstream:
    """The model's upstream; connections are opened at its first call. Raises ConfigError.

    `room` is what all upstreams of a process share for large answers.
    """
    match model.provider:
        case "openai":
            return OpenAIUpstream(model, clock, room)
        case "openai_responses":
            return OpenAIResponsesUpstream(model, clock, room)
        case "anthropic":
            return AnthropicUpstream(model, clock, room)
        case "gemini":
            return GeminiUpstream(model, clock, room)
        case "local":
            return LocalUpstream(model, clock, room)
        case "scripted":
            return ScriptedUpstream(clock, model.script, end=model.script_end, rng=rng)
        case other:
            known = ", ".join(PROVIDERS)
            raise ConfigError(f"models.{model.name}.provider: {other!r} is not one of {known}")
