"""What a call cost by the provider's own arithmetic, where its report of usage says so. Pure."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal, InvalidOperation
from typing import Any

from msgspec import Struct, structs

from theo_workers.messages import BilledUsage, Usage

_NANO = 1_000_000_000
_TICK = Decimal(1).scaleb(-10)  # xAI counts in these, USD
_MOST_USD = 100_000  # for one call: more is nonsense


class Charged(Struct):
    """The places in a report of usage where providers say what they charge. All of them are USD but the ticks.

    OpenRouter: `cost`, beside which a key of one's own (`is_byok`) is billed by the upstream directly.
    Perplexity: `cost.total_cost`, with its fees per request. xAI: `cost_in_usd_ticks`. DeepInfra: `estimated_cost`.
    """

    cost: Any = None
    cost_details: Any = None
    is_byok: Any = None
    cost_in_usd_ticks: Any = None
    estimated_cost: Any = None


def billed(usage: Usage, told: Charged) -> Usage:
    """The usage, with the provider's own cost if it told one that can be believed."""
    if told.cost is None and told.cost_in_usd_ticks is None and told.estimated_cost is None:
        return usage  # as nearly always
    usd = _told_usd(told)
    if usd is None:
        return usage
    nano = int((usd * _NANO).to_integral_value(rounding=ROUND_CEILING))
    return BilledUsage(**structs.asdict(usage), cost_nano=nano)


def _told_usd(told: Charged) -> Decimal | None:
    if (ticks := _amount(told.cost_in_usd_ticks, _MOST_USD * 10**10)) is not None:
        return ticks * _TICK
    usd = _amount(told.cost.get("total_cost") if isinstance(told.cost, dict) else told.cost)
    if usd is None:
        return _amount(told.estimated_cost)
    if told.is_byok is True and isinstance(told.cost_details, dict):
        return usd + (_amount(told.cost_details.get("upstream_inference_cost")) or 0)
    return usd


def _amount(told: Any, most: int = _MOST_USD) -> Decimal | None:
    if isinstance(told, bool) or not isinstance(told, int | float | str):
        return None
    try:
        amount = Decimal(told[:40] if isinstance(told, str) else repr(told))
    except (InvalidOperation, ValueError):  # the latter for integers of thousands of digits
        return None
    return amount if amount.is_finite() and 0 <= amount <= most else None
