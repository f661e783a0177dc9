"""What one process learns of a model, all processes of its ledger know."""

from __future__ import annotations

import json
import time
from functools import partial

import pytest

from tests.e2e.processes import Fleet, Serve, until
from tests.e2e.provider import Fate, failing

pytestmark = pytest.mark.e2e


def state(process: Serve, model: str = "fast") -> str:
    models = json.loads(process.get("/status")[1])["models"]
    return str({one["name"]: one["state"] for one in models}[model])


def counted(process: Serve, event: str) -> int:
    """How often this process has told of it, by its metrics."""
    start = f'theo_model_changes_total{{model="fast",event="{event}"}}'
    (line,) = [line for line in process.get("/metrics")[1].splitlines() if line.startswith(start)]
    return int(float(line.split()[-1]))


def all_are(word: str, *processes: Serve) -> bool:
    return all(state(process) == word for process in processes)


def test_a_retry_after_holds_for_every_process(fleet: Fleet) -> None:
    fleet.config["routing"] = {"default": "fast", "max_attempts": 1}
    one, two = fleet.start_all("a", "b")
    limited = failing(429, "slow down", "rate_limit_exceeded", headers={"Retry-After": "4"})
    fleet.provider.answer(limited, Fate())
    began = time.monotonic()
    assert fleet.ask(prompt="x")["error_code"] == "rate_limited"
    until(partial(all_are, "paused", one, two), 1, "paused in both")
    late = fleet.start("c").wait_ready()
    assert state(late) == "paused" or time.monotonic() > began + 4
    replies = fleet.answers(fleet.push_all({"prompt": f"y{n}"} for n in range(12)), 15)
    assert {reply["status"] for reply in replies} == {"ok"}
    assert min(call.at for call in fleet.provider.called("y")) >= began + 3.9
    assert len(fleet.events("model_paused")) == 1


def test_one_process_probes_for_three(fleet: Fleet) -> None:
    fleet.config["routing"] = {"default": "fast", "max_attempts": 1}
    fleet.config["routing"] |= {"circuit_breaker_threshold": 1, "circuit_breaker_timeout_s": 2.0}
    processes = fleet.start_all("a", "b", "c")
    fleet.provider.answer(failing(500, "boom"), Fate(latency_s=1.0), Fate())
    assert fleet.ask(prompt="x")["error_code"] == "provider_unavailable"
    opened = time.monotonic()
    until(partial(all_are, "open", *processes), 1, "open in all three")
    replies = fleet.answers(fleet.push_all({"prompt": f"y{n}"} for n in range(30)), 15)
    assert {reply["status"] for reply in replies} == {"ok"}
    first, *others = sorted(call.at for call in fleet.provider.called("y"))
    assert opened + 1.8 <= first <= opened + 3
    assert min(others) >= first + 1.0, "while the probe ran nobody else called"
    assert len({reply["entry_id"] for reply in replies}) == len(fleet.provider.called("y"))
    for name in ("circuit_opened", "circuit_half_open", "circuit_closed"):
        until(partial(fleet.events, name), 3, name)
        assert len(fleet.events(name)) == 1
        assert sum(len(process.events(name)) for process in processes) == 1, "one log line"
        assert sum(counted(process, name) for process in processes) == 1, "one metric"
    (opened_event,) = fleet.events("circuit_opened")
    said = {"model": "fast", "reason": "in_a_row", "openings": "1", "error_code": "provider_unavailable"}
    assert {**said, "status_code": "500"}.items() <= opened_event.items()
    assert 1_900 <= int(opened_event["retry_after_ms"]) <= 2_000


