"""The key goes to the provider and nowhere else."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.e2e.processes import API_KEY, Fleet, until
from tests.e2e.provider import Fate, failing

pytestmark = pytest.mark.e2e


class Collector(ThreadingHTTPServer):
    """Takes traces and metrics, and keeps them as they came."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Receiving)
        self.received: dict[str, bytes] = {}


class _Receiving(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        told = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received[self.path] = self.server.received.get(self.path, b"") + told
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing to say."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join(10)


def test_a_key_that_the_provider_echoes_is_nowhere_to_be_read(fleet: Fleet, collector: Collector) -> None:
    fleet.config["telemetry"]["otlp_endpoint"] = f"http://127.0.0.1:{collector.server_port}"
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
    limits = Path(f"/proc/{serve.pid}/limits").read_text().splitlines()
    assert [line.split()[4:6] for line in limits if line.startswith("Max core file size")] == [["0", "0"]]
    serve.terminate()
    serve.wait_exit(10)
    assert collector.received.keys() == {"/v1/traces", "/v1/metrics"}
    places |= {path: told.decode("latin-1") for path, told in collector.received.items()}
    places |= {key: json.dumps(fleet.entries(key)) for key in ("replies", "events", "dead")}
    places |= {
        str(path): path.read_bytes().decode("latin-1") for path in fleet.folder.rglob("*") if path.is_file()
    }
    assert {"a.log", "theo-ledger.db"} <= {Path(place).name for place in places}
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
