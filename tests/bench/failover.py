"""`make failover`: what it costs a job that its first candidate fails at once, beside jobs sent to the good one alone.

A real `serve`, a real Valkey and the provider stand-in, which answers one model's calls with a 500. Jobs go in one at a
time, in turn to the healthy model itself and to a group whose first candidate fails; the breaker is set never to open,
so that every job of the group pays for the failure. Then, with the breaker as it is by default, many at once: not one
job may fail while the healthy candidate stands ready.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import redis

from tests.bench.measure import prompt
from tests.bench.run import REPOSITORY
from tests.bench.services import BenchError, Upstream, free_port, running_redis, running_upstream, start, stop

WARM_UP = 100
GOAL_P50_MS, GOAL_P99_MS = 5.0, 15.0

CONFIG = """\
[redis]
url = "{redis}"
[ledger]
url = "sqlite:///./ledger.db"
[routing]
default = "chat"
{routing}
[[models]]
name = "failing"
provider = "openai"
model = "gpt-4o-mini"
base_url = "{failing}"
api_key = "env:THEO_BENCH_KEY"
routing = {{ weight = 1e9 }}
[[models]]
name = "healthy"
provider = "openai"
model = "gpt-4o-mini"
base_url = "{healthy}"
api_key = "env:THEO_BENCH_KEY"
[groups]
chat = ["failing", "healthy"]
[telemetry]
http = "127.0.0.1:{http}"
"""
NEVER_OPEN = "circuit_breaker_threshold = 1_000_000\ncircuit_breaker_failure_ratio = 0.0"


class Timed(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds from push to reply, of jobs one at a time."""

    healthy: list[float]  # sent to the healthy model itself
    group: list[float]  # sent to the group: one failure, then the answer
    http: list[float]  # the healthy call alone, without a router

    def added(self, share: float) -> float:
        """How much later that share of the group's jobs is done, against as many of the healthy model's."""
        return quantile(self.group, share) - quantile(self.healthy, share)


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Client:
    """Pushes jobs and reads replies, as any program would."""

    def __init__(self, url: str) -> None:
        self._redis: Any = redis.Redis.from_url(url, decode_responses=True, socket_timeout=60)
        self._last = "0-0"
        self._pushed = 0

    def push(self, model: str, number: int) -> str:
        self._pushed += 1
        return str(self._redis.xadd("theo:jobs", {"model": model, "prompt": prompt("failover", number)}))

    def replies(self, wait_ms: int = 20_000) -> list[dict[str, str]]:
        """What has come since the last look; waits for it. Raises BenchError when nothing comes."""
        read = self._redis.xread({"theo:replies": self._last}, block=wait_ms)
        if not read:
            raise BenchError("no reply came")
        ((_, entries),) = read
        self._last = entries[-1][0]
        return [fields for _, fields in entries]

    def one(self, model: str, number: int, attempts: int) -> float:
        """One job from push to reply, milliseconds. Raises BenchError for another end than the expected one."""
        began = time.perf_counter()
        entry = self.push(model, number)
        (reply,) = self.replies()
        took_ms = (time.perf_counter() - began) * 1000
        made = len(msgspec.json.decode(reply.get("attempts", "[]")))
        if (reply["entry_id"], reply["status"], made) != (entry, "ok", attempts):
            raise BenchError(f"a job of {model} ended otherwise: {reply}")
        return took_ms


@contextlib.contextmanager
def serving(folder: Path, redis_url: str, upstream: Upstream, routing: str) -> Iterator[Client]:
    """A `serve` of these settings that reads jobs, and a client of it."""
    folder.mkdir()
    config = folder / "theo-router.toml"
    text = CONFIG.format(
        redis=redis_url,
        routing=routing,
        http=free_port(),
        failing=upstream.failing_url,
        healthy=upstream.base_url,
    )
    config.write_text(text)
    redis.Redis.from_url(redis_url).flushall()
    command = [str(Path(sys.executable).parent / "theo-router"), "serve", "--config", str(config)]
    with (folder / "log").open("wb") as log:
        process = start(
            command, stdout=log, stderr=log, cwd=folder, env={**os.environ, "THEO_BENCH_KEY": "bench"}
        )
    try:
        yield Client(redis_url)
    finally:
        stop(process)


