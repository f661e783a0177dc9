"""What a ledger in Redis adds to a job's latency: `.venv/bin/python -m tests.bench.ledgers`.

Two `serve` processes over one Valkey, one with its ledger in a file, one with its ledger there; jobs go in one at a
time, in turn to either. For each way in which the server may keep its log.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import redis

from tests.bench.services import BenchError, start, stop
from theo_daemon.embedded_valkey import EmbeddedValkey

WARM_UP = 50
LEDGERS = {"file": "sqlite:///./ledger.db", "redis": "redis"}  # by the prefix of its process
CONFIG = """\
[redis]
url = "{redis}"
prefix = "{prefix}"
[ledger]
url = "{ledger}"
[routing]
default = "fast"
[[models]]
name = "fast"
provider = "scripted"
input_cost_per_mtok = 1.0
output_cost_per_mtok = 1.0
[telemetry]
http = ""
"""


def one(client: Any, prefix: str, number: int) -> float:
    """One job from push to reply, milliseconds. Raises BenchError."""
    mine = f"{prefix}:reply:{number}"
    began = time.perf_counter()
    client.xadd(f"{prefix}:jobs", {"prompt": f"job {number}", "reply_to": mine})
    read = client.xread({mine: "0"}, block=20_000)
    took_ms = (time.perf_counter() - began) * 1000
    if not read or read[0][1][0][1]["status"] != "ok":
        raise BenchError(f"a job of {prefix} ended otherwise: {read}")
    return took_ms


def measure(folder: Path, fsync: str, jobs: int) -> dict[str, list[float]]:
    took: dict[str, list[float]] = {prefix: [] for prefix in LEDGERS}
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(EmbeddedValkey(folder / "server", options=("--appendfsync", fsync)))
        for prefix, ledger in LEDGERS.items():
            home = folder / prefix
            home.mkdir()
            config = home / "theo-router.toml"
            config.write_text(CONFIG.format(redis=server.url, prefix=prefix, ledger=ledger))
            command = [str(Path(sys.executable).parent / "theo-router"), "serve", "--config", str(config)]
            log = stack.enter_context((home / "log").open("wb"))
            stack.callback(stop, start(command, stdout=log, stderr=log, cwd=home, env={**os.environ}))
        client = stack.enter_context(
            redis.Redis.from_url(server.url, decode_responses=True, socket_timeout=30)
        )
        for number in range(WARM_UP + jobs):
            for prefix in LEDGERS:
                found = one(client, prefix, number)
                if number >= WARM_UP:
                    took[prefix].append(found)
    return took


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.ledgers", description=__doc__)
    parser.add_argument("--jobs", type=int, default=300, metavar="N", help="jobs to either (300)")
    options = parser.parse_args()
    for fsync in ("everysec", "always"):
        with tempfile.TemporaryDirectory(prefix="theo-bench-") as scratch:
            for prefix, its in measure(Path(scratch), fsync, options.jobs).items():
                p90 = sorted(its)[int(0.9 * len(its))]
                print(
                    f"appendfsync {fsync}, ledger {prefix}: median {median(its):.2f} ms, p90 {p90:.2f} ms",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
