"""Ids that make a push idempotent, and answers that are kept."""

from __future__ import annotations

import time

import pytest

from tests.e2e.processes import Fleet, until
from tests.e2e.provider import Fate, failing

pytestmark = pytest.mark.e2e


def test_an_id_runs_once_at_the_same_time_afterwards_and_after_a_restart(fleet: Fleet) -> None:
    fleet.config["routing"] = {"default": "fast", "cache_enabled": False}
    serve = fleet.start().wait_ready()
    fleet.provider.answer(Fate(latency_s=0.5))
    mine = f"{fleet.prefix}:reply:mine"
    first = fleet.push(prompt="x", id="order-1")
    second = fleet.push(prompt="x", id="order-1", reply_to=mine)
    replies = [*fleet.answers([first]), *fleet.answers([second], key="reply:mine")]
    third = fleet.ask(prompt="x", id="order-1")
    serve.terminate()
    assert serve.wait_exit(10) == 0
    fleet.start("b").wait_ready()
    fourth = fleet.ask(prompt="x", id="order-1")
    assert len(fleet.provider.calls) == 1
    for reply in (*replies, third, fourth):
        assert (reply["status"], reply["output"], reply["id"]) == ("ok", "answer to x", "order-1")
    other = fleet.ask(prompt="y", id="order-1")
    assert (other["error_code"], other["error_retryable"]) == ("id_conflict", "0")
    assert fleet.ask(prompt="y", id="order-1", tenant="other")["output"] == "answer to y"
    assert fleet.ask(prompt="x", id="order-1")["output"] == "answer to x"


def test_another_payload_under_an_id_that_still_runs_is_a_conflict(fleet: Fleet) -> None:
    fleet.start().wait_ready()
    fleet.provider.answer(Fate(latency_s=1))
    first = fleet.push(prompt="x", id="a")
    until(lambda: fleet.provider.calls, 5)
    assert fleet.ask(prompt="y", id="a")["error_code"] == "id_conflict"
    assert fleet.answers([first])[0]["status"] == "ok"


@pytest.mark.parametrize(
    ("fate", "code", "remembered"),
    [
        (failing(400, "bad parameter"), "invalid_request", True),
        (failing(400, "too long", "context_length_exceeded"), "context_length_exceeded", True),
        (failing(400, "filtered", "content_filter"), "content_filtered", True),
        (failing(500, "boom"), "provider_unavailable", False),
        (failing(429, "slow down", "rate_limit_exceeded"), "rate_limited", False),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_id_remembers_what_the_table_says(fleet: Fleet, fate: Fate, code: str, remembered: bool) -> None:
    fleet.config["routing"] = {"default": "fast", "max_attempts": 1, "circuit_breaker_threshold": 100}
    fleet.start().wait_ready()
    fleet.provider.answer(fate, Fate(), prompt="x")
    assert fleet.ask(prompt="x", id="a")["error_code"] == code
    again = fleet.ask(30, prompt="x", id="a")
    assert again.get("error_code") == (code if remembered else None)
    assert len(fleet.provider.calls) == (1 if remembered else 2)
    assert float(again["cost"]) == 0


def test_cache_hits_refreshes_and_stays_off_as_asked(fleet: Fleet) -> None:
    fleet.start().wait_ready()
    fleet.provider.answer(*(Fate(text=f"answer {n}") for n in range(1, 9)))

    def ask(**fields: str) -> tuple[str, str]:
        reply = fleet.ask(prompt="x", **fields)
        return reply["output"], reply["cache_hit"]

    assert ask() == ("answer 1", "0")
    assert ask() == ("answer 1", "1")
    assert ask(cache="off") == ("answer 2", "0")
    assert ask() == ("answer 1", "1")
    assert ask(cache="refresh") == ("answer 3", "0")
    assert ask() == ("answer 3", "1")
    assert ask(tenant="t") == ("answer 4", "0")
    assert ask(workflow="w") == ("answer 5", "0")
    assert ask(system="s") == ("answer 6", "0")
    assert ask(params='{"temperature": 1}') == ("answer 7", "0")
    assert ask(params='{ "temperature":1 }') == ("answer 7", "1")
    assert ask(tenant="t") == ("answer 4", "1")


def test_jobs_without_cache_do_not_share_a_call(fleet: Fleet) -> None:
    fleet.start().wait_ready()
    fleet.provider.answer(Fate(latency_s=0.3))
    replies = fleet.answers(fleet.push_all([{"prompt": "x", "cache": "off"}] * 3))
    assert len(fleet.provider.calls) == 3
    assert {(reply["cache_hit"], reply["coalesced"]) for reply in replies} == {("0", "0")}


def test_the_cache_forgets_with_time_and_keeps_no_more_than_its_size(fleet: Fleet) -> None:
    fleet.config["routing"] = {"default": "fast", "cache_ttl_seconds": 1.0, "cache_max_entries": 3}
    fleet.start().wait_ready()
    started = time.monotonic()
    fleet.ask(prompt="old")
    hit = fleet.ask(prompt="old")
    if time.monotonic() - started < 0.9:
        assert hit["cache_hit"] == "1"
    until(lambda: time.monotonic() - started > 1.5, 5)
    assert fleet.ask(prompt="old")["cache_hit"] == "0"
    for n in range(10):
        fleet.ask(prompt=f"p{n}")
    hits = sum(int(fleet.ask(prompt=f"p{n}")["cache_hit"]) for n in reversed(range(10)))
    assert hits <= 3


def test_a_failed_call_is_not_cached(fleet: Fleet) -> None:
    fleet.config["routing"] = {"default": "fast", "max_attempts": 1}
    fleet.start().wait_ready()
    fleet.provider.answer(failing(400, "bad"), Fate())
    assert fleet.ask(prompt="x")["error_code"] == "invalid_request"
    assert fleet.ask(prompt="x")["status"] == "ok"
