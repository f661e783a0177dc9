"""A job's params while an adapter takes out what it translates. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

Params = dict[str, Any]
"""A job's params, less what has been translated already; what is left at the end is passed on as it is."""

OWNED = frozenset({"model", "messages", "prompt", "stream", "stream_options", "n", "background"})
"""What the router says itself, in any format."""

MOST_KEPT_BYTES = 1 << 20
"""Of reasoning as JSON that one answer's calls keep to be sent back: far more than any model thinks."""

_CAPS = ("max_completion_tokens", "max_tokens")
_ASKS_FOR_NOTHING: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "parallel_tool_calls": (True,),
    "presence_penalty": (0,),
    "stop": ([], ""),
    "store": (False,),
    "top_logprobs": (0,),
    "verbosity": ("medium",),
}


class UntranslatableError(ValueError):
    """The provider's format has no word for something that was asked; the message names it."""


_encode = msgspec.json.Encoder().encode


def can_be_kept(reasoning: list[Any]) -> bool:
    """Is it small enough to go out with the calls that it led to, and to come back with them?"""
    return len(_encode(reasoning)) <= MOST_KEPT_BYTES


def check_returned(reasoning: list[Any], name: str) -> None:
    """Of one message. Raises UntranslatableError for more than was ever given out."""
    if not can_be_kept(reasoning):
        raise UntranslatableError(f"a message's {name} cannot be sent: above {MOST_KEPT_BYTES} bytes of JSON")


def params_of(given: Mapping[str, Any], owned: frozenset[str]) -> Params:
    """The params that ask for something. Raises UntranslatableError for `owned` ones: they are not theirs to set."""
    if not given:
        return {}
    if taken := owned.intersection(given):
        raise UntranslatableError(f"params may not set {', '.join(sorted(taken))}")
    return {name: value for name, value in given.items() if value is not None}


def refuse(left: Params, reasons: Mapping[str, str]) -> None:
    """Raises UntranslatableError for a param that has a reason why it can't be had; neutral values can."""
    for name in left.keys() & reasons.keys():
        if left.pop(name) not in _ASKS_FOR_NOTHING.get(name, ()):
            raise UntranslatableError(f"params.{name} cannot be sent: {reasons[name]}")


def rename(left: Params, names: Mapping[str, str]) -> dict[str, Any]:
    """Takes the params that only have another name over there."""
    return {theirs: left.pop(ours) for ours, theirs in names.items() if ours in left}


def take_cap(left: Params, most: int | None, *native: str) -> Any:
    """The cap on the answer's tokens: what was asked, not above the configured `most`; None where neither is.

    `native` are the provider's own names for it. Of several caps the lowest counts: what money was held for
    must be the most that can be billed.
    """
    asked = [left.pop(name) for name in (*_CAPS, *native) if name in left]
    numbers = [cap for cap in asked if isinstance(cap, int | float)]
    if len(numbers) < len(asked):
        return next(cap for cap in asked if not isinstance(cap, int | float))  # the provider's to refuse
    if most is not None:
        numbers.append(most)
    return min(numbers) if numbers else None


def take_stops(left: Params) -> list[Any]:
    """Stop sequences as a list."""
    stops = left.pop("stop", None)
    return stops if isinstance(stops, list) else [stops] if stops else []


def take_dict(left: Params, name: str) -> dict[str, Any]:
    """A provider's own object that was passed through, to which translated values are added."""
    value = left.pop(name, {})
    if not isinstance(value, dict):
        raise UntranslatableError(f"params.{name} must be an object")
    return dict(value)


def take_schema(left: Params) -> tuple[str, dict[str, Any]]:
    """`response_format` as its kind (`text`, `json_object`, `json_schema`) and the schema's description."""
    told = left.pop("response_format", {"type": "text"})
    match told:
        case {"type": "text" | "json_object" as kind}:
            return str(kind), {}
        case {"type": "json_schema", "json_schema": {"schema": {}} as described}:
            return "json_schema", dict(described)
        case _:
            raise UntranslatableError(
                "params.response_format must be text, json_object or json_schema with a schema"
            )
