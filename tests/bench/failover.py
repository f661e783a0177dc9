"""`make failover`: what it costs a job that its first candidate fails at once, beside a call to the healthy one.

One `serve` process, a provider that answers at once and one that answers 500 at once, on loopback. Jobs go one after
another, in turn to the healthy model alone and to a group whose first choice always fails; the circuit is kept from
opening, since after that there is nothing to measure. The time is from before XADD until the reply was read.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import redis

from tests.bench.services import BenchError, free_port, running_redis, running_upstream, start, stop

HERE = Path(__file__).parent
KEEP_CLOSED = 1_000_000
WARM_UP = 50

CONFIG = """\
[redis]
url = "{redis}"
[ledger]
url = "sqlite:///./ledger.db"
[routing]
circuit_breaker_threshold = {threshold}
[telemetry]
http = "127.0.0.1:{http_port}"
[groups]
both = ["failing", "healthy"]
[[models]]
name = "failing"
provider = "openai"
model = "gpt-4o-mini"
base_url = "{failing}"
routing = {{ weight = 1e12 }}
[[models]]
name = "healthy"
provider = "openai"
model = "gpt-4o-mini"
base_url = "{healthy}"
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make failover", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000, help="of each kind (1000)")
    asked = parser.parse_args()
    try:
        direct, failed_over = measure(asked.jobs)
    except BenchError as error:
        print(f"failover: {error}", file=sys.stderr)
        return 1
    print(f"{asked.jobs} jobs of each kind, one after another; load {os.getloadavg()[0]:.1f}\n")
    print("| | p50 | p99 |\n| --- | --- | --- |")
    for name, found in (("healthy model alone", direct), ("first candidate fails at once", failed_over)):
        print(f"| {name} | {quantile(found, 0.5):.2f} ms | {quantile(found, 0.99):.2f} ms |")
    more = [quantile(failed_over, share) - quantile(direct, share) for share in (0.5, 0.99)]
    print(f"| failover costs | {more[0]:.2f} ms | {more[1]:.2f} ms |")
    return 0


def measure(jobs: int) -> tuple[list[float], list[float]]:
    """Milliseconds of each job: direct, and failed over. Raises BenchError."""
    with (
        tempfile.TemporaryDirectory(prefix="failover-") as scratch,
        running_redis(Path(scratch)) as (url, _),
        running_upstream(Path(scratch), "auto") as healthy,
    ):
        failing = start([sys.executable, str(HERE / "failing.py")], stdout=subprocess.PIPE)
        assert failing.stdout is not None
        folder = Path(scratch)
        (folder / "theo-router.toml").write_text(
            CONFIG.format(
                redis=url,
                threshold=KEEP_CLOSED,
                http_port=free_port(),
                failing=f"http://127.0.0.1:{int(failing.stdout.readline())}/v1",
                healthy=healthy.base_url,
            )
        )
        with (folder / "serve.log").open("wb") as log:
            command = [str(Path(sys.executable).parent / "theo-router"), "serve"]
            serve = start([*command, "--config", str(folder / "theo-router.toml")], stderr=log, cwd=folder)
        try:
            client = Client(url)
            for number in range(WARM_UP):
                client.ask("healthy" if number % 2 else "both", number)
            direct, failed_over = [], []
            for number in range(WARM_UP, WARM_UP + jobs):
                direct.append(client.ask("healthy", number, attempts=1))
                failed_over.append(client.ask("both", number, attempts=2))
            return direct, failed_over
        finally:
            stop(serve)
            stop(failing)


class Client:
    """Pushes a job and waits for its reply."""

    def __init__(self, url: str) -> None:
        self._redis: Any = redis.Redis.from_url(url, socket_timeout=60)
        self._seen = "0-0"

    def ask(self, model: str, number: int, *, attempts: int | None = None) -> float:
        """Milliseconds until the reply. Raises BenchError when it is not what is measured."""
        began = time.perf_counter()
        self._redis.xadd("theo:jobs", {"prompt": f"{model} {number}", "model": model, "cache": "off"})
        answer = self._redis.xread({"theo:replies": self._seen}, block=30_000)
        took_ms = (time.perf_counter() - began) * 1000
        if not answer:
            raise BenchError(f"job {number} was not answered")
        ((self._seen, reply),) = answer[0][1]
        tried = len(json.loads(reply.get(b"attempts", b"[]")))
        if reply[b"status"] != b"ok" or attempts not in (None, tried):
            raise BenchError(f"job {number} ended {reply[b'status']!r} after {tried} attempts")
        return took_ms


def quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


if __name__ == "__main__":
    sys.exit(main())
