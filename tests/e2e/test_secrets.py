"""The key goes to the provider and nowhere else."""

from __future__ import annotations

import json

import pytest

from tests.e2e.processes import API_KEY, Fleet, until
from tests.e2e.provider import Fate, failing

pytestmark = pytest.mark.e2e


def test_a_key_that_the_provider_echoes_is_nowhere_to_be_read(fleet: Fleet) -> None:
    fleet.config["routing"] = {"default": "fast", "max_attempts": 1, "circuit_breaker_threshold": 100}
    fleet.config["telemetry"]["log_level"] = "debug"
    serve = fleet.start().wait_ready()
    for n, status in enumerate((400, 401, 403, 404, 429, 500)):
        echo = failing(status, f"Incorrect API key provided: {API_KEY}. Header: Bearer {API_KEY}")
        fleet.provider.answer(echo, prompt=f"x{n}")
        fleet.provider.answer(Fate(status=status, body={"error": f"key {API_KEY}"}), prompt=f"y{n}")
    replies = fleet.answers(
        [
            fleet.push(prompt=f"{letter}{n}", id=f"{letter}{n}", **({"stream": 1} if n % 2 else {}))
            for letter in "xy"
            for n in range(6)
        ],
        40,
    )
    assert {call.authorization for call in fleet.provider.calls} == {f"Bearer {API_KEY}"}
    places = {path: serve.get(path)[1] for path in ("/status", "/metrics", "/")}
    serve.terminate()
    serve.wait_exit(10)
    places |= {key: json.dumps(fleet.entries(key)) for key in ("replies", "events", "dead")}
    places |= {
        path.name: path.read_bytes().decode("latin-1") for path in fleet.folder.iterdir() if path.is_file()
    }
    assert {"a.log", "theo-ledger.db"} <= places.keys()
    assert len(replies) == 12
    assert [place for place, text in places.items() if API_KEY in text or API_KEY[3:] in text] == []
    assert [place for place, text in places.items() if API_KEY[-12:] in text] == []


def test_a_message_never_holds_another_jobs_text(fleet: Fleet) -> None:
    fleet.start().wait_ready()
    secret = "my diary of 1789"
    fleet.provider.answer(failing(500, "boom"), prompt=secret)
    fleet.config["routing"] = {"default": "fast"}
    entry = fleet.push(prompt=secret, ttl_ms=3000)
    fleet.answers([entry], 10)
    until(lambda: fleet.processes[0].events("job_finished"), 5)
    assert secret not in fleet.processes[0].log
    assert secret not in json.dumps(fleet.entries("events"))
