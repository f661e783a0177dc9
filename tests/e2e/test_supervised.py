"""`serve --processes N`: what becomes of calls under way when a child or the supervisor dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.commands import alive
from tests.e2e.processes import Fleet, Serve, until
from tests.e2e.provider import Fate

pytestmark = pytest.mark.e2e

COUNT, JOBS = 2, 12


def children(parent: Serve) -> list[int]:
    return [int(line["consumer"].split("-")[-2]) for line in parent.events("process_started")]


@contextmanager
def busy(fleet: Fleet, latency_s: float = 2) -> Iterator[tuple[Serve, list[str]]]:
    """Processes with all the jobs at the provider. Afterwards all must have ended."""
    fleet.config["ingress"] = {"lease_s": 2.0}
    fleet.provider.answer(Fate(latency_s=latency_s), prompt="x")
    parent = fleet.start("parent", "--processes", str(COUNT))
    try:
        until(lambda: len(children(parent)) == COUNT, 20)
        entries = fleet.push_all({"prompt": f"x{n}"} for n in range(JOBS))
        until(lambda: len(fleet.provider.calls) == JOBS, 15)
        yield parent, entries
        until(lambda: not any(map(alive, children(parent))), 20, lambda: children(parent))
    finally:
        for pid in filter(alive, children(parent)):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("when", ["while it serves", "while it drains"])
def test_a_killed_supervisor_s_processes_drain_and_what_was_sent_is_paid_for_once(
    fleet: Fleet, when: str
) -> None:
    """The kernel tells each of them once for each thread of the supervisor, which is no second signal."""
    with busy(fleet) as (parent, entries):
        if when == "while it drains":
            parent.terminate()
            until(lambda: len(parent.events("drain_started")) == COUNT, 15)
        parent.kill()
    assert [line["cut_off"] for line in parent.events("drain_finished")] == [0] * COUNT
    assert {reply["status"] for reply in fleet.answers(entries, 1)} == {"ok"}
    assert len(fleet.provider.calls) == JOBS


def test_a_killed_child_is_replaced_and_its_siblings_calls_are_left_alone(fleet: Fleet) -> None:
    with busy(fleet) as (parent, entries):
        os.kill(children(parent)[0], signal.SIGKILL)
        assert {reply["status"] for reply in fleet.answers(entries, 20)} == {"ok"}
        closed = [call.prompt for call in fleet.provider.calls if call.closed]
        assert len(fleet.provider.calls) == JOBS + len(closed)
        until(lambda: len(children(parent)) == COUNT + 1, 20)
        parent.terminate()
        assert parent.wait_exit(20) == 0
    assert [line["status"] for line in parent.events("process_restarted")] == [-signal.SIGKILL]
    assert len(fleet.events("outcome_unknown")) == len(closed)


def test_a_second_signal_to_the_supervisor_ends_all_of_them_at_once(fleet: Fleet) -> None:
    with busy(fleet, latency_s=60) as (parent, entries):
        parent.terminate()
        until(lambda: len(parent.events("drain_started")) == COUNT, 15)
        parent.terminate()
        assert parent.wait_exit(20) == 1
    assert sum(line["cut_off"] for line in parent.events("drain_finished")) == JOBS
    assert not set(fleet.finals()) & set(entries)
    assert fleet.redis.xlen(fleet.jobs_key()) == JOBS, "they stay for whoever comes next"
