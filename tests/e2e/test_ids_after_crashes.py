"""Repeated ids when the process that ran the first push dies."""

from __future__ import annotations

import time

import pytest

from tests.e2e.processes import Fleet, until
from tests.e2e.provider import Fate

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("cache", ["use", "off"])
def test_a_repeat_that_waits_for_a_push_whose_process_died_is_answered_with_it(
    fleet: Fleet, cache: str
) -> None:
    """The survivor holds the repeat, which waits for the id; then it takes the first push over, which holds the id."""
    fleet.config["ingress"] = {"lease_s": 2.0}
    fleet.provider.answer(Fate(latency_s=30), Fate())
    victim = fleet.start("victim").wait_ready()
    job = {"prompt": "x", "id": "once", "cache": cache}
    first = fleet.push(**job)
    until(lambda: fleet.provider.calls, 5)
    peer = fleet.start("peer").wait_ready()
    victim.stand_still()
    still = time.monotonic()
    until(lambda: time.monotonic() - still > 1.5, 5)  # its waiting read is over: the next push is the peer's
    second = fleet.push(**job)
    until(lambda: fleet.redis.xpending(fleet.jobs_key(), "theo")["pending"] == 2, 5)
    victim.kill()
    replies = fleet.answers([first, second], 10)
    assert [reply["status"] for reply in replies] == ["ok", "ok"]
    assert replies[0]["output"] == replies[1]["output"]
    assert len(fleet.provider.calls) == 2
    assert peer.running
    fleet.settled()
