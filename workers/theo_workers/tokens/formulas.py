"""The two counting formulas: OpenAI's own, exact for texts, and a line through what others reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

from msgspec import UNSET

from theo_workers.messages import Message
from theo_workers.tokens.definitions import Definitions
from theo_workers.tokens.families import Linear, OpenAI
from theo_workers.tokens.images import image_tokens
from theo_workers.tokens.parts import call_is_forced, calls_of, content_of, has_task_budget, thinking_of
from theo_workers.tokens.tokenizer import Tokenizer

_PRO_MODE = 1_530  # what the mode's own prompts add


def count_openai(
    family: OpenAI,
    messages: Sequence[Message],
    params: Mapping[str, Any],
    *,
    model: str,
    tokens: Tokenizer,
    definitions: Definitions,
) -> tuple[int, bool]:
    """The prompt tokens, and whether only parts with an exact rule went into them."""
    total = 2 if family.reasoning else 3
    exact, has_system, frame = True, False, family.frame
    for message in messages:
        content = message.content
        if isinstance(content, str):
            total += frame + tokens(content)
        else:
            sorted_ = content_of(message)
            total += frame + tokens(sorted_.text)
            total += sum(image_tokens(family, model, image).tokens for image in sorted_.images)
            exact = exact and not sorted_.images and not sorted_.others
        if message.role == "assistant":
            total += 2 if family.reasoning else 0
        elif message.role != "user":
            has_system = has_system or message.role != "tool"
        if message.name is not UNSET:
            total += 1 + tokens(message.name)
        if message.tool_calls is not UNSET:
            total += _openai_calls(family, message, tokens)
            exact = False
    if params:
        tools = definitions.tools(params, family.encoding, tokens).rendered
        schema = definitions.output_schema(params, family.encoding, tokens).rendered
        total += tools + _openai_tools_frame(family, has_system=has_system) if tools else 0
        total += schema + 1 if schema else 0
        exact = exact and not tools and not schema
        if isinstance(reasoning := params.get("reasoning"), Mapping) and reasoning.get("mode") == "pro":
            total, exact = total + _PRO_MODE, False
    return total, exact


def _openai_tools_frame(family: OpenAI, *, has_system: bool) -> int:
    if family.responses:
        return 8 if family.reasoning else 2
    if family.reasoning:
        return 90
    return 4 if has_system else 8  # the definitions join a system message that is already there


def _openai_calls(family: OpenAI, message: Message, tokens: Tokenizer) -> int:
    calls = calls_of(message)
    # The name comes again as the author of the result.
    total = sum(2 * tokens(call.name) + tokens(call.arguments) for call in calls)
    if family.reasoning:
        return total + 9 * len(calls)
    if family.responses:
        return total + 7 * len(calls) - 4
    # Calls made together are wrapped in one call of a function `multi_tool_use.parallel`.
    return total + (5 if len(calls) == 1 else 8 + 10 * len(calls))


def count_linear(
    family: Linear,
    messages: Sequence[Message],
    params: Mapping[str, Any],
    *,
    model: str,
    tokens: Tokenizer,
    definitions: Definitions,
) -> int:
    """The prompt tokens; `tokens` measures in o200k_base."""
    total = family.base + family.per_message * len(messages)
    for message in messages:
        content = message.content
        if isinstance(content, str):
            total += tokens.weigh(content, each=family.text, rare=family.rare)
        elif content is not None:
            sorted_ = content_of(message)
            total += tokens.weigh(sorted_.text, each=family.text, rare=family.rare)
            total += sum(image_tokens(family, model, image).tokens for image in sorted_.images)
        if message.tool_calls is not UNSET:
            for call in calls_of(message):
                total += family.call_base + sum(
                    tokens.weigh(text, each=family.call, rare=0) for text in (call.name, call.arguments)
                )
    if params:
        total += family.thinking * thinking_of(params)
        total += family.task_budget if has_task_budget(params) else 0
        tools = definitions.tools(params, "o200k_base", tokens)
        if tools.json:
            total += family.tools_base + min(family.tools * tools.json, tools.json_bytes)
            total += family.tools_forced if call_is_forced(params) else 0
        schema = definitions.output_schema(params, "o200k_base", tokens)
        if schema.json:
            total += family.schema_base + min(family.schema * schema.json, schema.json_bytes)
    return ceil(total)
