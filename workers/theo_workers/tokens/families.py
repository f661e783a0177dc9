"""How each family of models turns a request into tokens: measured constants, chosen by provider and model.

The constants were fitted to what providers reported for recorded public requests; the forms are the
simplest that left no trend. `text` and the like are factors on o200k_base tokens.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal

from msgspec import Struct

from theo_workers.tokens.encodings import EncodingName, bare_name, encoding_for


class OpenAI(Struct, frozen=True, kw_only=True):
    """OpenAI's own models: the chat formula of its cookbook, exact but for tools."""

    encoding: EncodingName
    reasoning: bool  # other constants for the reasoning models
    frame: int = 4  # of a message: 3 and its role; o1-mini's is longer, by the one prompt that was seen
    responses: bool  # the Responses API adds less round tools
    hidden: int  # at most: instructions that the provider adds unseen; the most that was seen is 34


class Linear(Struct, frozen=True, kw_only=True):
    """Others: linear in the o200k_base tokens of each kind of content."""

    text: float = 1.1
    rare: float = 0.0  # on top, per token of a high rank: a smaller vocabulary splits it
    per_message: float = 4.0
    base: float = 3.0
    thinking: float = 0.0  # when the request turns thinking on
    task_budget: float = 0.0  # when it tells the model how many tokens its task may take
    tools: float = 1.0  # per token of the definitions as compact JSON
    tools_base: float = 20.0
    tools_forced: float = 0.0  # when a call is required
    call: float = 1.0  # per token of a call's name and arguments
    call_base: float = 15.0  # per call in the history, its result's frame included
    schema: float = 0.0  # per token of the output schema
    schema_base: float = 0.0
    images: Literal["claude", "claude_large", "gemini", "openai"] = "openai"  # whose rule
    hidden: int = 2_048  # at most: instructions that a server's template adds unseen
    hidden_per_call: int = 64  # beside what is sent back with it


Family = OpenAI | Linear

_CLAUDE = Linear(
    text=1.01,
    rare=1.9,
    per_message=0.9,
    base=6,
    thinking=28,
    tools=1.2,
    tools_base=505,
    tools_forced=94,
    call=1.5,
    call_base=31,
    schema=1.2,
    schema_base=130,
    images="claude",
    hidden=256,
)
_CLAUDE_TO_4_1 = Linear(
    text=1.01,
    rare=1.9,
    per_message=0.9,
    base=6,
    thinking=28,
    tools=1.2,
    tools_base=325,
    tools_forced=14,
    call=1.5,
    call_base=25,
    schema=1.2,
    schema_base=130,
    images="claude",
    hidden=256,
)
_CLAUDE_NEW = Linear(  # the tokenizer of Opus 4.7 and everything after it: about 30 % more tokens
    text=1.3,
    rare=0.7,
    per_message=2.3,
    base=3,
    task_budget=38,
    tools=1.4,
    tools_base=295,
    tools_forced=94,
    call=1.6,
    call_base=25,
    schema=1.4,
    schema_base=130,
    images="claude_large",
    hidden=256,
)
_GEMINI_TO_2_0 = Linear(
    text=1, per_message=0, base=0, tools=0.36, tools_base=0, call_base=2, images="gemini", hidden=128
)
_GEMINI = Linear(
    text=1,
    per_message=0.9,
    base=0,
    tools=1,
    tools_base=0,
    call_base=20,
    images="gemini",
    hidden=256,
    hidden_per_call=1_024,  # its thoughts before the call, which the provider may feed back
)
_GPT_OSS = Linear(text=1, per_message=6.8, base=60, tools=1, tools_base=8, schema=1, schema_base=15)
_OTHERS: tuple[tuple[re.Pattern[str], Linear], ...] = (
    (re.compile(r"llama-?4"), Linear(text=1, per_message=4, base=6, tools_base=655)),
    (re.compile(r"llama-?3\.[1-9]|llama-v3p[1-9]"), Linear(text=1, per_message=4, base=31, tools_base=150)),
    (re.compile(r"llama"), Linear(text=1, per_message=4, base=6, tools_base=150)),
    (re.compile(r"(mi(ni|x)?s?tral|magistral|codestral|pixtral)"), Linear(text=1, per_message=1.5, base=1.5)),
    (re.compile(r"deepseek-v[4-9]"), Linear(text=1, per_message=2, base=79, tools_base=228, call_base=50)),
    (re.compile(r"deepseek"), Linear(text=1, per_message=2, base=3, tools_base=250, call_base=50)),
    (re.compile(r"qwen"), Linear(text=1, per_message=4, base=6, tools_base=130)),
    (re.compile(r"glm"), Linear(text=1, per_message=2, base=3, tools_base=130)),
    (re.compile(r"grok-4"), Linear(text=1, per_message=4, base=680)),
)
_GENERIC = Linear()
OWN_HIDDEN = (
    128  # tokens at most that a template adds unseen, on a server of one's own: those known add 0 to 80
)

