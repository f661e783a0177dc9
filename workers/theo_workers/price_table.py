"""Finds a model's price: the configuration first, then the table of genai-prices; unknown stays unknown."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, Decimal
from fractions import Fraction
from math import ceil
from typing import TYPE_CHECKING

from msgspec.structs import replace

from theo_workers.prices import FREE, Price, Rates, Tier, flat

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, TieredPrices

_FREE_PROVIDERS = frozenset({"scripted", "local"})
# The vendor behind each wire format when no base_url says otherwise.
_VENDORS = {
    "openai": "openai",
    "openai_responses": "openai",
    "anthropic": "anthropic",
    "gemini": "google",
}
_KINDS = (
    "input_mtok",
    "output_mtok",
    "cache_read_mtok",
    "cache_write_mtok",
    "cache_write_5m_mtok",
    "cache_write_1h_mtok",
    "output_reasoning_mtok",
)
_STEP = timedelta(minutes=30)  # prices by time of day begin on whole or half hours
_STEPS = 48


def price_for(
    provider: str,
    model: str,
    *,
    input_cost_per_mtok: float | None = None,
    output_cost_per_mtok: float | None = None,
    base_url: str | None = None,
    at: float,
) -> Price | None:
    """The price of `model` at the Unix second `at`; None when nobody knows it, never 0.

    Costs are USD per million tokens. An override keeps the table's ratios for cached tokens and long prompts.
    Imports the table, 0.3 s: call it at start, in a thread, and again when `until` of the price has passed.
    """
    listed = FREE if provider in _FREE_PROVIDERS else _listed(provider, model, base_url, at)
    if input_cost_per_mtok is None and output_cost_per_mtok is None:
        return listed
    if listed is not None:
        return _configured(listed, input_cost_per_mtok, output_cost_per_mtok)
    if input_cost_per_mtok is None or output_cost_per_mtok is None:
        return None
    return flat(_nano(input_cost_per_mtok), _nano(output_cost_per_mtok))


def _configured(listed: Price, input_cost: float | None, output_cost: float | None) -> Price:
    new_input = listed.rates.input if input_cost is None else _nano(input_cost)
    new_output = listed.rates.output if output_cost is None else _nano(output_cost)
    old_input, old_output = listed.rates.input, listed.rates.output

    def scaled(rates: Rates) -> Rates:
        return Rates(
            input=_scaled(rates.input, old_input, new_input),
            output=_scaled(rates.output, old_output, new_output),
            cached_input=_scaled(rates.cached_input, old_input, new_input),
            cache_write=_scaled(rates.cache_write, old_input, new_input),
            cache_write_at_most=_scaled(rates.cache_write_at_most, old_input, new_input),
            reasoning=_scaled(rates.reasoning, old_output, new_output),
        )

    tiers = tuple(Tier(above=tier.above, rates=scaled(tier.rates)) for tier in listed.tiers)
    return replace(listed, rates=scaled(listed.rates), tiers=tiers, source="configured")


def _scaled(rate: int, old: int, new: int) -> int:
    return ceil(Fraction(rate * new, old)) if old else new


def _listed(provider: str, model: str, base_url: str | None, at: float) -> Price | None:
    from genai_prices.data_snapshot import get_snapshot  # noqa: PLC0415 (0.3 s, not for every import of us)

    vendor = None if base_url else _VENDORS.get(provider)
    try:
        _, info = get_snapshot().find_provider_model(model, None, vendor, base_url)
    except LookupError:
        return None
    moment = datetime.fromtimestamp(at, UTC)
    return _price(info.get_prices(moment), _until(info, moment))


def _price(listed: ModelPrice, until: float | None) -> Price | None:
    if listed.input_mtok is None or listed.output_mtok is None:
        return None
    starts = {tier.start for kind in _KINDS for tier in getattr(getattr(listed, kind), "tiers", ())}
    return Price(
        rates=_rates(listed, 0),
        tiers=tuple(Tier(above=start, rates=_rates(listed, start + 1)) for start in sorted(starts)),
        per_call=_nano(_at(listed.requests_kcount, 0) or 0) // 1_000,
        source="table",
        until=until,
    )


def _rates(listed: ModelPrice, prompt_tokens: int) -> Rates:
    def rate(kind: str, parent: int) -> int:
        listed_rate = _at(getattr(listed, kind), prompt_tokens)
        return parent if listed_rate is None else _nano(listed_rate)

    per_input, per_output = rate("input_mtok", 0), rate("output_mtok", 0)
    cache_write = rate("cache_write_5m_mtok", rate("cache_write_mtok", per_input))
    return Rates(
        input=per_input,
        output=per_output,
        cached_input=rate("cache_read_mtok", per_input),
        cache_write=cache_write,
        cache_write_at_most=max(cache_write, rate("cache_write_1h_mtok", 0)),
        reasoning=rate("output_reasoning_mtok", per_output),
    )


def _at(price: Decimal | TieredPrices | None, prompt_tokens: int) -> Decimal | None:
    if price is None or isinstance(price, Decimal):
        return price
    reached = [tier.price for tier in price.tiers if prompt_tokens > tier.start]
    return reached[-1] if reached else price.base


def _until(info: ModelInfo, moment: datetime) -> float | None:
    """Unix second of the next change within a day, else of the day's end; None without conditions."""
    if not isinstance(info.prices, list):
        return None
    now = info.get_prices(moment)
    step = moment.replace(minute=moment.minute // 30 * 30, second=0, microsecond=0)
    for _ in range(_STEPS):
        step += _STEP
        if info.get_prices(step) != now:
            break
    return step.timestamp()


def _nano(usd: float | Decimal) -> int:
    return int((Decimal(str(usd)) * 1_000_000_000).to_integral_value(rounding=ROUND_CEILING))
