"""A slice of `make sim`, always of the same seeds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deep import DEPTH
from tests.sim.plan import CRASH_POINTS
from tests.sim.report import ENOUGH, FAULTS, RARE, Report, unreached

pytestmark = pytest.mark.timeout(120 * DEPTH)
ROOT = Path(__file__).resolve().parents[2]


def simulate(first: int, worlds: int, *, hash_seed: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the dead of a world are kept, which takes memory."""
    options = ("--first", str(first), "--worlds", str(worlds), "--cores", "1", "--traces")
    return subprocess.run(
        [sys.executable, "-m", "tests.sim.run", *options],
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "daemon:workers:.", "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=100 * DEPTH,
    )


def test_whatever_goes_wrong_no_job_is_lost_answered_twice_or_paid_twice_without_a_reason() -> None:
    done = simulate(0, 20 * DEPTH, hash_seed="1")
    assert done.returncode == 0, done.stdout + done.stderr


def test_one_seed_is_one_world_in_whatever_process_it_runs() -> None:
    one, other = (simulate(7, 2, hash_seed=seed) for seed in ("1", "2"))
    traces = [line for line in one.stdout.splitlines() if line.startswith("trace ")]
    assert len(traces) == 2
    assert traces == [line for line in other.stdout.splitlines() if line.startswith("trace ")]


def test_a_world_that_fails_is_told_with_the_command_that_repeats_it_and_the_faults_it_takes() -> None:
    """An impossible demand: that no provider is ever called."""
    script = (
        "import sys\n"
        "from tests.sim import oracles, run\n"
        "oracles.ORACLES['calls at all'] = lambda story: [str(len(story.witness.calls))]\n"
        "sys.argv[1:] = ['--first', '3', '--worlds', '1', '--cores', '1']\n"
        "sys.exit(run.main())\n"
    )
    command = [sys.executable, "-c", script]
    environment = {**os.environ, "PYTHONPATH": "daemon:workers:."}
    done = subprocess.run(
        command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 1, done.stderr
    assert "seed 3 failed; again: make sim ARGS='--first 3 --worlds 1 --jobs 60'" in done.stdout
    assert "0 faults are enough for it" in done.stdout


def test_many_worlds_that_hardly_met_a_fault_prove_nothing() -> None:
    report = Report()
    report.counts["worlds"] = ENOUGH
    report.faults.update(dict.fromkeys(FAULTS, ENOUGH // RARE))
    report.kills.update(dict.fromkeys(CRASH_POINTS, ENOUGH // RARE))
    report.counts["rivals of slow ones"] = ENOUGH // RARE
    assert unreached(report) == []
    report.faults["disk full"] -= 1
    report.kills["landing committed"] = 0
    report.counts["rivals of slow ones"] = 0
    assert unreached(report) == [
        "disk full: 39 times, not 40",
        "kill: landing committed: 0 times, not 4",
        "a rival of a slow call: 0 times, not 40",
    ]
    report.counts["worlds"] = ENOUGH - 1
    assert unreached(report) == []
