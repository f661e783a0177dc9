"""Redis away, emptied, or full."""

from __future__ import annotations

import time

import pytest

from tests.e2e.processes import Fleet, until
from tests.e2e.provider import Fate
from theo_daemon.embedded_valkey import EmbeddedValkey

pytestmark = pytest.mark.e2e


def test_a_redis_that_is_killed_amid_traffic_costs_no_job_and_no_reply(
    own_fleet: Fleet, own_valkey: EmbeddedValkey
) -> None:
    fleet = own_fleet
    serve = fleet.start().wait_ready()
    fleet.provider.answer(Fate(latency_s=0.5), prompt="x")
    entries = fleet.push_all({"prompt": f"x{n}"} for n in range(300))
    until(lambda: len(fleet.finals()) > 30, 10)
    own_valkey.kill()
    until(lambda: serve.get("/readyz")[0] == 503, 5, "not ready")
    down = time.monotonic()
    until(lambda: time.monotonic() - down > 2, 5)
    own_valkey.start()
    until(lambda: serve.get("/readyz")[0] == 200, 10, "ready again")
    entries.append(fleet.push(prompt="after"))
    replies = fleet.answers(entries, 20)
    assert {reply["status"] for reply in replies} == {"ok"}
    assert len(fleet.provider.calls) == 301
    fleet.settled()


def test_a_redis_that_lost_everything_is_served_again(own_fleet: Fleet) -> None:
    fleet = own_fleet
    fleet.start().wait_ready()
    fleet.provider.answer(Fate(latency_s=0.5), prompt="x")
    sent = fleet.push_all({"prompt": f"x{n}"} for n in range(5))
    until(lambda: len(fleet.provider.calls) == 5, 5)
    fleet.redis.flushall()
    assert fleet.ask(prompt="new")["output"] == "answer to new"
    assert fleet.answers([fleet.push("high", prompt="urgent")])[0]["output"] == "answer to urgent"
    assert {reply["status"] for reply in fleet.answers(sent, 5)} == {"ok"}, (
        "what was held is answered all the same"
    )
    assert len(fleet.provider.calls) == 7
    fleet.settled()
    fleet.settled("high")


def test_replies_come_when_a_full_redis_has_room_again(own_fleet: Fleet) -> None:
    fleet = own_fleet
    serve = fleet.start().wait_ready()
    fleet.provider.answer(Fate(latency_s=1), prompt="x")
    entries = fleet.push_all({"prompt": f"x{n}"} for n in range(20))
    until(lambda: len(fleet.provider.calls) == 20, 5)
    fleet.redis.config_set("maxmemory", "1mb")
    serve.wait_event("publish_refused")
    assert fleet.finals() == {}
    fleet.redis.config_set("maxmemory", "0")
    replies = fleet.answers(entries, 15)
    assert {reply["status"] for reply in replies} == {"ok"}
    assert len(fleet.provider.calls) == 20
    fleet.settled()
