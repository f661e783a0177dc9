"""Jobs that wait for a model that takes no calls are in nobody's way."""

from __future__ import annotations

import json

import pytest

from tests.e2e.processes import Fleet, until
from tests.e2e.provider import Fate, failing

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("most", [1024, 40])
def test_a_dead_model_s_jobs_do_not_keep_those_of_a_healthy_one_from_being_read_and_run(
    fleet: Fleet, most: int
) -> None:
    dead = fleet.model("dead", routing={"circuit_breaker_threshold": 3, "circuit_breaker_timeout_s": 60.0})
    fleet.config["models"] = [fleet.model("fast"), dead]
    fleet.config["ingress"] = {"max_in_flight": most}
    fleet.provider.answer(failing(503, "out of order"), model="dead")
    fleet.push_all({"prompt": f"never{n}", "model": "dead"} for n in range(most + 200))
    process = fleet.start().wait_ready()
    until(lambda: fleet.events("circuit_opened"), 10, "the circuit is open")
    replies = fleet.answers(fleet.push_all({"prompt": f"x{n}"} for n in range(200)), 10)
    assert {reply["status"] for reply in replies} == {"ok"}
    assert fleet.pending() <= most
    status = json.loads(process.get("/status")[1])
    assert status["waiting"] >= most // 4, "they wait here, parked"


def test_parked_jobs_run_when_their_model_serves_again(fleet: Fleet) -> None:
    fleet.config["models"] = [fleet.model("fast", routing={"circuit_breaker_timeout_s": 1.0})]
    fleet.config["ingress"] = {"max_in_flight": 20}
    fleet.provider.answer(*[failing(503, "out of order")] * 3, Fate())
    fleet.config["routing"] = {"default": "fast", "max_attempts": 1}
    fleet.start().wait_ready()
    replies = fleet.answers(fleet.push_all({"prompt": f"x{n}"} for n in range(100)), 15)
    ends = [reply.get("error_code", "ok") for reply in replies]
    assert ends.count("ok") >= 90
    fleet.settled()
