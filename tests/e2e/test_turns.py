"""Who is served next: lanes by their shares, tenants in turn."""

from __future__ import annotations

import pytest

from tests.e2e.processes import Fleet, until
from tests.e2e.provider import Fate

pytestmark = pytest.mark.e2e


def test_high_jobs_overtake_a_backlog_of_low_ones_that_still_get_their_share(fleet: Fleet) -> None:
    fleet.config["models"] = [fleet.model("fast", concurrency=1)]
    fleet.provider.answer(Fate(latency_s=0.01))
    fleet.push_all(({"prompt": f"low{n}"} for n in range(300)), lane="low")
    fleet.start().wait_ready()
    until(lambda: len(fleet.provider.calls) >= 20, 5)
    before = len(fleet.provider.calls)
    fleet.push_all(({"prompt": f"high{n}"} for n in range(60)), lane="high")
    until(lambda: len(fleet.provider.called("high")) == 60, 10)
    started = [call.prompt.rstrip("0123456789") for call in fleet.provider.calls[before:]]
    last = max(n for n, lane in enumerate(started) if lane == "high")
    low = started[: last + 1].count("low")
    assert 5 <= low <= 25, started


def test_a_quiet_tenant_is_served_within_forty_starts_behind_a_loud_one(fleet: Fleet) -> None:
    fleet.config["models"] = [fleet.model("fast", concurrency=2)]
    fleet.provider.answer(Fate(latency_s=0.05))
    fleet.start().wait_ready()
    fleet.push_all({"prompt": f"loud{n}", "tenant": "loud"} for n in range(1000))
    until(lambda: len(fleet.provider.calls) >= 10, 10)
    before = len(fleet.provider.calls)
    fleet.push_all({"prompt": f"quiet{n}", "tenant": "quiet"} for n in range(10))
    until(lambda: len(fleet.provider.calls) >= before + 41, 10)
    started = [call.prompt for call in fleet.provider.calls[before : before + 40]]
    assert sum(prompt.startswith("quiet") for prompt in started) == 10, started


def test_a_quiet_tenant_behind_five_thousand_jobs_of_a_loud_one_starts_soon(fleet: Fleet) -> None:
    fleet.config["models"] = [fleet.model("fast", concurrency=2)]
    fleet.provider.answer(Fate(latency_s=0.05))
    fleet.push_all({"prompt": f"loud{n}", "tenant": "loud"} for n in range(5000))
    fleet.start().wait_ready()
    until(lambda: len(fleet.provider.calls) >= 80, 10)  # and the backlog has been looked through
    before = len(fleet.provider.calls)
    fleet.push_all({"prompt": f"quiet{n}", "tenant": "quiet"} for n in range(10))
    until(lambda: len(fleet.provider.calls) >= before + 41, 10)
    started = [call.prompt for call in fleet.provider.calls[before : before + 40]]
    assert sum(prompt.startswith("quiet") for prompt in started) == 10, started
    assert fleet.pending() <= 1024


@pytest.mark.parametrize("pushed", ["before", "after"])
def test_a_quiet_tenant_has_its_turns_though_three_processes_serve_the_loud_one(
    fleet: Fleet, pushed: str
) -> None:
    fleet.config["models"] = [fleet.model("fast", concurrency=2)]
    fleet.provider.answer(Fate(latency_s=0.1))
    loud = [{"prompt": f"loud{n}", "tenant": "loud"} for n in range(1000)]
    if pushed == "before":
        fleet.push_all(loud)
    fleet.start_all("a", "b", "c")
    if pushed == "after":
        fleet.push_all(loud)
    until(lambda: len(fleet.provider.calls) >= 30, 10)
    before = len(fleet.provider.calls)
    fleet.push_all({"prompt": f"quiet{n}", "tenant": "quiet"} for n in range(10))
    until(lambda: len(fleet.provider.called("quiet")) == 10, 10)
    started = [call.prompt for call in fleet.provider.calls[before:]]
    last = max(n for n, prompt in enumerate(started) if prompt.startswith("quiet"))
    assert last < 40, started[: last + 1]
