"""Jobs that come too late, and jobs nobody wants any more."""

from __future__ import annotations

import time

import pytest

from tests.e2e.processes import Fleet, until
from tests.e2e.provider import Fate

pytestmark = pytest.mark.e2e


def control(fleet: Fleet, **fields: str) -> None:
    fleet.redis.xadd(f"{fleet.prefix}:control", {"cmd": "cancel", **fields})


def test_a_job_past_its_deadline_is_never_sent(fleet: Fleet) -> None:
    late = fleet.push(prompt="late", ttl_ms=1)
    past = fleet.push(prompt="past", deadline_ms=int(time.time() * 1000) - 1000)
    both = fleet.push(prompt="both", deadline_ms=int(time.time() * 1000) + 60_000, ttl_ms=1)
    fleet.start().wait_ready()
    for reply in fleet.answers([late, past, both]):
        assert (reply["error_code"], reply["error_retryable"]) == ("deadline_exceeded", "0")
    assert fleet.provider.calls == []
    fleet.settled()


def test_a_deadline_during_the_call_closes_the_connection(fleet: Fleet) -> None:
    fleet.start().wait_ready()
    fleet.provider.answer(Fate(latency_s=8), prompt="slow")
    started = time.monotonic()
    reply = fleet.ask(prompt="slow", ttl_ms=700)
    assert reply["error_code"] == "deadline_exceeded"
    assert 0.5 < time.monotonic() - started < 2.5
    until(lambda: fleet.provider.called("slow")[0].closed, 2)
    assert len(fleet.provider.calls) == 1


def test_a_deadline_while_waiting_for_a_slot_is_kept(fleet: Fleet) -> None:
    fleet.config["models"] = [fleet.model("fast", concurrency=1)]
    fleet.start().wait_ready()
    fleet.provider.answer(Fate(latency_s=2), prompt="slow")
    slow = fleet.push(prompt="slow")
    until(lambda: fleet.provider.calls, 5)
    started = time.monotonic()
    assert fleet.ask(prompt="waits", ttl_ms=500)["error_code"] == "deadline_exceeded"
    assert time.monotonic() - started < 1.5
    assert fleet.answers([slow])[0]["status"] == "ok"
    assert fleet.provider.called("waits") == []


def test_cancelling_reaches_jobs_that_run_that_wait_and_that_are_read_later(fleet: Fleet) -> None:
    fleet.config["models"] = [fleet.model("fast", concurrency=1)]
    early = fleet.push(prompt="early", id="early")
    control(fleet, id="early")
    fleet.start().wait_ready()
    assert fleet.answers([early])[0]["error_code"] == "cancelled"
    fleet.provider.answer(Fate(latency_s=20))
    runs = fleet.push(prompt="runs", id="runs")
    until(lambda: fleet.provider.called("runs"), 5)
    waits, unnamed = fleet.push(prompt="waits", id="waits", tenant="one"), fleet.push(prompt="unnamed")
    other = fleet.push(prompt="waits", id="waits", tenant="other")
    control(fleet, id="waits", tenant="stranger")
    control(fleet, id="waits", tenant="one")
    control(fleet, id=unnamed)
    for reply in fleet.answers([waits, unnamed], 3):
        assert (reply["error_code"], reply["error_retryable"]) == ("cancelled", "0")
    control(fleet, id="runs")
    assert fleet.answers([runs], 3)[0]["error_code"] == "cancelled"
    until(lambda: fleet.provider.called("runs")[0].closed, 2)
    until(lambda: len(fleet.provider.calls) == 2, 3)  # the slot is free again, for the other tenant's job
    control(fleet, id="waits", tenant="other")
    assert fleet.answers([other], 3)[0]["error_code"] == "cancelled"
    assert [call.prompt for call in fleet.provider.calls] == ["runs", "waits"]
    fleet.settled()


def test_an_id_pushed_again_after_its_cancelling_runs(fleet: Fleet) -> None:
    fleet.start().wait_ready()
    fleet.provider.answer(Fate(latency_s=20), Fate())
    first = fleet.push(prompt="x", id="a")
    until(lambda: fleet.provider.calls, 5)
    control(fleet, id="a")
    assert fleet.answers([first], 3)[0]["error_code"] == "cancelled"
    assert fleet.ask(prompt="x", id="a")["status"] == "ok"


def taken_in(fleet: Fleet) -> None:
    """Every process has read and finished a job that was pushed later than all before."""
    before = [len(process.events("job_finished")) for process in fleet.processes]
    until(lambda: fleet.pending() == fleet.redis.xlen(fleet.jobs_key()), 5)
    deadline = time.monotonic() + 10
    while any(len(p.events("job_finished")) == n for p, n in zip(fleet.processes, before, strict=True)):
        assert time.monotonic() < deadline
        assert fleet.ask(prompt="fence", cache="off")["status"] == "ok"


def test_the_call_goes_on_for_an_identical_job_whose_first_asker_gave_up(fleet: Fleet) -> None:
    fleet.start().wait_ready()
    fleet.provider.answer(Fate(latency_s=1.5), prompt="same")
    leader = fleet.push(prompt="same", id="leader")
    until(lambda: fleet.provider.calls, 5)
    twin = fleet.push(prompt="same", id="twin")
    taken_in(fleet)
    control(fleet, id="leader")
    assert fleet.answers([leader], 1)[0]["error_code"] == "cancelled"
    assert fleet.answers([twin])[0]["output"] == "answer to same"
    (call,) = fleet.provider.called("same")
    assert not call.closed


def test_the_call_goes_on_in_another_process_than_the_twins(fleet: Fleet) -> None:
    fleet.start_all("a", "b")
    fleet.provider.answer(Fate(latency_s=1.5), prompt="same")
    leader = fleet.push(prompt="same", id="leader")
    until(lambda: fleet.provider.calls, 5)
    twins = fleet.push_all([{"prompt": "same"}] * 10)
    taken_in(fleet)
    control(fleet, id="leader")
    assert fleet.answers([leader], 1)[0]["error_code"] == "cancelled"
    assert {reply["output"] for reply in fleet.answers(twins)} == {"answer to same"}
    assert len(fleet.provider.called("same")) == 1