def call(upstream: Upstream, body: bytes) -> float:
    """The call itself, milliseconds; a new connection each time."""
    request = urllib.request.Request(f"{upstream.base_url}/chat/completions", body)
    began = time.perf_counter()
    with urllib.request.urlopen(request, timeout=5) as response:
        response.read()
    return (time.perf_counter() - began) * 1000


def one_at_a_time(client: Client, upstream: Upstream, jobs: int) -> Timed:
    """`jobs` of each kind in turn, after a few that do not count. Raises BenchError when a job fails."""
    timed = Timed(healthy=[], group=[], http=[])
    body = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"hello"}]}'
    warm_up = min(WARM_UP, jobs)
    for number in range(warm_up + jobs):
        direct_first = bool(number % 2)  # whoever is second finds everything warm
        took = {}
        for model in ("healthy", "chat") if direct_first else ("chat", "healthy"):
            took[model] = client.one(model, 2 * number + (model == "chat"), attempts=1 + (model == "chat"))
        if number >= warm_up:
            timed.healthy.append(took["healthy"])
            timed.group.append(took["chat"])
            timed.http.append(call(upstream, body))
    return timed


def many_at_once(client: Client, jobs: int) -> Counter[str]:
    """How `jobs` of the group ended, all pushed at once."""
    for number in range(jobs):
        client.push("chat", 1_000_000 + number)
    ends: Counter[str] = Counter()
    while sum(ends.values()) < jobs:
        ends.update(reply.get("error_code", reply["status"]) for reply in client.replies())
    return ends


def told(timed: Timed) -> dict[str, Any]:
    kinds = {"healthy model": timed.healthy, "failing first": timed.group, "HTTP call alone": timed.http}
    return {
        "ms": {
            kind: {name: round(quantile(values, share), 2) for name, share in (("p50", 0.5), ("p99", 0.99))}
            for kind, values in kinds.items()
        },
        "added_p50_ms": round(timed.added(0.5), 2),
        "added_p99_ms": round(timed.added(0.99), 2),
    }


def measure(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """One finding for each repetition. Raises BenchError."""
    found = []
    with running_redis(folder) as (url, _), running_upstream(folder, options.upstream) as upstream:
        for repetition in range(options.reps):
            with serving(folder / f"slow-{repetition}", url, upstream, NEVER_OPEN) as client:
                timed = one_at_a_time(client, upstream, options.jobs)
            with serving(folder / f"many-{repetition}", url, upstream, "") as client:
                ends = many_at_once(client, options.jobs)
            finding = {"jobs": options.jobs, **told(timed), "many_at_once": dict(ends)}
            print(msgspec.json.encode(finding).decode(), flush=True)
            found.append(finding)
    return found


def main() -> int:
    """0; 1 when a job failed though a healthy candidate stood ready, or nothing could be measured."""
    parser = argparse.ArgumentParser(prog="make failover", description=__doc__)
    parser.add_argument("--jobs", type=int, default=2000, metavar="N", help="jobs of each kind (2000)")
    parser.add_argument("--reps", type=int, default=3, metavar="N", help="repetitions (3)")
    parser.add_argument(
        "--upstream", choices=("auto", "c", "nginx"), default="auto", help="the provider stand-in"
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that every `finally` runs
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=REPOSITORY) as folder:
        try:
            found = measure(options, Path(folder))
        except BenchError as error:
            print(f"failover: {error}", file=sys.stderr)
            return 1
    for name, goal in (("added_p50_ms", GOAL_P50_MS), ("added_p99_ms", GOAL_P99_MS)):
        values = sorted(one[name] for one in found)
        print(f"{name}: {values[len(values) // 2]} ({values[0]}..{values[-1]}), goal {goal}")
    failed = sum(sum(one["many_at_once"].values()) - one["many_at_once"].get("ok", 0) for one in found)
    print(f"jobs that failed though a healthy candidate stood ready: {failed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
