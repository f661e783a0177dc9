"""Reads `[routing]` and each model's own `routing`, and lays the second over the first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from theo_daemon.config import RoutingConfig, Usd
from theo_daemon.config_table import Report, Shape, read_table
from theo_daemon.spend_window import SpendWindow, parse_window

_PER_JOB = (
    *("default", "when_unavailable", "max_wait_s", "max_attempts", "retry_budget"),
    *("strategy", "predictive_usd_per_s", "regions", "region_eviction_ratio"),
    *("context_window_fallbacks", "content_policy_fallbacks"),
)
"""What is decided for a job before, or across, the models that it may run on."""


def read_window(value: object) -> SpendWindow:
    """The value of a `spend_window`. Raises ValueError."""
    return parse_window(value if isinstance(value, str) else str(value))


def _fallbacks(value: object) -> dict[str, tuple[str, ...]]:
    """Model or group -> who is asked after it, names unchecked."""
    if not isinstance(value, Mapping) or not all(_is_list_of_texts(one) for one in value.values()):
        raise ValueError('must be a table of lists that are not empty, as { chat = ["roomy"] }')
    return {name: tuple(models) for name, models in value.items()}


def _is_list_of_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)


_ROUTING = Shape(
    cls=RoutingConfig,
    readers={
        "spend_window": read_window,
        "context_window_fallbacks": _fallbacks,
        "content_policy_fallbacks": _fallbacks,
    },
    extras={"soft_budget": Usd},
    aliases={"max_budget": "spend_ceiling", "budget_duration": "spend_window"},
)


def read_global(raw: object, report: Report) -> dict[str, Any]:
    """The keys that `[routing]` sets."""
    given = read_table(_ROUTING, raw, "[routing]", report)
    return with_warning_ratio(given, {}, "[routing]", report)


def read_own(raw: object, inherited: Mapping[str, Any], at: str, report: Report) -> dict[str, Any]:
    """What holds for one model: the keys that its own table sets, over the global ones."""
    given = read_table(_ROUTING, raw, at, report)
    for key in _PER_JOB:
        if given.pop(key, None) is not None:
            report.warn(
                f"{at} {key}", "has no effect here: it concerns jobs, not models; set it in [routing]"
            )
    return {**inherited, **with_warning_ratio(given, inherited, at, report)}


def with_warning_ratio(
    given: dict[str, Any], inherited: Mapping[str, Any], at: str, report: Report
) -> dict[str, Any]:
    """`soft_budget`, an amount, becomes the ratio to the ceiling that holds for this table."""
    if "soft_budget" not in given:
        return given
    soft = given.pop("soft_budget")
    ceiling = given.get("spend_ceiling", inherited.get("spend_ceiling"))
    if ceiling is None:
        report.error(f"{at} soft_budget", "needs a spend_ceiling to be a part of")
    elif soft > ceiling:
        report.error(f"{at} soft_budget", f"{soft:.15g} is above spend_ceiling, {ceiling:.15g}")
    else:
        ratio = soft / ceiling if ceiling else 1.0
        if not math.isclose(given.get("warning_ratio", ratio), ratio, abs_tol=1e-9):
            report.error(
                f"{at} soft_budget",
                f"says the same as warning_ratio, with another value ({ratio:.3g} of the ceiling): keep one",
            )
        given["warning_ratio"] = ratio
    return given
