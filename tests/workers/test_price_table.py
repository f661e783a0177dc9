import sys
from datetime import UTC, datetime
from typing import Any

import pytest
from genai_prices import Usage as ListedUsage
from genai_prices import calc_price

from theo_workers.messages import Usage
from theo_workers.price_table import price_for
from theo_workers.prices import FREE, Price, cost_nano

AT = datetime(2026, 11, 23, 12, 10, tzinfo=UTC)
USD = 1_000_000_000


def found(provider: str, model: str, at: datetime = AT, **given: Any) -> Price:
    price = price_for(provider, model, at=at.timestamp(), **given)
    assert price is not None
    return price


@pytest.mark.parametrize("provider", ["scripted", "local"])
def test_embedded_and_scripted_models_are_free_explicitly(provider: str) -> None:
    assert found(provider, "anything") is FREE


@pytest.mark.parametrize(
    ("provider", "model", "base_url"),
    [
        ("openai", "no-such-model", None),
        ("openai", "gpt-4o", "http://127.0.0.1:8000/v1"),
        ("anthropic", "claude-sonnet-4-5", "https://proxy.example.org"),
        ("openai", "text-embedding-3-small", None),  # has no output price
        ("elsewhere", "some-model-nobody-lists", None),
    ],
)
def test_an_unknown_price_is_none_and_never_zero(provider: str, model: str, base_url: str | None) -> None:
    assert price_for(provider, model, base_url=base_url, at=AT.timestamp()) is None


@pytest.mark.parametrize(
    ("provider", "model", "base_url", "listed"),
    [
        ("openai", "gpt-4o-mini", None, "openai"),
        ("openai", "gpt-4o-mini", "https://api.openai.com/v1", "openai"),
        ("openai_responses", "gpt-5.4", None, "openai"),
        ("anthropic", "claude-sonnet-4-5", None, "anthropic"),
        ("anthropic", "claude-opus-4-8", "https://api.anthropic.com/v1", "anthropic"),
        ("gemini", "gemini-2.5-pro", None, "google"),
        ("gemini", "gemini-2.5-flash", "https://generativelanguage.googleapis.com/v1beta", "google"),
        ("openai", "llama-3.3-70b-versatile", "https://api.groq.com/openai/v1", "groq"),
        ("openai", "deepseek-chat", "https://api.deepseek.com", "deepseek"),
        ("openai", "sonar", "https://api.perplexity.ai", "perplexity"),
    ],
)
@pytest.mark.parametrize("prompt", [1_000, 250_000, 500_000])
def test_costs_are_those_of_the_table(
    provider: str, model: str, base_url: str | None, listed: str, prompt: int
) -> None:
    price = found(provider, model, base_url=base_url)
    usage = Usage(
        prompt_tokens=prompt,
        completion_tokens=321,
        cached_tokens=200,
        cache_write_tokens=300,
        reasoning_tokens=5,
    )
    table = calc_price(
        ListedUsage(input_tokens=prompt, output_tokens=321, cache_read_tokens=200, cache_write_tokens=300),
        model,
        provider_id=listed,
        genai_request_timestamp=AT,
    )
    assert cost_nano(price, usage) == pytest.approx(float(table.total_price) * USD, abs=1)


def test_the_configuration_goes_over_the_table() -> None:
    price = found("openai", "gpt-4o-mini", input_cost_per_mtok=0.30, output_cost_per_mtok=1.0)
    assert price.source == "configured"
    assert (price.rates.input, price.rates.output) == (300_000_000, USD)
    assert price.rates.cached_input == 150_000_000  # the table's half price for cached tokens


def test_one_configured_cost_leaves_the_other_to_the_table() -> None:
    price = found("openai", "gpt-4o-mini", output_cost_per_mtok=1.0)
    assert (price.rates.input, price.rates.output) == (150_000_000, USD)


def test_configured_costs_of_an_unknown_model_hold_for_every_kind_of_token() -> None:
    price = found("openai", "mine", input_cost_per_mtok=2.0, output_cost_per_mtok=4)
    usage = Usage(prompt_tokens=10, completion_tokens=10, cached_tokens=10, reasoning_tokens=10)
    assert cost_nano(price, usage) == 10 * 2_000 + 10 * 4_000


def test_half_a_configuration_of_an_unknown_model_is_unknown() -> None:
    assert price_for("openai", "mine", input_cost_per_mtok=2.0, at=AT.timestamp()) is None


def test_a_configured_zero_is_free() -> None:
    price = found("openai", "gpt-4o", input_cost_per_mtok=0, output_cost_per_mtok=0)
    usage = Usage(prompt_tokens=10, completion_tokens=10, cached_tokens=5, cache_write_tokens=5)
    assert cost_nano(price, usage) == 0


def test_free_models_can_be_given_a_price() -> None:
    price = found("scripted", "s", input_cost_per_mtok=1.0)
    assert cost_nano(price, Usage(prompt_tokens=1_000, completion_tokens=1_000)) == 1_000_000


def test_costs_are_read_as_decimals() -> None:
    price = found("openai", "mine", input_cost_per_mtok=0.0000001, output_cost_per_mtok=0.1)
    assert (price.rates.input, price.rates.output) == (100, 100_000_000)


def test_long_prompts_have_the_tables_tier() -> None:
    price = found("gemini", "gemini-2.5-pro")
    assert [tier.above for tier in price.tiers] == [200_000]
    assert price.tiers[0].rates.input == 2 * price.rates.input


def test_writing_to_the_cache_for_an_hour_is_within_the_bound() -> None:
    rates = found("anthropic", "claude-sonnet-4-5").rates
    assert (rates.cache_write, rates.cache_write_at_most) == (3_750_000_000, 6_000_000_000)


def test_a_price_by_time_of_day_says_until_when_it_holds() -> None:
    quiet = found("openai", "deepseek-v4-flash", base_url="https://api.deepseek.com")
    assert quiet.until == datetime(2026, 11, 24, 1, 0, tzinfo=UTC).timestamp()
    busy = found(
        "openai",
        "deepseek-v4-flash",
        datetime(2026, 11, 24, 1, 0, tzinfo=UTC),
        base_url="https://api.deepseek.com",
    )
    assert busy.rates.input == 2 * quiet.rates.input
    assert busy.until == datetime(2026, 11, 24, 4, 0, tzinfo=UTC).timestamp()


def test_a_price_without_conditions_has_no_end() -> None:
    assert found("openai", "gpt-4o-mini").until is None


def test_prices_are_those_of_their_day() -> None:
    before = found("openai", "gpt-5.6", datetime(2026, 8, 20, tzinfo=UTC))
    after = found("openai", "gpt-5.6", datetime(2026, 8, 22, tzinfo=UTC))
    assert before.rates.input > after.rates.input


def test_free_and_fully_configured_prices_of_local_models_do_not_import_the_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices.data_snapshot", None)  # importing it would raise
    assert found("scripted", "s") is FREE
    assert found("local", "m", input_cost_per_mtok=1, output_cost_per_mtok=1).rates.input == USD
