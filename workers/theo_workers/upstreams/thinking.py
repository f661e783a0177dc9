"""How much a model shall think: OpenAI's `reasoning_effort` in the words of other providers. Pure."""

from __future__ import annotations

import re
from typing import Any

from theo_workers.upstreams.params import UntranslatableError

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")

# Models that think within a budget of tokens, which is a part of max_tokens; and those that do not think.
_BUDGETED = re.compile(r"claude-(?:3-7|(?:sonnet|opus|haiku)-4(?:-[015])?(?:-(?:\d{8}|latest))?(?:@\d+)?$)")
_THOUGHTLESS_CLAUDE = re.compile(r"claude-(?:[12]|instant|3-(?:5|opus|sonnet|haiku))")
_SHARES = {"minimal": 0.1, "low": 0.2, "medium": 0.5, "high": 0.8, "xhigh": 0.95, "max": 0.95}
_LEAST_BUDGET, _MOST_BUDGET = 1_024, 32_000

_GEMINI = re.compile(r"gemini-(\d+)(?:\.(\d+))?")
_GEMINI_BUDGETS = {"none": 0, "minimal": 1_024, "low": 1_024, "medium": 8_192, "high": 24_576}
_GEMINI_LEVELS = ("minimal", "low", "medium", "high")


def anthropic_thinking(model: str, effort: Any, cap: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """`thinking`, and what `output_config` gets with it. `cap` is the request's max_tokens.

    Raises UntranslatableError for an effort that is none, and for a model that can't.
    """
    if effort not in EFFORTS:
        raise UntranslatableError(f"params.reasoning_effort must be one of {', '.join(EFFORTS)}")
    if effort == "none":
        return {"type": "disabled"}, {}
    if _THOUGHTLESS_CLAUDE.search(model):
        raise UntranslatableError(f"params.reasoning_effort: {model} does not reason")
    if not _BUDGETED.search(model):
        return {"type": "adaptive"}, {"effort": "low" if effort == "minimal" else effort}
    budget = max(_LEAST_BUDGET, min(_MOST_BUDGET, int(cap * _SHARES[effort]))) if isinstance(cap, int) else 0
    if not isinstance(cap, int) or budget >= cap:
        raise UntranslatableError(
            f"params.reasoning_effort: to reason, {model} needs max_tokens above {_LEAST_BUDGET}"
        )
    return {"type": "enabled", "budget_tokens": budget}, {}


def gemini_thinking(model: str, effort: Any) -> dict[str, Any]:
    """`thinkingConfig`. Raises UntranslatableError for an effort that this model does not have."""
    found = _GEMINI.search(model)
    version = (int(found[1]), int(found[2] or 0)) if found else (3, 0)
    if (2, 5) <= version < (3, 0) and effort in _GEMINI_BUDGETS:
        if effort != "none" or "pro" not in model:
            return {"thinkingBudget": _GEMINI_BUDGETS[effort]}
    elif version >= (3, 0) and effort in _GEMINI_LEVELS:
        return {"thinkingLevel": effort}
    raise UntranslatableError(f"params.reasoning_effort: {model} cannot be asked for {str(effort)[:20]}")
