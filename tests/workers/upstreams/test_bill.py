"""A provider's own figure for what a call cost is read wherever it stands, and counts before the table."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from formats import decoded
from hypothesis import given
from hypothesis import strategies as st

from theo_workers.messages import BilledUsage, Usage
from theo_workers.prices import FREE, charge_nano, cost_nano, flat
from theo_workers.upstreams.bill import Charged, billed
from theo_workers.upstreams.chat_completions import ChatCompletions
from theo_workers.upstreams.origin import Origin
from theo_workers.upstreams.responses import Responses

USAGE = Usage(prompt_tokens=1_000, completion_tokens=10)
ORIGIN = Origin(provider="openai")

TOLD: list[tuple[dict[str, Any], int | None]] = [
    ({"cost": 0.0012}, 1_200_000),
    ({"cost": "0.0012"}, 1_200_000),
    ({"cost": 3.72e-05}, 37_200),
    ({"cost": 1e-12}, 1),  # rounded up, as all money
    ({"cost": 0}, 0),
    # a key of one's own at OpenRouter: the model's maker sends the bill
    ({"cost": 0.001, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.02}}, 21_000_000),
    ({"cost": 0.001, "is_byok": False, "cost_details": {"upstream_inference_cost": 0.02}}, 1_000_000),
    ({"cost": 0.001, "is_byok": True, "cost_details": None}, 1_000_000),
    ({"cost": {"input_tokens_cost": 0.1, "request_cost": 0.2, "total_cost": 0.3}}, 300_000_000),  # Perplexity
    ({"cost_in_usd_ticks": 12_345_678}, 1_234_568),  # xAI
    ({"estimated_cost": 0.00002}, 20_000),  # DeepInfra
    ({}, None),
    ({"cost": None}, None),
    ({"cost": -1}, None),
    ({"cost": 1e9}, None),
    ({"cost": True}, None),
    ({"cost": "NaN"}, None),
    ({"cost": "free"}, None),
    ({"cost": [1]}, None),
    ({"cost": {"total_cost": {}}}, None),
]


@pytest.mark.parametrize(("told", "nano"), TOLD)
def test_the_cost_is_read_where_each_provider_says_it(told: dict[str, Any], nano: int | None) -> None:
    usage = billed(USAGE, msgspec.convert(told, Charged))
    assert (usage.cost_nano if isinstance(usage, BilledUsage) else None) == nano
    assert (usage.prompt_tokens, usage.completion_tokens) == (1_000, 10)


@given(st.recursive(st.none() | st.integers() | st.floats() | st.text(max_size=9), st.lists), st.booleans())
def test_no_report_is_too_odd_to_be_read(value: Any, byok: bool) -> None:
    told = Charged(
        cost=value, cost_details={"upstream_inference_cost": value}, is_byok=byok, estimated_cost=value
    )
    usage = billed(USAGE, told)
    assert not isinstance(usage, BilledUsage) or usage.cost_nano >= 0


@pytest.mark.parametrize(
    ("answer", "wire"),
    [
        (
            {
                "choices": [{"message": {"content": "x"}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 1, "completion_tokens": 1, "cost": 0.5},
            },
            ChatCompletions(ORIGIN, model="m"),
        ),
        (
            {
                "status": "completed",
                "output": [],
                "usage": {"input_tokens": 1, "output_tokens": 1, "cost": 0.5},
            },
            Responses(ORIGIN, model="m"),
        ),
    ],
)
def test_an_answer_brings_its_bill(answer: Any, wire: Any) -> None:
    usage = decoded(wire, answer).usage
    assert isinstance(usage, BilledUsage)
    assert usage.cost_nano == 500_000_000
    assert usage.plain() == Usage(prompt_tokens=1, completion_tokens=1)


def test_a_configured_price_counts_before_the_providers_figure_and_that_before_the_table() -> None:
    told = BilledUsage(prompt_tokens=1_000, completion_tokens=10, cost_nano=77)
    table = flat(1_000_000, 2_000_000, source="table")
    configured = flat(1_000_000, 2_000_000)
    assert charge_nano(configured, told) == cost_nano(configured, told) == 1_020
    assert charge_nano(FREE, told) == 0
    assert charge_nano(table, told) == 77
    assert charge_nano(table, USAGE) == 1_020
    assert charge_nano(None, told) == 77
    assert charge_nano(None, USAGE) == 0
