"""A slice of `make chaos`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.fleet import FILE, REDIS
from tests.chaos.run import rehearse, show


@pytest.mark.e2e
@pytest.mark.parametrize("ledger", [FILE, REDIS])
def test_a_few_kills_lose_no_job_answer_none_twice_and_leave_exact_books(tmp_path: Path, ledger: str) -> None:
    report = rehearse(tmp_path, jobs=300, seconds=8.0, seed=7, processes=2, ledger=ledger)
    assert report.good, show(report)
    assert report.counts["SIGKILLs"] >= 3
    assert report.counts["SIGSTOPs"] >= 1
    assert report.counts["Redis SIGKILLs"] >= 1
