"""Who may have a rival."""

from __future__ import annotations

import pytest

from theo_daemon.hedge import SAVED, SHARE, Allowance, affordable


@pytest.mark.parametrize(
    ("bound", "most", "left", "may"),
    [
        (0, None, None, True),
        (1, None, None, False),  # only what is free, unless a price is allowed
        (None, 100, None, False),  # nobody knows
        (100, 100, None, True),
        (101, 100, None, False),
        (100, 100, 100, True),
        (100, 100, 99, False),  # the job's own ceiling
        (0, None, 0, True),
        (0, None, -1, False),
    ],
)
def test_a_rival_is_free_or_within_the_price_that_is_allowed_and_the_job_s_ceiling(
    bound: int | None, most: int | None, left: int | None, may: bool
) -> None:
    assert affordable(bound, most_nano=most, left_nano=left) is may


def test_rivals_are_a_share_of_the_calls_with_few_saved_up() -> None:
    allowance, sent = Allowance(), 0
    for _ in range(1_000):
        allowance.call()
        if allowance.is_left:
            allowance.spend()
            sent += 1
    assert sent <= 1_000 * SHARE
    assert sent >= 1_000 * SHARE - 1
    for _ in range(10_000):
        allowance.call()
    for _ in range(int(SAVED)):
        assert allowance.is_left
        allowance.spend()
    assert not allowance.is_left
