"""The benchmark measures what it says, and refuses figures of runs that lost, doubled or never finished a job."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.bench import contender, failover, measure, procstat, report, services

ROOT = Path(__file__).parents[2]
PARENT_OF_A_SLEEPER = """
import subprocess, sys
child = subprocess.Popen(["sleep", "30"])
print(child.pid, flush=True)
sys.stdin.read()
child.kill()
"""
BURN_200_MS = "import time\nwhile time.process_time() < 0.2: pass"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benchmark reads /proc")


def run_bench(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.bench.run", "--reps", "1", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)


def figures(name: str, repetition: int, cpu_us: float) -> measure.Figures:
    return measure.Figures(
        contender=name,
        repetition=repetition,
        jobs=10,
        jobs_per_s=1.0,
        cpu_us_per_job=cpu_us,
        aftermath_us_per_job=0.0,
        redis_us_per_job=0.0,
        upstream_us_per_job=0.0,
        peak_rss_mb=0.0,
        foreign_cores=0.0,
    )


class Replies:
    """Stands for the reply stream that a contender has left."""

    def __init__(self, *entries: tuple[str, str]) -> None:
        self.entries = entries

    def xrange(self, _: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
        fields = (
            {b"entry_id": entry.encode(), b"status": status.encode(), b"final": b"1", b"output": b"hello"}
            for entry, status in self.entries
        )
        return [(b"1-0", each) for each in fields]


class Idle:
    name, pid, base_url = "idle", 0, ""

    def answered(self) -> int:
        return 0


def scene(jobs: int) -> measure.Scene:
    return measure.Scene(
        folder=ROOT, redis_url="", redis_pid=0, upstream=Idle(), jobs=jobs, ids=True, timeout_s=1.0
    )


def test_cpu_time_includes_that_of_children_already_reaped() -> None:
    before = procstat.cpu_s([os.getpid()])
    subprocess.run([sys.executable, "-c", BURN_200_MS], check=True)
    assert procstat.cpu_s([os.getpid()]) - before >= 0.1


def test_the_tree_of_a_process_holds_its_grandchildren() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT_OF_A_SLEEPER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        grandchild = int(child.stdout.readline())
        assert {child.pid, grandchild} <= set(procstat.tree(os.getpid()))


def test_prompts_are_200_characters_and_all_different() -> None:
    prompts = [measure.prompt(run, number) for run in ("loop-0", "serve-0") for number in range(2000)]
    assert {len(prompt) for prompt in prompts} == {200}
    assert len(set(prompts)) == len(prompts)


@pytest.mark.parametrize(
    ("replies", "answered"),
    [
        (Replies(("1-0", "ok")), 2),  # a job lost
        (Replies(("1-0", "ok"), ("2-0", "ok"), ("2-0", "ok")), 2),  # a second reply
        (Replies(("1-0", "ok"), ("1-0", "ok")), 2),  # one job twice, the other never
        (Replies(("1-0", "ok"), ("2-0", "error")), 2),
        (Replies(("1-0", "ok"), ("2-0", "ok")), 3),  # a call paid twice
        (Replies(("1-0", "ok"), ("2-0", "ok")), 1),  # an answer from a cache
    ],
)
def test_refuses_a_run_in_which_jobs_replies_and_calls_are_not_one_to_one(
    replies: Any, answered: int
) -> None:
    with pytest.raises(services.BenchError, match="2 jobs gave"):
        measure.check(replies, scene(jobs=2), answered)


def test_accepts_a_run_in_which_they_are() -> None:
    replies: Any = Replies(("1-0", "ok"), ("2-0", "ok"))
    measure.check(replies, scene(jobs=2), 2)


def test_the_ratio_is_taken_within_each_repetition() -> None:
    runs = [
        figures("loop", 0, 200.0),
        figures("serve", 0, 220.0),
        figures("serve", 1, 300.0),
        figures("loop", 1, 400.0),
    ]
    assert report.ratios(runs, "serve") == [1.1, 0.75]


def test_a_given_command_replaces_the_known_one_of_its_name() -> None:
    (serve,) = contender.chosen("serve", ["serve=theo-router serve --processes 2 --config {config}"])
    assert "--processes 2" in serve.command


@pytest.mark.parametrize(("only", "more"), [("nobody", []), (None, ["no command"])])
def test_an_unknown_contender_is_refused(only: str | None, more: list[str]) -> None:
    with pytest.raises(services.BenchError):
        contender.chosen(only, more)


@pytest.mark.e2e
@pytest.mark.parametrize("options", [["--upstream", "c"], ["--upstream", "nginx", "--no-ids"]])
def test_measures_the_loop_over_a_real_server(options: list[str]) -> None:
    done = run_bench("--jobs", "300", "--only", "loop", "--json", *options)
    if "needs a C compiler" in done.stderr:
        pytest.skip("neither cc nor nginx here")
    assert done.returncode == 0, done.stderr
    (run,) = json.loads(done.stdout)["runs"]
    assert run["contender"] == "loop"
    assert 0 < run["jobs"] <= 270
    assert 0 < run["cpu_us_per_job"] < 1e6


@pytest.mark.e2e
def test_a_contender_that_ends_early_fails_the_benchmark_with_its_log() -> None:
    done = run_bench(
        "--jobs", "100", "--only", "quitter", "--contender", "quitter={python} -c 'print(\"gone home\")'"
    )
    if "needs a C compiler" in done.stderr:
        pytest.skip("neither cc nor nginx here")
    assert done.returncode == 1
    assert "0 of 100 replies, exit status 0" in done.stderr
    assert "gone home" in done.stderr


def test_the_added_latency_is_that_of_equal_shares() -> None:
    timed = failover.Timed(healthy=[1.0] * 98 + [9.0] * 2, group=[3.0] * 98 + [12.0] * 2, http=[])
    assert (timed.added(0.5), timed.added(0.99)) == (2.0, 3.0)


@pytest.mark.e2e
def test_failover_is_measured_over_a_real_serve_and_costs_no_job_its_answer() -> None:
    command = [sys.executable, "-m", "tests.bench.failover", "--jobs", "40", "--reps", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    if "needs a C compiler" in done.stderr:
        pytest.skip("neither cc nor nginx here")
    assert done.returncode == 0, done.stderr
    finding = json.loads(done.stdout.splitlines()[0])
    assert finding["many_at_once"] == {"ok": 40}
    assert finding["ms"]["failing first"]["p50"] > finding["ms"]["HTTP call alone"]["p50"]


@pytest.mark.e2e
def test_three_real_processes_know_of_a_circuit_in_time_and_send_one_probe_for_each_opening() -> None:
    command = [sys.executable, "-m", "tests.bench.breaker", "--openings", "3", "--seconds", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    if "needs a C compiler" in done.stderr:
        pytest.skip("neither cc nor nginx here")
    assert done.stdout, done.stderr
    finding = json.loads(done.stdout)
    assert finding["calls"] == finding["openings"] == finding["probes"] + 10
    assert finding["open in a peer after ms"]["samples"] == 6
