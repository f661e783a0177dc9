"""A slice of `make chaos`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from tests.chaos.fleet import FILE, REDIS
from tests.chaos.report import show, unreached
from tests.chaos.run import Rehearsal, rehearse, wiping
from tests.chaos.trouble import Rates
from tests.e2e.zygote import Zygote


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote() as zygote:
        yield zygote


@pytest.mark.e2e
@pytest.mark.parametrize("ledger", [FILE, REDIS])
def test_a_few_kills_lose_no_job_answer_none_twice_and_leave_exact_books(
    tmp_path: Path, zygote: Zygote, ledger: str
) -> None:
    plan = Rehearsal(jobs=500, seconds=5.0, seed=7, processes=2, ledger=ledger, timeout_s=1.5)
    report = rehearse(tmp_path, zygote, plan)
    assert report.good, show(report)
    assert report.counts["SIGKILLs"] >= 3
    assert report.counts["SIGSTOPs"] >= 1
    assert report.counts["Redis SIGKILLs"] >= 1
    assert (
        report.counts["entries acknowledged by a stranger"]
        + report.counts["entries dropped with a deleted consumer"]
    )


@pytest.mark.e2e
def test_what_is_pushed_after_redis_lost_everything_is_answered_once_and_what_it_cost_before_is_on_record(
    tmp_path: Path, zygote: Zygote
) -> None:
    report = rehearse(tmp_path, zygote, structs.replace(wiping(2, seed=7, processes=2), timeout_s=1.5))
    assert report.good, show(report)
    assert report.counts["wipes by FLUSHALL"] == 1
    assert report.counts["wipes by a restart without data"] == 1
    assert report.counts["jobs that Redis held when it was wiped"] > 0


def test_a_rehearsal_whose_faults_did_not_happen_proves_nothing() -> None:
    rates = Rates(kill_s=1.0, stop_s=1.0, redis_kill_s=1.0, cut_s=1.0, strangers_s=1.0)
    strangers = {"entries acknowledged by a stranger": 40, "entries dropped with a deleted consumer": 40}
    counts = {"SIGKILLs": 60, "SIGSTOPs": 30, "Redis SIGKILLs": 29, "connections cut": 0, **strangers}
    assert unreached(rates, 60.0, counts) == [
        "29 Redis SIGKILLs, where 60 were to be expected",
        "0 connections cut, where 60 were to be expected",
    ]
    assert unreached(rates, 29.0, counts) == []  # too few to tell it from chance
