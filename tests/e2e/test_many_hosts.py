"""Processes with working folders of their own and one ledger in Redis: as on several hosts."""

from __future__ import annotations

import json

import pytest

from tests.e2e.processes import Fleet, Serve
from tests.e2e.provider import Fate

pytestmark = pytest.mark.e2e

BOUND_USD = 1.0  # of one call: a thousand tokens at a thousand dollars a million


@pytest.fixture
def hosts(fleet: Fleet) -> Fleet:
    fleet.config["ledger"] = {"url": "redis"}
    fleet.config["ingress"] = {"lease_s": 3.0}
    return fleet


def spent_usd(process: Serve) -> tuple[float, float]:
    """Spent and held."""
    (model,) = json.loads(process.get("/status")[1])["models"]
    return float(model["spent_usd"]), float(model["held_usd"])


def test_three_hundred_identical_jobs_on_two_hosts_cost_one_call(hosts: Fleet) -> None:
    hosts.start_all("a", "b")
    hosts.provider.answer(Fate(latency_s=1), prompt="same")
    replies = hosts.answers(hosts.push_all({"prompt": "same"} for _ in range(300)), 20)
    assert {reply["status"] for reply in replies} == {"ok"}
    assert len(hosts.provider.calls) == 1
    shared = [reply for reply in replies if reply["coalesced"] == "1" or reply["cache_hit"] == "1"]
    assert len(shared) == 299
    hosts.settled()
