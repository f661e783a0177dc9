"""`make bench`: CPU per job and jobs per second of `theo-router serve`, beside a loop that does the least possible.

Contenders take turns and their order is reversed from one repetition to the next, so that a busy machine hurts all
alike; CPU per job is the figure to trust on a shared one. Everything runs on loopback and is ended by pid.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench import profile, report
from tests.bench.contender import chosen
from tests.bench.measure import Figures, Scene, measure
from tests.bench.services import BenchError, running_redis, running_upstream

REPOSITORY = Path(__file__).parents[2]


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--jobs", type=int, default=6000, metavar="N", help="jobs per run, each with its own prompt (6000)"
    )
    parser.add_argument("--reps", type=int, default=3, metavar="N", help="repetitions (3)")
    parser.add_argument("--only", metavar="NAMES", help="comma-separated contenders")
    parser.add_argument(
        "--contender",
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help="one more, or another command for a known one;\n"
        "{python} {bin} {here} {redis} {upstream} {config} are filled in",
    )
    parser.add_argument(
        "--no-ids", dest="ids", action="store_false", help="jobs without a client's id to remember"
    )
    parser.add_argument(
        "--upstream", choices=("auto", "c", "nginx"), default="auto", help="the provider stand-in"
    )
    parser.add_argument("--timeout", type=float, default=120.0, metavar="S", help="bound of one run (120)")
    parser.add_argument(
        "--profile", type=Path, metavar="FOLDER", help="one more run of each under py-spy, raw samples there"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser.parse_args(argv)


def facts(scene: Scene, options: argparse.Namespace) -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "jobs": scene.jobs,
        "repetitions": options.reps,
        "ids": scene.ids,
        "upstream": scene.upstream.name,
        "cores": os.cpu_count(),
        "python": sys.version.split()[0],
    }


def bench(options: argparse.Namespace, folder: Path) -> None:
    """Raises BenchError."""
    contenders = chosen(options.only, options.contender)
    runs: list[Figures] = []
    with (
        running_redis(folder) as (redis_url, redis_pid),
        running_upstream(folder, options.upstream) as upstream,
    ):
        scene = Scene(
            folder=folder,
            redis_url=redis_url,
            redis_pid=redis_pid,
            upstream=upstream,
            jobs=options.jobs,
            ids=options.ids,
            timeout_s=options.timeout,
        )
        for repetition in range(options.reps):
            for contender in contenders[:: -1 if repetition % 2 else 1]:
                figures = measure(contender, scene, repetition)
                print(
                    f"{contender.name} {repetition + 1}/{options.reps}: {figures.jobs_per_s:,.0f} jobs/s,"
                    f" {figures.cpu_us_per_job:.0f} µs/job",
                    file=sys.stderr,
                    flush=True,
                )
                runs.append(figures)
        print((report.as_json if options.json else report.table)(runs, facts(scene, options)))
        if options.profile:
            options.profile.mkdir(parents=True, exist_ok=True)
            for contender in contenders:
                print(f"profile: {profile.profile(contender, scene, options.profile)}", file=sys.stderr)


def main() -> int:
    """0, or 1 with a message when a figure could not be had or would be wrong."""
    if sys.platform != "linux":
        print("make bench reads CPU times from /proc, so it runs on Linux only", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that every `finally` runs
    options = arguments()
    # Inside the repository, as the system's temporary folder may be memory, where a durable ledger costs nothing.
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=REPOSITORY) as folder:
        try:
            bench(options, Path(folder))
        except BenchError as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
