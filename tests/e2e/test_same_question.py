"""One question many times: one paid call, however many ask and wherever they are read."""

from __future__ import annotations

import pytest

from tests.e2e.processes import Fleet
from tests.e2e.provider import Fate

pytestmark = pytest.mark.e2e


def test_three_hundred_identical_jobs_over_two_processes_cost_one_call(fleet: Fleet) -> None:
    fleet.config["models"] = [fleet.model("fast", input_cost_per_mtok=1, output_cost_per_mtok=1)]
    fleet.provider.answer(Fate(latency_s=1.5))
    processes = fleet.start_all("a", "b")
    replies = fleet.answers(fleet.push_all([{"prompt": "same"}] * 300), 15)
    assert len(fleet.provider.calls) == 1
    assert {(reply["status"], reply["output"]) for reply in replies} == {("ok", "answer to same")}
    paid = [reply for reply in replies if (reply["coalesced"], reply["cache_hit"]) == ("0", "0")]
    assert len(paid) == 1
    assert float(paid[0]["cost"]) == pytest.approx(15e-6)
    assert all(float(reply["cost"]) == 0 for reply in replies if reply is not paid[0])
    assert not any(reply["coalesced"] == "1" and reply["cache_hit"] == "1" for reply in replies)
    fleet.settled()
    assert sum(len(process.events("job_finished")) for process in processes) == 300
    assert all(process.events("job_finished") for process in processes)
