"""`make sim`: thousands of seeded worlds in virtual time, each with processes, a Redis, a disk, providers and faults.

Exit status 1 when a job was lost or answered twice, a call has no explanation, or the books are wrong; also when two
thousand worlds or more hardly met one of the faults. Of a world that fails, the command that repeats it is printed, and
which of its faults are needed.
"""

from __future__ import annotations

import argparse
import random
import sys
import time

from tests.sim.batches import BATCH, TWICE, run_all, shrink
from tests.sim.plan import draw
from tests.sim.report import Report, Result, complaints_of, show, unreached

SHRUNK = 3  # failing worlds for which the faults are found that it takes


def simulate(first: int, worlds: int, *, jobs: int, cores: int) -> Report:
    """The worlds of these seeds."""
    report = Report()
    for result in run_all(range(first, first + worlds), jobs=jobs, cores=cores):
        report.add(result)
    report.counts["worlds run twice, with the same trace"] = _twice(worlds) - sum(
        "worlds that differ when run again" in one.complaints for one in report.failed
    )
    return report


def _twice(worlds: int) -> int:
    whole, rest = divmod(worlds, BATCH)
    return whole * -(-BATCH // TWICE) + -(-rest // TWICE)


def tell_of(result: Result, jobs: int) -> str:
    """How to repeat a failing world, and what was wrong there."""
    command = f"make sim ARGS='--first {result.seed} --worlds 1 --jobs {jobs}'"
    return "\n  ".join([f"seed {result.seed} failed; again: {command}", *complaints_of(result)])


def needed(result: Result, jobs: int) -> str:
    """The faults that a failing world cannot do without."""
    complaints = {name for name, its in result.complaints.items() if its}
    plan, tries = shrink(draw(result.seed, jobs=jobs), complaints)
    faults = [f"    {fault}" for fault in plan.faults]
    return "\n".join([f"  {len(faults)} faults are enough for it ({tries} tries):", *faults])


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make sim", description=__doc__)
    parser.add_argument("--worlds", type=int, default=5000, metavar="N", help="worlds to run (5000)")
    parser.add_argument(
        "--first", type=int, metavar="SEED", help="seed of the first; the others follow (drawn)"
    )
    parser.add_argument("--jobs", type=int, default=60, metavar="N", help="jobs of a world (60)")
    parser.add_argument("--cores", type=int, default=2, metavar="N", help="worlds at a time (2)")
    parser.add_argument("--traces", action="store_true", help="print each world's trace")
    return parser.parse_args(argv)


def main() -> int:
    options = arguments()
    first = random.randrange(1_000_000_000) if options.first is None else options.first
    print(f"make sim ARGS='--first {first} --worlds {options.worlds} --jobs {options.jobs}'", flush=True)
    began = time.monotonic()
    report = simulate(first, options.worlds, jobs=options.jobs, cores=options.cores)
    print(show(report))
    if options.traces:
        for seed, trace in sorted(report.traces.items()):
            print(f"trace {seed} {trace}")
    print(f"{time.monotonic() - began:>9.0f} seconds")
    for number, result in enumerate(report.failed):
        print(tell_of(result, options.jobs), flush=True)
        if number < SHRUNK:
            print(needed(result, options.jobs), flush=True)
    missed = unreached(report)
    for what in missed:
        print(f"hardly happened, so that nothing is known of it: {what}")
    return 0 if report.good and not missed else 1


if __name__ == "__main__":
    sys.exit(main())
