"""`make evaluate`: each routing feature against plain weighted choice, in virtual time, as a table.

python -m tests.evaluation.run [--scenario NAME] [--feature NAME] [--seeds 1,2,3] [--tuning] [--processes N]
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

from tests.evaluation.features import FEATURES, Feature
from tests.evaluation.report import table
from tests.evaluation.scenarios import SCENARIOS, SEEDS, TUNING_SEEDS, Scenario
from tests.evaluation.world import Run, run, why_not


def main() -> int:
    asked = _arguments()
    scenarios = [one for one in SCENARIOS if asked.scenario in (None, one.name)]
    features = [one for one in FEATURES if not asked.feature or one.name in asked.feature]
    seeds = TUNING_SEEDS if asked.tuning else [int(seed) for seed in asked.seeds.split(",")]
    began = time.monotonic()
    work: list[tuple[Scenario, Feature, int]] = []
    for scenario in scenarios:
        for feature in features:
            reason = why_not(scenario, feature)
            if reason is None:
                work += [(scenario, feature, seed) for seed in seeds]
            else:
                print(f"left out: {scenario.name}, {feature.name}: {reason}", file=sys.stderr)
    runs = _carry_out(work, asked.processes)
    print(f"seeds {', '.join(map(str, seeds))}; {sum(one.jobs for one in runs):,} jobs\n")
    print(table(runs))
    print(f"{len(runs)} runs in {time.monotonic() - began:.0f} s", file=sys.stderr)
    return 0


def one(work: tuple[Scenario, Feature, int]) -> Run:
    """In a process of its own, or in this one."""
    return asyncio.run(run(*work))


def _carry_out(work: Sequence[tuple[Scenario, Feature, int]], processes: int) -> list[Run]:
    if processes < 2:
        return [one(part) for part in work]
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(one, work))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make evaluate", description=__doc__)
    parser.add_argument("--scenario", choices=[one.name for one in SCENARIOS])
    parser.add_argument("--feature", action="append", choices=[one.name for one in FEATURES])
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)))
    parser.add_argument("--tuning", action="store_true", help="the seeds on which features may be tuned")
    parser.add_argument("--processes", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
