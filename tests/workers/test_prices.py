import pytest
from hypothesis import given
from hypothesis import strategies as st

from theo_workers.messages import Usage
from theo_workers.prices import FREE, Price, Rates, Tier, bound_nano, cost_nano, flat, output_for

USD = 1_000_000_000  # nano-dollars


def rates(factor: int = 1) -> Rates:
    return Rates(
        input=3 * USD * factor,
        output=15 * USD * factor,
        cached_input=3 * USD // 10 * factor,
        cache_write=375 * USD // 100 * factor,
        cache_write_at_most=6 * USD * factor,
        reasoning=20 * USD * factor,
    )


TIERED = Price(rates=rates(), tiers=(Tier(above=200_000, rates=rates(2)),), per_call=5_000)


@pytest.mark.parametrize(
    ("usage", "nano"),
    [
        (Usage(), 0),
        (Usage(prompt_tokens=1_000_000), 3 * USD),
        (Usage(completion_tokens=1_000), 15 * USD // 1_000),
        (Usage(prompt_tokens=1_000, cached_tokens=400), 600 * 3_000 + 400 * 300),
        (Usage(prompt_tokens=1_000, cache_write_tokens=400), 600 * 3_000 + 400 * 3_750),
        (Usage(completion_tokens=100, reasoning_tokens=60), 40 * 15_000 + 60 * 20_000),
        (
            Usage(
                prompt_tokens=1_000,
                completion_tokens=10,
                cached_tokens=100,
                cache_write_tokens=200,
                reasoning_tokens=4,
            ),
            700 * 3_000 + 100 * 300 + 200 * 3_750 + 6 * 15_000 + 4 * 20_000,
        ),
        (Usage(prompt_tokens=10, cached_tokens=50, cache_write_tokens=50), 10 * 300),
        (Usage(completion_tokens=10, reasoning_tokens=50), 10 * 20_000),
    ],
)
def test_each_kind_of_token_has_its_price(usage: Usage, nano: int) -> None:
    assert cost_nano(Price(rates=rates()), usage) == nano


@pytest.mark.parametrize(
    ("prompt", "nano"), [(200_000, 600_000_000 + 5_000), (200_001, 1_200_006_000 + 5_000)]
)
def test_a_long_prompt_costs_its_tier_for_every_token(prompt: int, nano: int) -> None:
    assert cost_nano(TIERED, Usage(prompt_tokens=prompt)) == nano


def test_a_part_of_a_nano_dollar_is_rounded_up() -> None:
    assert cost_nano(flat(1, 0), Usage(prompt_tokens=1)) == 1
    assert bound_nano(flat(1, 0), 1, 0) == 1


def test_free_is_zero() -> None:
    assert cost_nano(FREE, Usage(prompt_tokens=10**6, completion_tokens=10**6)) == 0
    assert bound_nano(FREE, 10**6, 10**6) == 0


def test_so_much_pays_for_so_much_output_at_the_dearest_rate_of_all() -> None:
    assert output_for(flat(USD, 2 * USD), 1_000_000) == 500
    assert output_for(TIERED, 1_000_000) == 25
    assert output_for(flat(USD, 0), 1) > 10**5


def test_the_bound_takes_the_dearest_rate_within_reach() -> None:
    assert bound_nano(TIERED, 1_000, 100) == 1_000 * 6_000 + 100 * 20_000 + 5_000
    assert bound_nano(TIERED, 300_000, 100) == 300_000 * 12_000 + 100 * 40_000 + 5_000


RATE = st.integers(0, 200 * USD)
RATES = st.builds(
    Rates,
    input=RATE,
    output=RATE,
    cached_input=RATE,
    cache_write=RATE,
    cache_write_at_most=RATE,
    reasoning=RATE,
).map(lambda r: r if r.cache_write_at_most >= r.cache_write else flat(r.input, r.output).rates)
PRICES = st.builds(
    lambda base, tiers, per_call: Price(
        rates=base,
        tiers=tuple(Tier(above=above, rates=tiers[above]) for above in sorted(tiers)),
        per_call=per_call,
    ),
    RATES,
    st.dictionaries(st.integers(0, 10**6), RATES, max_size=3),
    st.integers(0, USD),
)
COUNT = st.integers(0, 2 * 10**6)
USAGES = st.builds(
    Usage,
    prompt_tokens=COUNT,
    completion_tokens=COUNT,
    cached_tokens=COUNT,
    cache_write_tokens=COUNT,
    reasoning_tokens=COUNT,
)


@given(PRICES, USAGES, st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_bill_within_the_bounds_never_passes_the_bound(
    price: Price, usage: Usage, spare_prompt: int, spare_output: int
) -> None:
    bound = bound_nano(price, usage.prompt_tokens + spare_prompt, usage.completion_tokens + spare_output)
    assert 0 <= cost_nano(price, usage) <= bound
