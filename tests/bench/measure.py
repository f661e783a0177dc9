"""One run of one contender: jobs in, clock and CPU read at 10 % and at 100 % of the replies, everything counted."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
from msgspec import Struct

from tests.bench import procstat
from tests.bench.contender import Contender
from tests.bench.services import BenchError, Upstream, start, stop

POLL_S = 0.01
AFTERMATH_S = 0.5
FILLER = (
    "The customer asks again where the parcel is; please sum up the order's state and answer politely. " * 3
)


class Scene(Struct, frozen=True, kw_only=True):
    """What all runs share. `jobs` per run; a run that takes longer than `timeout_s` is a failure."""

    folder: Path
    redis_url: str
    redis_pid: int
    upstream: Upstream
    jobs: int
    ids: bool
    timeout_s: float


class Figures(Struct, frozen=True, kw_only=True):
    """From the moment 10 % of the replies were there to the moment all were."""

    contender: str
    repetition: int
    jobs: int  # finished in that span
    jobs_per_s: float
    cpu_us_per_job: float  # user + system of the contender's whole process tree
    aftermath_us_per_job: float  # what the tree used in the half second after the last reply, over all jobs
    redis_us_per_job: float
    upstream_us_per_job: float
    peak_rss_mb: float
    foreign_cores: float  # kept busy by processes that have nothing to do with the benchmark


class Reading(Struct, frozen=True):
    at: float
    done: int
    contender: float
    redis: float
    upstream: float
    busy: float
    own: float


def prompt(run: str, number: int) -> str:
    """200 characters, unlike those of any other job of any run."""
    return f"Order {run}-{number}. {FILLER}"[:200]


def load(client: redis.Redis, scene: Scene, run: str) -> None:
    """An empty server, the group, and all jobs waiting."""
    client.flushall()
    client.xgroup_create("theo:jobs", "theo", id="0", mkstream=True)
    for first in range(0, scene.jobs, 1000):
        pipe = client.pipeline(transaction=False)
        for number in range(first, min(first + 1000, scene.jobs)):
            job = {"model": "bench", "prompt": prompt(run, number)}
            if scene.ids:
                job["id"] = f"{run}-{number}"
            pipe.xadd("theo:jobs", {"job": json.dumps(job)})
        pipe.execute()


def check(client: redis.Redis, scene: Scene, answered: int) -> None:
    """Each job one final good reply and one provider call, or the figures are worth nothing. Raises BenchError."""
    replies: Any = client.xrange("theo:replies")
    good = [
        fields[b"entry_id"]
        for _, fields in replies
        if (fields[b"status"], fields[b"final"]) == (b"ok", b"1") and fields[b"output"]
    ]
    if not len(replies) == len(good) == len(set(good)) == answered == scene.jobs:
        raise BenchError(
            f"{scene.jobs} jobs gave {len(replies)} replies, {len(good)} of them good,"
            f" for {len(set(good))} entries, by {answered} provider calls; first reply: {replies[:1]}"
        )


@contextmanager
def running(contender: Contender, scene: Scene, run: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """The contender in an empty folder of its own, its log in a file: the process and the log's path."""
    folder = scene.folder / run
    folder.mkdir()
    argv = contender.argv(redis=scene.redis_url, upstream=scene.upstream.base_url, folder=folder)
    log_path = folder / "log"
    with log_path.open("wb") as log:
        process = start(
            argv, stdout=log, stderr=log, cwd=folder, env={**os.environ, "THEO_BENCH_KEY": "bench"}
        )
    try:
        yield process, log_path
    finally:
        stop(process)


def _read(pid: int, scene: Scene, done: int) -> Reading:
    return Reading(
        at=time.perf_counter(),
        done=done,
        contender=procstat.cpu_s(procstat.tree(pid)),
        redis=procstat.cpu_s([scene.redis_pid]),
        upstream=procstat.cpu_s([scene.upstream.pid]),
        busy=procstat.busy_s(),
        own=time.process_time(),
    )


def _watch(
    client: redis.Redis, process: subprocess.Popen[bytes], log: Path, scene: Scene
) -> tuple[Reading, Reading]:
    """Readings at 10 % and at 100 % of the replies. Raises BenchError when they do not come."""
    first: Reading | None = None
    deadline = time.monotonic() + scene.timeout_s
    while True:
        done = int(client.xlen("theo:replies"))
        if first is None and done * 10 >= scene.jobs:
            first = _read(process.pid, scene, done)
        if first is not None and done >= scene.jobs:
            return first, _read(process.pid, scene, done)
        if process.poll() is not None or time.monotonic() > deadline:
            tail = log.read_text(errors="replace")[-2000:]
            raise BenchError(
                f"{done} of {scene.jobs} replies, exit status {process.poll()}; its log ends:\n{tail}"
            )
        time.sleep(POLL_S)


def measure(contender: Contender, scene: Scene, repetition: int) -> Figures:
    """One run. Raises BenchError when a job was lost, answered twice or paid twice, or time ran out."""
    run = f"{contender.name}-{repetition}"
    client = redis.Redis.from_url(scene.redis_url)
    load(client, scene, run)
    before = scene.upstream.answered()
    with running(contender, scene, run) as (process, log):
        first, last = _watch(client, process, log, scene)
        peak_rss_mb = procstat.peak_rss_mb(procstat.tree(process.pid))
        time.sleep(AFTERMATH_S)
        aftermath_s = procstat.cpu_s(procstat.tree(process.pid)) - last.contender
    check(client, scene, scene.upstream.answered() - before)
    span_s, jobs = last.at - first.at, last.done - first.done
    if jobs <= 0:
        raise BenchError(f"{scene.jobs} jobs were over before they could be measured; use more")
    ours = sum(
        getattr(last, name) - getattr(first, name) for name in ("contender", "redis", "upstream", "own")
    )
    return Figures(
        contender=contender.name,
        repetition=repetition,
        jobs=jobs,
        jobs_per_s=jobs / span_s,
        cpu_us_per_job=(last.contender - first.contender) / jobs * 1e6,
        aftermath_us_per_job=aftermath_s / scene.jobs * 1e6,
        redis_us_per_job=(last.redis - first.redis) / jobs * 1e6,
        upstream_us_per_job=(last.upstream - first.upstream) / jobs * 1e6,
        peak_rss_mb=peak_rss_mb,
        foreign_cores=max(0.0, (last.busy - first.busy - ours) / span_s),
    )
