"""Does a job fit a model's context window?"""

from __future__ import annotations

from typing import Any

import pytest

from theo_daemon.config import ModelConfig
from theo_daemon.job import EntryRef, Envelope, Job
from theo_daemon.preflight import (
    SLACK_TOKENS,
    Misfit,
    cap_under_a_ceiling,
    misfit,
    output_cap,
    refusal,
    room,
    surely_fits,
)
from theo_workers.messages import Message
from theo_workers.prices import FREE, flat


def model(
    name: str = "m", *, provider: Any = "openai", window: int | None = 1_000, most: int | None = None
) -> ModelConfig:
    return ModelConfig(
        name=name, provider=provider, model=name, context_window=window, max_output_tokens=most
    )


def job(content: Any = "hi", **params: Any) -> Job:
    return Job(
        envelope=Envelope(ref=EntryRef("theo:jobs", "1-1"), id="1-1"),
        lane="default",
        model=None,
        messages=(Message(role="user", content=content),),
        params=params,
        workflow="default",
        cache="use",
        stream=False,
        content=b"",
    )


@pytest.mark.parametrize(
    ("asked", "most", "cap"),
    [(None, None, None), (None, 50, 50), (100, None, 100), (100, 50, 50), (20, 50, 20)],
)
def test_an_answer_is_as_long_as_job_and_model_both_allow(
    asked: int | None, most: int | None, cap: int | None
) -> None:
    params = {} if asked is None else {"max_tokens": asked}
    assert output_cap(job(**params), model(most=most)) == cap


@pytest.mark.parametrize(
    ("ceiling_usd", "window", "cap"),
    [
        (None, None, 4_096),  # of a job alone
        (100.0, None, 4_096),
        (16.384, None, 4_096),
        (16.383, None, 4_095),  # a quarter of the ceiling, at a dollar for a thousand tokens
        (1.0, None, 250),
        (0.04, None, 16),
        (0.0, None, 16),
        (100.0, 1_000, 500),
        (1.0, 1_000, 250),
    ],
)
def test_an_answer_that_nothing_caps_holds_a_quarter_of_a_low_ceiling(
    ceiling_usd: float | None, window: int | None, cap: int
) -> None:
    ceiling_nano = None if ceiling_usd is None else round(ceiling_usd * 10**9)
    price = flat(0, 1_000 * 10**9)
    assert cap_under_a_ceiling(model(window=window), price, ceiling_nano) == cap
    assert cap_under_a_ceiling(model(window=None), FREE, 10**9) == 4_096


@pytest.mark.parametrize(
    ("tokens", "source", "window", "asked", "fits"),
    [
        (1_000, "tokenizer", 1_000, None, True),
        (1_001, "tokenizer", 1_000, None, False),
        (900, "tokenizer", 1_000, 100, True),
        (901, "tokenizer", 1_000, 100, False),
        (1_170, "formula", 1_000, None, True),  # perhaps: the formula may be wrong by so much
        (1_180, "formula", 1_000, None, False),
        (2_000, "characters", 1_000, None, True),
        (2_001, "characters", 1_000, None, False),
        (10**9, "tokenizer", None, None, True),
    ],
)
def test_a_model_is_refused_only_what_is_certainly_too_long(
    tokens: int, source: str, window: int | None, asked: int | None, fits: bool
) -> None:
    params = {} if asked is None else {"max_tokens": asked}
    assert (misfit(job(**params), model(window=window), tokens, source) is None) is fits


@pytest.mark.parametrize(
    ("provider", "fits"), [("openai", False), ("anthropic", False), ("gemini", True), ("local", True)]
)
def test_the_answer_takes_room_where_providers_count_it(provider: str, fits: bool) -> None:
    assert (misfit(job(max_tokens=500), model(provider=provider), 900, "tokenizer") is None) is fits


@pytest.mark.parametrize(
    ("misfits", "said"),
    [
        (
            [Misfit("small", 8_192, 9_812, 1_000, True)],
            "9,812 prompt tokens and up to 1,000 for the answer do not fit the context window of small, 8,192 tokens",
        ),
        (
            [Misfit("small", 4_096, 9_812, 0, True), Misfit("big", 8_192, 9_700, 0, False)],
            "about 9,700 prompt tokens do not fit the context window of big, 8,192 tokens; nor those of small",
        ),
        (
            [Misfit(f"m{n}", 10 - n, 20, 0, True) for n in range(7)],
            "20 prompt tokens do not fit the context window of m0, 10 tokens; nor those of m1, m2, m3, m4 and others",
        ),
    ],
)
def test_a_refusal_names_the_numbers_of_the_roomiest(misfits: list[Misfit], said: str) -> None:
    assert refusal(misfits).detail == said


def test_short_jobs_are_not_counted_at_all() -> None:
    tight = room([model(window=128_000, most=4_000), model(window=10_000), model(window=None)])
    assert tight == 10_000 - SLACK_TOKENS
    assert room([model(window=None)]) is None
    assert surely_fits(job(), 6_000, tight)
    assert not surely_fits(job(), 7_000, tight)
    assert not surely_fits(job(max_tokens=2_000), 6_000, tight)
    image = [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]
    assert not surely_fits(job(image), 100, tight)
