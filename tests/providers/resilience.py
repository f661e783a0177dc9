"""A whole `serve` against llmock's faults: it retries, waits and gives up; llmock looks on and judges."""

from __future__ import annotations

import json
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from tests.e2e.processes import Fleet
from tests.e2e.provider import Provider
from tests.providers.features import Feature, user
from tests.providers.stand_ins import Bases
from theo_daemon.embedded_valkey import EmbeddedValkey
from theo_workers.messages import Completion

FEATURES = [
    Feature(
        name="text",
        messages=(user("Say hi."),),
        params={"max_tokens": 20},
        expected=lambda outcome, _: isinstance(outcome, Completion) and bool(outcome.output),
    ),
]

WAIT = {"type": "fail", "status": 429, "retry_after": 1, "times": 2}

# What is thrown at one request after another; what must become of it: an answer, or the code of an error.
ROUNDS: list[tuple[str, list[dict[str, Any]], bool, str]] = [
    ("429 twice with a Retry-After", [WAIT], False, "ok"),
    ("429 without one", [{"type": "fail", "status": 429, "times": 1}], False, "ok"),
    ("500", [{"type": "fail", "status": 500, "times": 1}], False, "ok"),
    ("503 with a Retry-After", [{"type": "fail", "status": 503, "retry_after": 1, "times": 1}], False, "ok"),
    ("529", [{"type": "fail", "status": 529, "times": 1}], False, "ok"),
    ("408", [{"type": "fail", "status": 408, "times": 1}], False, "ok"),
    ("400", [{"type": "fail", "status": 400, "times": 1}], False, "invalid_request"),
    ("422", [{"type": "fail", "status": 422, "times": 1}], False, "invalid_request"),
    ("truncated stream", [{"type": "stream_fault", "kind": "truncate", "after_chunks": 3}], True, "ok"),
    ("broken stream", [{"type": "stream_fault", "kind": "disconnect", "after_chunks": 2}], True, "ok"),
    ("garbled stream", [{"type": "stream_fault", "kind": "malformed", "after_chunks": 2}], True, "ok"),
    ("slow first token", [{"type": "slow_first_token", "seconds": 1.0}], True, "ok"),
    # last: an operator would have to enable the model again
    ("401", [{"type": "fail", "status": 401, "times": 1}], False, "authentication_failed"),
]


def provoke(url: str, bases: Bases) -> int:
    """Throws every fault at a running `serve`, in each format; the number of wrong endings."""
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedValkey(Path(folder) / "valkey") as valkey,
        Provider() as unused,
    ):
        fleet = Fleet(Path(folder), valkey.url, "providers", unused)
        fleet.config["models"] = [fleet.model(name, provider=name, base_url=bases[name]) for name in bases]
        fleet.config["routing"] = {"default": "openai", "circuit_breaker_threshold": 50}
        fleet.start().wait_ready()
        try:
            return sum(_rounds(url, fleet, provider) for provider in bases)
        finally:
            for process in fleet.processes:
                process.close()
            fleet.redis.close()


def _rounds(url: str, fleet: Fleet, provider: str) -> int:
    wrong = 0
    for name, behaviors, stream, expected in ROUNDS:
        _tell(f"{url}/_llmock/scenario", {"behaviors": behaviors})
        job = {"prompt": f"{provider}, {name}: say something.", "model": provider, "cache": "off"}
        reply = fleet.ask(60, **job, **({"stream": 1} if stream else {}))
        ending = reply.get("error_code", "ok")
        if ending != expected:
            wrong += 1
            print(f"  miss: {provider}, {name}: {ending} and not {expected}: {reply.get('error_message')}")
    return wrong


def _tell(url: str, what: Any) -> None:
    request = urllib.request.Request(url, json.dumps(what).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        answer.read()