def test_the_death_of_the_prober_lets_another_probe(fleet: Fleet) -> None:
    fleet.config["routing"] = {"default": "fast", "max_attempts": 1}
    fleet.config["routing"] |= {"circuit_breaker_threshold": 1, "circuit_breaker_timeout_s": 2.0}
    processes = fleet.start_all("a", "b")
    fleet.provider.answer(failing(500, "boom"), Fate(latency_s=60), Fate())
    assert fleet.ask(prompt="x")["error_code"] == "provider_unavailable"
    until(partial(all_are, "open", *processes), 1, "open in both")
    entries = fleet.push_all({"prompt": f"y{n}"} for n in range(10))
    until(lambda: fleet.provider.called("y"), 5, "the probe")
    (prober,) = until(lambda: [one for one in processes if one.events("circuit_half_open")], 3, "its log")
    prober.kill()
    ends = [reply.get("error_code", "ok") for reply in fleet.answers(entries, 20)]
    assert sorted(ends) == ["ok"] * 9 + ["outcome_unknown"], "the job that was the probe is not sent twice"


def test_a_rate_per_minute_is_kept_by_two_processes_together(fleet: Fleet) -> None:
    limited = fleet.model("fast", rpm=7, routing={"weight": 1_000_000})
    fleet.config["models"] = [limited, fleet.model("spare")]
    fleet.config["groups"] = {"chat": ["fast", "spare"]}
    fleet.config["routing"] = {"default": "chat"}
    fleet.start_all("a", "b")
    replies = fleet.answers(fleet.push_all({"prompt": f"x{n}"} for n in range(40)), 15)
    assert {reply["status"] for reply in replies} == {"ok"}
    assert len(fleet.provider.called(model="fast")) == 7
    assert len(fleet.provider.called(model="spare")) == 33
    assert {len(json.loads(reply["attempts"])) for reply in replies} == {1}, "no attempt was wasted on it"
    assert not fleet.events("circuit_opened")
    waiting = fleet.push(prompt="z", model="fast", ttl_ms=1500)
    assert fleet.answers([waiting], 5)[0]["error_code"] == "deadline_exceeded"
    assert fleet.provider.called("z") == []


def test_an_operators_word_is_kept_though_all_processes_and_the_command_are_gone(fleet: Fleet) -> None:
    one, two = fleet.start_all("a", "b")
    control = f"{fleet.prefix}:control"
    fleet.redis.xadd(control, {"cmd": "disable", "model": "fast"})
    until(partial(all_are, "disabled", one, two), 2, "disabled in both")
    for process in (one, two):
        process.terminate()
        process.wait_exit(10)
    fleet.redis.xtrim(control, maxlen=0)
    three = fleet.start("c").wait_ready()
    assert state(three) == "disabled"
    fleet.redis.xadd(control, {"cmd": "enable", "model": "fast"})
    until(partial(all_are, "closed", three), 2, "enabled")
    assert fleet.ask(prompt="x")["status"] == "ok"
    assert (len(fleet.events("model_disabled")), len(fleet.events("model_enabled"))) == (1, 1)


def test_a_health_record_outlives_its_process(fleet: Fleet) -> None:
    first = fleet.start("a").wait_ready()
    fleet.provider.answer(failing(500, "boom"), Fate())
    assert fleet.ask(15, prompt="x")["status"] == "ok"
    first.terminate()
    assert first.wait_exit(10) == 0
    second = fleet.start("b").wait_ready()
    (model,) = json.loads(second.get("/status")[1])["models"]
    assert (model["total_failures"], model["consecutive_failures"]) == (1, 0)
    assert model["last_success_at"] > model["last_failure_at"] > 0
    assert 0 < model["latency_p50_ms"] <= model["latency_p95_ms"] <= model["latency_p99_ms"]
    assert (model["total_successes"], model["latency_ms"]) == (1, model["latency_p50_ms"])
    assert model["tokens_per_s"] > 0
    assert (model["slots"], model["ttft_p50_ms"]) == (model["concurrency"], None)
    assert fleet.ask(stream="1", prompt="y")["status"] == "ok"
    (model,) = json.loads(second.get("/status")[1])["models"]
    assert 0 < model["ttft_p50_ms"] <= model["latency_p99_ms"]
