"""What a model's tokens cost, in integer nano-dollars (1e-9 USD)."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct

from theo_workers.messages import BilledUsage, Usage

MTOK = 1_000_000
_NANO = 1_000_000_000
_encode = msgspec.json.Encoder().encode
Source = Literal["configured", "free", "table"]


class Rates(Struct, frozen=True, kw_only=True):
    """Nano-dollars per million tokens. A kind without a price of its own costs what its parent kind costs."""

    input: int
    output: int
    cached_input: int
    cache_write: int
    cache_write_at_most: int  # of the longest time to live
    reasoning: int


class Tier(Struct, frozen=True, kw_only=True):
    """`rates` apply to the whole call once its prompt has more than `above` tokens."""

    above: int
    rates: Rates


class Price(Struct, frozen=True, kw_only=True):
    """One model's price as it was resolved; stored with each attempt."""

    rates: Rates
    tiers: tuple[Tier, ...] = ()  # ascending
    per_call: int = 0  # nano-dollars on top of the tokens
    source: Source = "configured"
    until: float | None = None  # Unix seconds from when on it may be another; None: not foreseen


def snapshot(price: Price) -> str:
    """The price as it is kept with an attempt: JSON, USD per million tokens; what costs as its parent is left out."""
    kept: dict[str, Any] = {"source": price.source, **_rates_in_words(price.rates)}
    if price.tiers:
        kept["tiers"] = [{"above": tier.above, **_rates_in_words(tier.rates)} for tier in price.tiers]
    if price.per_call:
        kept["per_call"] = price.per_call / _NANO
    return _encode(kept).decode()


def _rates_in_words(rates: Rates) -> dict[str, float]:
    named = {"input": rates.input, "output": rates.output}
    children = {
        "cached_input": (rates.cached_input, rates.input),
        "cache_write": (rates.cache_write, rates.input),
        "cache_write_at_most": (rates.cache_write_at_most, rates.cache_write),
        "reasoning": (rates.reasoning, rates.output),
    }
    named |= {name: rate for name, (rate, parent) in children.items() if rate != parent}
    return {name: nano / _NANO for name, nano in named.items()}


def flat(input_nano: int, output_nano: int, *, source: Source = "configured") -> Price:
    """A price of two rates, nano-dollars per million tokens."""
    rates = Rates(
        input=input_nano,
        output=output_nano,
        cached_input=input_nano,
        cache_write=input_nano,
        cache_write_at_most=input_nano,
        reasoning=output_nano,
    )
    return Price(rates=rates, source=source)


FREE = flat(0, 0, source="free")


def cost_nano(price: Price, usage: Usage) -> int:
    """What the usage costs, rounded up to whole nano-dollars."""
    rates = price.rates
    prompt, cached, written = usage.prompt_tokens, usage.cached_tokens, usage.cache_write_tokens
    completion, reasoning = usage.completion_tokens, usage.reasoning_tokens
    for tier in price.tiers:
        if prompt > tier.above:
            rates = tier.rates
    # Parts are never more than their whole, whatever was reported.
    cached = min(cached, prompt)
    written = min(written, prompt - cached)
    reasoning = min(reasoning, completion)
    total = (
        (prompt - cached - written) * rates.input
        + cached * rates.cached_input
        + written * rates.cache_write
        + (completion - reasoning) * rates.output
        + reasoning * rates.reasoning
    )
    return -(-total // MTOK) + price.per_call


def charge_nano(price: Price | None, usage: Usage) -> int:
    """What a call is charged with: a configured price before all, then the provider's own figure, then the table.

    Without any of them it is 0, as nothing is known; under a ceiling such a call is not made.
    """
    if isinstance(usage, BilledUsage) and (price is None or price.source == "table"):
        return usage.cost_nano
    return 0 if price is None else cost_nano(price, usage)


def output_for(price: Price, budget_nano: int) -> int:
    """Tokens of output that so much pays for, whatever the prompt; very many if output is free."""
    dearest = max(_per_output(rates) for rates in (price.rates, *(tier.rates for tier in price.tiers)))
    return budget_nano * MTOK // max(1, dearest)


def _per_output(rates: Rates) -> int:
    return max(rates.output, rates.reasoning)


def bound_nano(price: Price, prompt_bound: int, max_output: int) -> int:
    """What a call costs at most: every token at the dearest rate that the call can reach."""
    rates = price.rates
    per_input = max(rates.input, rates.cached_input, rates.cache_write_at_most)
    per_output = _per_output(rates)
    for tier in price.tiers:
        if prompt_bound > tier.above:
            rates = tier.rates
            per_input = max(per_input, rates.input, rates.cached_input, rates.cache_write_at_most)
            per_output = max(per_output, _per_output(rates))
    return -(-(prompt_bound * per_input + max_output * per_output) // MTOK) + price.per_call