# Servers behind these names call models and tools of their own: what a request costs is not known beforehand.
_AGENTS = re.compile(r"compound|search-(preview|api)|deep-research")
_REASONING = re.compile(r"o[1-9](-|$)|gpt-([5-9]|\d\d)|codex-")
_PRO = re.compile(r"-pro|gpt-(5\.[6-9]|[6-9]|\d\d)")
_CLAUDE_NAME = re.compile(
    r"claude-(?P<old>\d)(?:[.-]\d)?(?:-|$)"
    r"|claude-(?P<line>[a-z]+)-(?P<major>\d)(?:[.-](?P<minor>\d{1,2})(?!\d))?"
)
_GEMINI_NAME = re.compile(r"gemini-(?:[a-z]+-)?(\d+)(?:\.(\d+))?")


@lru_cache(maxsize=1024)
def family_for(provider: str, model: str) -> Family:
    """`provider` is the wire format, as the configuration names it; `model` the provider's own name."""
    name = bare_name(model)
    if "claude" in name or provider == "anthropic":
        return _claude(name)
    if "gemini" in name or provider == "gemini":
        return _gemini(name)
    encoding = encoding_for(model)
    if encoding == "o200k_harmony":
        return _GPT_OSS
    if encoding is not None:
        early = name.startswith("o1-mini")
        reasoning = bool(_REASONING.match(name)) and not early
        responses = provider == "openai_responses"
        # A pro mode thinks in further prompts that the caller never sees.
        hidden = 2_560 if _PRO.search(name) else 256
        return OpenAI(
            encoding=encoding,
            reasoning=reasoning,
            frame=7 if early else 4,
            responses=responses,
            hidden=hidden,
        )
    return next((family for pattern, family in _OTHERS if pattern.search(name)), _GENERIC)


def is_known(provider: str, model: str) -> bool:
    """Does the name tell what kind of model it is?"""
    return family_for(provider, model) is not _GENERIC


@lru_cache(maxsize=1024)
def is_agent(model: str) -> bool:
    """Does this model do work of its own (searches, inner calls) that it bills as prompt tokens?"""
    return _AGENTS.search(bare_name(model)) is not None


def _gemini(name: str) -> Linear:
    version = _GEMINI_NAME.search(name)
    return _GEMINI_TO_2_0 if version and (int(version[1]), int(version[2] or 0)) <= (2, 0) else _GEMINI


def _claude(name: str) -> Linear:
    found = _CLAUDE_NAME.search(name)
    if found is None:
        return _CLAUDE_TO_4_1 if "instant" in name else _CLAUDE_NEW
    if found["old"]:
        return _CLAUDE_TO_4_1
    line, version = found["line"], (int(found["major"]), int(found["minor"] or 0))
    if line not in ("opus", "sonnet", "haiku") or version >= (5, 0) or (line == "opus" and version >= (4, 7)):
        return _CLAUDE_NEW
    return _CLAUDE if version >= (4, 5) else _CLAUDE_TO_4_1
