"""`make breaker`: how soon a circuit that one process opened is open in its peers, and how many probes a fleet sends.

Three real `serve` processes over one ledger, a real Valkey and the provider stand-in, all of whose models fail. For the
first figure each model's circuit is opened by one job, and the processes' metrics are read in turn, every few
milliseconds, until all three show it open. For the second, circuits open for a second and then longer, while jobs for
their models wait in all processes: each end of an opening must bring the provider one call and no more.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis

from tests.bench.failover import quantile
from tests.bench.run import REPOSITORY
from tests.bench.services import BenchError, Upstream, free_port, running_redis, running_upstream, start, stop

PROCESSES = 3
PROBED = 10  # models
GOAL_MS = 300.0
WAIT_S = 20.0

CONFIG = """\
[redis]
url = "{redis}"
[ledger]
url = "sqlite:///../ledger.db"
[routing]
default = "m0"
max_attempts = 1
max_wait_s = 3.0
circuit_breaker_threshold = 1
circuit_breaker_timeout_s = {open_s}
[telemetry]
http = "127.0.0.1:{http}"
"""
MODEL = """\
[[models]]
name = "m{number}"
provider = "openai"
model = "gpt-4o-mini"
base_url = "{url}"
api_key = "env:THEO_BENCH_KEY"
"""


class Process:
    """One `serve`, as its metrics show it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection: http.client.HTTPConnection | None = None

    def metrics(self) -> dict[str, float]:
        """Every series by its name and labels. Raises OSError while it does not listen."""
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
        try:
            self._connection.request("GET", "/metrics")
            text = self._connection.getresponse().read().decode()
        except (OSError, http.client.HTTPException) as error:
            self._connection = None
            raise OSError(str(error)) from error
        lines = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}

    def is_open(self, model: str) -> bool:
        return self.metrics()[f'theo_model_breaker_state{{model="{model}"}}'] == 2

    def told(self, event: str) -> int:
        """How often it told of this event, over all models."""
        found = self.metrics().items()
        return int(sum(value for name, value in found if f'event="{event}"' in name and "changes" in name))


@contextlib.contextmanager
def fleet(
    folder: Path, redis_url: str, upstream: Upstream, *, models: int, open_s: float
) -> Iterator[list[Process]]:
    """Processes that read jobs, over one ledger, each in a folder of its own."""
    folder.mkdir()
    redis.Redis.from_url(redis_url).flushall()
    with contextlib.ExitStack() as stack:
        processes: list[Process] = []
        for number in range(PROCESSES):
            home, port = folder / str(number), free_port()
            home.mkdir()
            text = CONFIG.format(redis=redis_url, open_s=open_s, http=port)
            text += "".join(MODEL.format(number=n, url=upstream.failing_url) for n in range(models))
            (home / "theo-router.toml").write_text(text)
            log = stack.enter_context((home / "log").open("wb"))
            command = [str(Path(sys.executable).parent / "theo-router"), "serve"]
            environment = {**os.environ, "THEO_BENCH_KEY": "bench"}
            process = start(command, stdout=log, stderr=log, cwd=home, env=environment)
            stack.callback(stop, process)
            processes.append(Process(port))
        for one in processes:
            _await_ready(one)
        yield processes


def _await_ready(process: Process) -> None:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if process.metrics().get("theo_redis_connected") == 1:
                return
        time.sleep(0.05)
    raise BenchError("a process did not become ready")


def known_after_ms(processes: list[Process], client: Any, model: str) -> list[float]:
    """From the moment a circuit is seen open in one process until it is in each of the others. Raises BenchError."""
    client.xadd("theo:jobs", {"model": model, "prompt": f"open {model}"})
    seen: dict[Process, float] = {}
    deadline = time.monotonic() + WAIT_S
    while len(seen) < len(processes):
        for process in processes:
            if process not in seen and process.is_open(model):
                seen[process] = time.perf_counter()
        if time.monotonic() > deadline:
            raise BenchError(f"the circuit of {model} is open in {len(seen)} of {len(processes)} processes")
    first, *others = sorted(seen.values())
    return [(at - first) * 1000 for at in others]


def propagation(folder: Path, redis_url: str, upstream: Upstream, openings: int) -> list[float]:
    """Milliseconds, for each opening and each peer."""
    found: list[float] = []
    with fleet(folder, redis_url, upstream, models=openings, open_s=600.0) as processes:
        client: Any = redis.Redis.from_url(redis_url, socket_timeout=30)
        for number in range(openings):
            found += known_after_ms(processes, client, f"m{number}")
    return found


def probes(folder: Path, redis_url: str, upstream: Upstream, models: int, seconds: float) -> dict[str, int]:
    """What the provider, and the processes together, counted while jobs waited everywhere."""
    before = _failed(upstream)
    with fleet(folder, redis_url, upstream, models=models, open_s=1.0) as processes:
        client: Any = redis.Redis.from_url(redis_url, socket_timeout=30)
        for number in range(models):  # one job each: there is nothing to probe before a circuit is open
            known_after_ms(processes, client, f"m{number}")
        end, pushed = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            with client.pipeline(transaction=False) as pipe:
                for number in range(models):
                    for _ in range(PROCESSES):
                        pushed += 1
                        pipe.xadd("theo:jobs", {"model": f"m{number}", "prompt": f"wait {pushed}"})
                pipe.execute()
            time.sleep(0.25)
        time.sleep(4)  # the last jobs' wait is over
        probes = sum(process.told("circuit_half_open") for process in processes)
        opened = sum(process.told("circuit_opened") for process in processes)
    # Each call fails, so each probe opens its circuit again: two at a time would open it once.
    return {"openings": opened, "probes": probes, "calls": _failed(upstream) - before}


def _failed(upstream: Upstream) -> int:
    """POSTs that the stand-in answered with a 500."""
    connection = http.client.HTTPConnection(upstream.failing_url.split("/")[2], timeout=5)
    connection.request("GET", "/fail/")
    return int(connection.getresponse().read())


def main() -> int:
    """0; 1 when a circuit was known too late, the fleet sent a probe too many, or nothing could be measured."""
    parser = argparse.ArgumentParser(prog="make breaker", description=__doc__)
    parser.add_argument("--openings", type=int, default=60, metavar="N", help="circuits opened (60)")
    parser.add_argument("--seconds", type=float, default=40.0, metavar="S", help="of waiting for probes (40)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that every `finally` runs
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=REPOSITORY) as name:
        folder = Path(name)
        try:
            with running_redis(folder) as (url, _), running_upstream(folder, "c") as upstream:
                known = propagation(folder / "known", url, upstream, options.openings)
                counted = probes(folder / "probes", url, upstream, PROBED, options.seconds)
        except BenchError as error:
            print(f"breaker: {error}", file=sys.stderr)
            return 1
    finding = {
        "open in a peer after ms": {
            "p50": round(quantile(known, 0.5), 1), "p99": round(quantile(known, 0.99), 1),
            "max": round(max(known), 1), "samples": len(known),
        },
        **counted,
    }  # fmt: skip
    print(json.dumps(finding))
    exact = counted["calls"] == counted["openings"] == counted["probes"] + PROBED
    return 0 if max(known) <= GOAL_MS and exact else 1


if __name__ == "__main__":
    sys.exit(main())
