"""How those who speak OpenAI's chat format differ from it, as far as it changes what is sent: one table. Pure."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Cap = Literal["max_completion_tokens", "max_tokens"]
Reasoning = Literal["reasoning_content", "reasoning_details"]


class Dialect(Struct, frozen=True, kw_only=True):
    """One host's. The defaults are what every server understands."""

    cap: Cap | None = "max_tokens"  # the name for the answer's longest; None: both are known
    thinking_cap: Cap | None = None  # the same for OpenAI's models that think, which refuse the older name
    developer: bool = False  # knows the role; elsewhere it is `system`
    returns: tuple[str, ...] = ()  # vendors whose extras of tool calls are theirs to get back
    reasoning: str | None = None  # the vendor, where a turn with calls must come back with its reasoning
    reasoning_field: Reasoning = "reasoning_content"  # of a message: a text, or a list of objects
    seed: str = "seed"
    short_ids: bool = False  # of tool calls: nine letters and digits


OPENAI = Dialect(cap=None, thinking_cap="max_completion_tokens", developer=True)
PLAIN = Dialect()

_BY_HOST: dict[str, Dialect] = {
    "api.openai.com": OPENAI,
    "azure.com": OPENAI,
    "openrouter.ai": Dialect(
        cap=None, developer=True, reasoning="openrouter", reasoning_field="reasoning_details"
    ),
    "groq.com": Dialect(cap=None),
    "deepseek.com": Dialect(reasoning="deepseek"),
    "mistral.ai": Dialect(seed="random_seed", short_ids=True),
    "googleapis.com": Dialect(returns=("google",)),
}


def dialect_of(host: str) -> Dialect:
    """By the host's own name or a domain above it."""
    name = host.lower().rstrip(".")
    while name:
        if (found := _BY_HOST.get(name)) is not None:
            return found
        name = name.partition(".")[2]
    return PLAIN
