"""Processes that may have few files open: fewer calls at a time, never a failed job or a circuit that opens for it."""

from __future__ import annotations

import math
import os
import resource
from pathlib import Path

import pytest

from tests.e2e.processes import Fleet, Serve, until
from tests.e2e.provider import Fate

pytestmark = pytest.mark.e2e

JOBS = 60
LATE = 8  # calls whose end the provider may not have noted yet when the next begins


def limited(fleet: Fleet, files: int) -> Serve:
    """A process that may have so many open, and can raise its limit no further."""
    fleet.wrapper = ["sh", "-c", f'ulimit -n {files}; exec "$@"', "sh"]
    fleet.config["models"] = [fleet.model("fast", concurrency=JOBS)]
    return fleet.start()


def open_files(process: Serve) -> int:
    return len(os.listdir(f"/proc/{process.pid}/fd"))


def most_at_once(fleet: Fleet) -> int:
    calls = fleet.provider.calls
    return max(sum(other.at <= call.at < (other.ended_at or math.inf) for other in calls) for call in calls)


def push(fleet: Fleet) -> list[str]:
    fleet.provider.answer(Fate(latency_s=0.2), prompt="x")
    return fleet.push_all({"prompt": f"x{n}"} for n in range(JOBS))


def test_a_low_limit_means_fewer_jobs_at_a_time_and_is_told(fleet: Fleet) -> None:
    process = limited(fleet, 80).wait_ready()
    (warning,) = process.events("warning")
    assert "may open 80 files: it holds 16 jobs at a time instead of max_in_flight = " in warning["reason"]
    assert [reply["status"] for reply in fleet.answers(push(fleet), 20)] == ["ok"] * JOBS
    assert most_at_once(fleet) <= 16 + LATE


def test_a_limit_that_leaves_no_file_for_a_call_is_refused_at_the_start(fleet: Fleet) -> None:
    process = limited(fleet, 64)
    assert process.wait_exit(15) == 2
    assert "this process may open 64 files, and needs 64 and one for each call" in process.log
    assert "LimitNOFILE=" in process.log


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc")
def test_files_running_out_under_a_running_process_delay_calls_and_nothing_else(fleet: Fleet) -> None:
    """Whatever took them: what a process has open is taken as its limit, and some for calls."""
    fleet.config["models"] = [fleet.model("fast", concurrency=JOBS)]
    process = fleet.start().wait_ready()
    limit = open_files(process) + 8
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (limit, limit))
    replies = fleet.answers(push(fleet), 30)
    assert [reply["status"] for reply in replies] == ["ok"] * JOBS
    assert len(fleet.provider.calls) == JOBS
    assert most_at_once(fleet) <= 8 + LATE
    assert process.running
    assert not process.events("circuit_opened")
    until(lambda: process.get("/readyz")[0] == 200, 10)
