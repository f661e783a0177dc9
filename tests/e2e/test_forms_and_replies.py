"""How a job may be written, where its reply goes, and what is on it."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.e2e.processes import Fleet, until
from tests.e2e.provider import Fate

pytestmark = pytest.mark.e2e


def test_a_job_as_redis_cli_sends_it_is_answered_with_every_field_of_the_contract(fleet: Fleet) -> None:
    fleet.start().wait_ready()
    words = ["redis-cli", "-u", fleet.url, "XADD", fleet.jobs_key(), "*", "prompt", "Say hi", "model", "fast"]
    entry = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    (reply,) = fleet.answers([entry])
    assert {"v": "1", "id": entry, "entry_id": entry, "job_stream": fleet.jobs_key()}.items() <= reply.items()
    said = {"status": "ok", "final": "1", "model": "fast", "provider": "openai", "output": "answer to Say hi"}
    assert said.items() <= reply.items()
    counted = {"finish_reason": "stop", "prompt_tokens": "10", "completion_tokens": "5"}
    assert counted.items() <= reply.items()
    assert {"cache_hit": "0", "coalesced": "0"}.items() <= reply.items()
    assert float(reply["cost"]) == 0
    assert float(reply["latency_ms"]) > 0
    assert float(reply["queued_ms"]) >= 0
    usage = json.loads(reply["usage"])
    assert {"prompt_tokens", "completion_tokens", "cached_tokens", "cache_write_tokens"} <= usage.keys()
    assert "reasoning_tokens" in usage
    assert not usage.get("estimated")
    (attempt,) = json.loads(reply["attempts"])
    assert attempt.keys() >= {
        "model",
        "provider",
        "outcome",
        "status_code",
        "latency_ms",
        "cost",
        "error_code",
    }
    assert (attempt["model"], attempt["provider"], attempt["outcome"]) == ("fast", "openai", "ok")
    assert not {"metadata", "tenant", "traceparent"} & reply.keys()
    fleet.settled()


def test_one_field_of_json_is_the_same_job_and_what_the_job_carries_comes_back(fleet: Fleet) -> None:
    fleet.start().wait_ready()
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    job = {
        "prompt": "structured",
        "system": "be brief",
        "params": {"temperature": 0.5, "max_tokens": 7, "vendor_thing": [1]},
        "metadata": {"order": [1, {"a": None}]},
        "tenant": "acme",
        "traceparent": trace,
        "reply_to": f"{fleet.prefix}:reply:mine",
    }
    (reply,) = fleet.answers([fleet.push(job=json.dumps(job))], key="reply:mine")
    assert (reply["tenant"], reply["traceparent"]) == ("acme", trace)
    assert json.loads(reply["metadata"]) == job["metadata"]
    (call,) = fleet.provider.calls
    assert call.payload["messages"][0] == {"role": "system", "content": "be brief"}
    assert (call.payload["temperature"], call.payload["vendor_thing"]) == (0.5, [1])
    assert 7 in {call.payload.get("max_tokens"), call.payload.get("max_completion_tokens")}
    assert not call.payload.get("stream")
    flat = {key: value if isinstance(value, str) else json.dumps(value) for key, value in job.items()}
    (again,) = fleet.answers([fleet.push(**flat)], key="reply:mine")
    assert again["cache_hit"] == "1"
    assert fleet.entries("replies") == []


def test_reply_streams_expire_and_are_bounded(fleet: Fleet) -> None:
    fleet.config["reply"] = {"max_len": 100, "ttl_s": 50}
    fleet.start().wait_ready()
    entries = fleet.push_all([{"prompt": "same", "reply_to": f"{fleet.prefix}:reply:me"}] * 400)
    fleet.settled(within_s=10)
    fleet.ask(prompt="same")
    for key in ("replies", "reply:me"):
        assert 0 < fleet.redis.pttl(f"{fleet.prefix}:{key}") <= 50_000
    kept = fleet.entries("reply:me")
    assert 100 <= len(kept) < 400  # trimmed node by node
    assert kept[-1]["entry_id"] in entries


def test_a_reply_stream_that_is_not_allowed_gets_nothing(fleet: Fleet) -> None:
    fleet.start().wait_ready()
    own = ["jobs", "jobs:high", "dead", "events", "control", "done:x", "replies:x", "reply"]
    targets = ["elsewhere", "theo", *(f"{fleet.prefix}:{key}" for key in own)]
    entries = [fleet.push(prompt="x", reply_to=target) for target in targets]
    for reply in fleet.answers(entries):
        assert (reply["status"], reply["error_code"]) == ("error", "reply_to_not_allowed")
    assert fleet.provider.calls == []
    fleet.settled()
    for target in targets:
        kind = fleet.redis.type(target)
        assert kind == "none" or not any("final" in fields for _, fields in fleet.redis.xrange(target))


def test_patterns_of_the_operator_never_open_the_routers_own_keys(fleet: Fleet) -> None:
    fleet.config["reply"] = {"allowed": ["*"]}
    fleet.start().wait_ready()
    own = ["jobs", "jobs:high", "jobs:low", "dead", "events", "control"]
    entries = [fleet.push(prompt="x", reply_to=f"{fleet.prefix}:{key}") for key in own]
    assert [reply["error_code"] for reply in fleet.answers(entries)] == ["reply_to_not_allowed"] * len(own)
    assert fleet.ask(prompt="x", reply_to=f"{fleet.prefix}:replies")["status"] == "ok"
    fleet.settled()


def test_a_reply_to_of_another_type_is_not_touched_even_when_found_only_after_the_call(fleet: Fleet) -> None:
    fleet.start().wait_ready()
    taken = f"{fleet.prefix}:reply:taken"
    fleet.redis.set(taken, "mine")
    reply = fleet.ask(prompt="x", reply_to=taken)
    if reply["status"] == "error":
        assert reply["error_code"] == "reply_to_not_allowed"
    else:
        assert reply["reply_error"]
    late = f"{fleet.prefix}:reply:late"
    fleet.provider.answer(Fate(latency_s=0.5), prompt="slow")
    entry = fleet.push(prompt="slow", reply_to=late)
    until(lambda: fleet.provider.called("slow"), 5)
    fleet.redis.set(late, "mine")
    (reply,) = fleet.answers([entry])
    assert (reply["status"], reply["output"]) == ("ok", "answer to slow")
    assert "reply_to_not_allowed" in reply["reply_error"]
    assert (fleet.redis.get(taken), fleet.redis.get(late)) == ("mine", "mine")
    fleet.settled()


def test_deltas_come_before_the_final_reply_for_those_who_asked(fleet: Fleet) -> None:
    fleet.start().wait_ready()
    fleet.provider.answer(Fate(latency_s=0.5))
    first, twin = [fleet.push(prompt="x", stream=1) for _ in range(2)]
    fleet.answers([first, twin])
    hit = fleet.push(prompt="x", stream=1)
    assert fleet.answers([hit])[0]["cache_hit"] == "1"
    assert len(fleet.provider.calls) == 1
    assert fleet.provider.calls[0].payload["stream"] is True
    for entry in (first, twin, hit):
        said = [reply for reply in fleet.entries("replies") if reply["entry_id"] == entry]
        assert [reply["status"] for reply in said] == ["delta"] * (len(said) - 1) + ["ok"]
        deltas = said[:-1]
        assert [int(reply["seq"]) for reply in deltas] == list(range(len(deltas)))
        assert {(reply["attempt"], reply["final"]) for reply in deltas} == {("1", "0")}
        assert "".join(reply["delta"] for reply in deltas) == said[-1]["output"] == "answer to x"
    assert len([r for r in fleet.entries("replies") if r["entry_id"] == hit]) == 2
