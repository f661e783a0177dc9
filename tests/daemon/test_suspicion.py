"""Whom a process death is blamed on, as a table."""

from __future__ import annotations

import pytest

from theo_daemon.suspicion import alone_from, suspect_from, treat


@pytest.mark.parametrize(
    ("deliveries", "deaths", "treatment"),
    [
        (3, 0, "rehearse"),  # two holders lost, and nobody knows why
        (3, 1, "read"),  # one of them died with the job's call
        (3, 2, "read"),
        (4, 2, "read"),
        (5, 2, "rehearse"),
        (100, 4, "rehearse"),  # however often it changed hands: only deaths on record refuse it
        (6, 5, "refuse"),
        (6, 7, "refuse"),
        (100, 5, "refuse"),
    ],
)
def test_a_suspect_is_refused_for_deaths_on_record_and_rehearsed_for_others(
    deliveries: int, deaths: int, treatment: str
) -> None:
    assert treat(deliveries, deaths, max_deliveries=5) == treatment


@pytest.mark.parametrize(("max_deliveries", "first"), [(1, 2), (2, 3), (3, 3), (5, 3), (100, 3)])
def test_no_entry_that_must_be_refused_is_read_before_it_is_looked_at(
    max_deliveries: int, first: int
) -> None:
    assert suspect_from(max_deliveries) == first
    assert max_deliveries + 1 >= first


@pytest.mark.parametrize(
    ("max_deliveries", "max_attempts", "deaths"),
    [(5, 4, 3), (5, 10, 4), (2, 4, 1), (1, 4, 1), (5, 1, 1), (100, 100, 99)],
)
def test_the_last_run_that_is_allowed_is_one_alone(
    max_deliveries: int, max_attempts: int, deaths: int
) -> None:
    assert alone_from(max_deliveries, max_attempts) == deaths
