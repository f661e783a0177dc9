"""When a model fails: the next one answers, the breaker opens, and the reply says what was tried."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from tests.e2e.processes import Fleet, Reply, Serve, until
from tests.e2e.provider import Fate, failing
from theo_daemon.embedded_valkey import free_port

pytestmark = pytest.mark.e2e

NOWHERE = "http://127.0.0.1:1/v1"  # nobody listens on port 1


def group(fleet: Fleet, **bad: Any) -> None:
    """`fast` behind a model that fails, which is preferred by its weight."""
    preferred = fleet.model("bad", routing={"weight": 1_000_000}, **bad)
    fleet.config["models"] = [preferred, fleet.model("fast")]
    fleet.config["groups"] = {"chat": ["bad", "fast"]}
    fleet.config["routing"] = {"default": "chat"}


def attempts(reply: Reply) -> list[tuple[Any, ...]]:
    return [
        (a["model"], a["outcome"] == "ok", a["status_code"], a["error_code"])
        for a in json.loads(reply["attempts"])
    ]


@pytest.mark.parametrize(
    ("fate", "code"),
    [
        (failing(500, "boom"), "provider_unavailable"),
        (failing(503, "overloaded"), "provider_unavailable"),
        (failing(401, "bad key", "invalid_api_key"), "authentication_failed"),
        (failing(403, "not yours"), "authentication_failed"),
        (failing(429, "slow down", "rate_limit_exceeded", headers={"Retry-After": "20"}), "rate_limited"),
        (failing(429, "no money", "insufficient_quota"), "provider_quota_exhausted"),
        (failing(404, "The model `bad` does not exist", "model_not_found"), "invalid_request"),
        (Fate(body="what?"), "provider_unavailable"),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value.status),
)
def test_the_next_candidate_answers(fleet: Fleet, fate: Fate, code: str) -> None:
    group(fleet)
    fleet.start().wait_ready()
    fleet.provider.answer(fate, model="bad")
    reply = fleet.ask(prompt="x")
    assert (reply["status"], reply["model"]) == ("ok", "fast")
    *failed, last = attempts(reply)
    assert failed[0][:2] == ("bad", False)
    assert failed[0][2] in {fate.status, None if fate.status == 200 else fate.status}
    assert failed[0][3] == code
    assert last[:2] == ("fast", True)
    assert len(fleet.provider.calls) == len(failed) + 1


def test_a_refused_connection_is_no_answer_of_the_provider(fleet: Fleet) -> None:
    group(fleet, base_url=NOWHERE)
    fleet.start().wait_ready()
    reply = fleet.ask(prompt="x")
    assert (reply["status"], reply["model"]) == ("ok", "fast")
    assert attempts(reply)[0] == ("bad", False, None, "provider_unavailable")


def test_a_context_that_is_too_long_is_said_with_its_code(fleet: Fleet) -> None:
    fleet.start().wait_ready()
    fleet.provider.answer(failing(400, "maximum context length is 10 tokens", "context_length_exceeded"))
    reply = fleet.ask(prompt="x")
    assert (reply["error_code"], reply["error_retryable"]) == ("context_length_exceeded", "0")
    assert len(fleet.provider.calls) == 1


def test_a_refused_request_is_not_sent_to_others(fleet: Fleet) -> None:
    group(fleet)
    fleet.start().wait_ready()
    fleet.provider.answer(failing(400, "temperature must be below 2"), model="bad")
    reply = fleet.ask(prompt="x")
    assert (reply["error_code"], reply["error_status_code"]) == ("invalid_request", "400")
    assert fleet.provider.called(model="fast") == []


def test_the_only_models_error_is_the_reply(fleet: Fleet) -> None:
    fleet.config["routing"] = {"default": "fast", "max_attempts": 1}
    fleet.start().wait_ready()
    fleet.provider.answer(failing(500, "Boom"))
    reply = fleet.ask(prompt="x")
    assert reply["error_message"] == "HTTP 500: Boom (retryable: True, provider: openai)"
    said = {"error_code": "provider_unavailable", "error_retryable": "1", "error_status_code": "500"}
    assert {**said, "error_provider": "openai", "final": "1"}.items() <= reply.items()
    assert float(reply["cost"]) == 0


def test_with_one_attempt_a_rate_limit_is_final_at_once(fleet: Fleet) -> None:
    fleet.config["routing"] = {"default": "fast", "max_attempts": 1}
    fleet.start().wait_ready()
    limited = failing(429, "Rate limit exceeded", "rate_limit_exceeded", headers={"Retry-After": "20"})
    fleet.provider.answer(limited)
    reply = fleet.ask(5, prompt="x")
    assert reply["error_message"] == "HTTP 429: Rate limit exceeded (retryable: True, provider: openai)"
    assert reply["error_code"] == "rate_limited"
    assert 15_000 <= int(reply["retry_after_ms"]) <= 20_000


def test_all_candidates_failing_gives_the_last_ones_error_and_all_attempts(fleet: Fleet) -> None:
    group(fleet)
    fleet.config["routing"] |= {"max_attempts": 2, "when_unavailable": "fail"}
    fleet.start().wait_ready()
    fleet.provider.answer(failing(500, "first"), model="bad")
    fleet.provider.answer(failing(503, "second"), model="fast")
    reply = fleet.ask(20, prompt="x")
    assert reply["error_code"] == "provider_unavailable"
    assert {attempt[0] for attempt in attempts(reply)} == {"bad", "fast"}
    assert attempts(reply)[-1][2] == int(reply["error_status_code"])
    assert len(attempts(reply)) == len(fleet.provider.calls)


def state(process: Serve, model: str) -> str:
    models = json.loads(process.get("/status")[1])["models"]
    return str({one["name"]: one["state"] for one in models}[model])


def is_open(process: Serve) -> bool:
    return state(process, "bad") == "open"


def test_the_breaker_opens_after_three_failures_and_is_seen(fleet: Fleet) -> None:
    group(fleet)
    serve = fleet.start().wait_ready()
    fleet.provider.answer(failing(500, "boom"), model="bad")
    for n in range(5):
        assert fleet.ask(prompt=f"x{n}")["model"] == "fast"
    assert len(fleet.provider.called(model="bad")) == 3
    assert [event["model"] for event in fleet.events("circuit_opened")] == ["bad"]
    assert (state(serve, "bad"), state(serve, "fast")) == ("open", "closed")
    fleet.settled()


def test_a_breaker_that_one_process_opened_is_open_in_its_peer(fleet: Fleet) -> None:
    group(fleet)
    one, two = fleet.start_all("a", "b")
    fleet.provider.answer(failing(500, "boom"), model="bad")
    n = 0
    while not fleet.events("circuit_opened"):
        n += 1
        assert fleet.ask(prompt=f"x{n}")["model"] == "fast"
    for process in (one, two):
        until(partial(is_open, process), 1, f"open in {process.name}")
    before = len(fleet.provider.called(model="bad"))
    fleet.answers(fleet.push_all({"prompt": f"y{n}"} for n in range(20)))
    assert len(fleet.provider.called(model="bad")) == before
    late = fleet.start("c").wait_ready()
    until(partial(is_open, late), 1, "open in a process that came later")


def test_failures_in_a_row_are_those_of_all_processes(fleet: Fleet) -> None:
    group(fleet)
    fleet.provider.answer(failing(500, "boom"), model="bad")
    processes = fleet.start_all("a", "b", "c")  # Redis gives a job to who has waited longest: one each
    for n in range(3):
        assert fleet.ask(prompt=f"x{n}")["model"] == "fast"
    for process in processes:
        until(partial(is_open, process), 1, f"open in {process.name}")
    assert len(fleet.provider.called(model="bad")) == 3
    (told,) = until(lambda: fleet.events("circuit_opened"), 3, "circuit_opened")
    assert (told["model"], told["reason"]) == ("bad", "in_a_row")


def test_a_good_probe_closes_the_breaker(fleet: Fleet) -> None:
    fleet.config["routing"] = {"default": "fast", "max_attempts": 1, "when_unavailable": "fail"}
    fleet.config["routing"] |= {"circuit_breaker_threshold": 1, "circuit_breaker_timeout_s": 2.0}
    fleet.start().wait_ready()
    fleet.provider.answer(failing(500, "boom"), Fate())
    assert fleet.ask(prompt="x")["error_code"] == "provider_unavailable"
    refused = fleet.ask(prompt="y")
    assert (refused["error_code"], refused["error_retryable"]) == ("no_model_available", "1")
    until(lambda: fleet.ask(prompt="z", cache="off")["status"] == "ok", 5)
    until(lambda: fleet.events("circuit_closed"), 5)
    assert len(fleet.events("circuit_half_open")) == 1


def test_jobs_wait_for_a_model_to_come_back(fleet: Fleet) -> None:
    fleet.config["routing"] = {"default": "fast", "circuit_breaker_timeout_s": 1.0, "max_attempts": 10}
    fleet.start().wait_ready()
    fleet.provider.answer(*[failing(500, "boom")] * 3, Fate())
    replies = fleet.answers(fleet.push_all({"prompt": f"x{n}"} for n in range(5)), 20)
    assert {reply["status"] for reply in replies} == {"ok"}


def test_a_model_that_takes_less_than_half_of_its_calls_is_passed_over_and_status_says_so(
    fleet: Fleet,
) -> None:
    group(fleet)
    fleet.config["routing"] |= {"circuit_breaker_adaptive": "throttle", "circuit_breaker_threshold": 1_000}
    fleet.config["routing"] |= {"circuit_breaker_failure_ratio": 0.0}
    fleet.config["telemetry"] = {"http": f"127.0.0.1:{free_port()}"}
    process, url = fleet.start().wait_ready(), ("--redis-url", fleet.url)
    fleet.provider.answer(*[failing(500, "boom")] * 100, model="bad")
    replies = fleet.answers(fleet.push_all({"prompt": f"x{n}"} for n in range(10)), 10)
    for n in range(30):
        replies.append(fleet.ask(prompt=f"y{n}"))
    assert {(reply["status"], reply["model"]) for reply in replies} == {("ok", "fast")}
    calls = len(fleet.provider.called(model="bad"))
    assert 1 <= calls < 30
    bad = next(one for one in fleet.command("status", *url)["models"] if one["name"] == "bad")
    assert (bad["passed_over"], bad["total_failures"]) == (40 - calls, calls)
    assert bad["throttle"] > 0.8
    assert (bad["state"], bad["breaker"]) == ("closed", "closed")
    assert f"{bad['throttle']:.0%} passed over" in fleet.output("status", *url)
    assert f'theo_model_passed_over_total{{model="bad"}} {40 - calls}' in process.get("/metrics")[1]
    (told,) = fleet.events("model_throttled")
    assert told["model"] == "bad"
