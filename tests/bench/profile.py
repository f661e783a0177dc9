"""Where a contender's time goes: py-spy's raw samples of one run apart from the measured ones."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import redis

from tests.bench.contender import Contender
from tests.bench.measure import POLL_S, Scene, load, running
from tests.bench.services import BenchError, start, stop

SAMPLES_PER_S = 500
WRITE_TIMEOUT_S = 30.0


def find_py_spy() -> str:
    """Raises BenchError when it is not installed."""
    found = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if not found:
        raise BenchError("--profile needs py-spy: .venv/bin/python -m pip install py-spy")
    return found


def profile(contender: Contender, scene: Scene, target: Path) -> Path:
    """Samples from the first reply to the last, one stack and its count a line. Raises BenchError."""
    client = redis.Redis.from_url(scene.redis_url)
    run = f"{contender.name}-profile"
    load(client, scene, run)
    output = target / f"{run}.raw"
    spy: subprocess.Popen[bytes] | None = None
    with running(contender, scene, run) as (process, log):
        deadline = time.monotonic() + scene.timeout_s
        try:
            while (done := int(client.xlen("theo:replies"))) < scene.jobs:
                if done and spy is None:
                    spy = _attach(process.pid, output)
                if process.poll() is not None or time.monotonic() > deadline:
                    raise BenchError(
                        f"{done} of {scene.jobs} replies; its log ends:\n{log.read_text()[-2000:]}"
                    )
                time.sleep(POLL_S)
        finally:
            if spy is not None:
                _detach(spy)
    if not output.exists():
        raise BenchError(
            "py-spy wrote nothing; it needs leave to trace other processes (ptrace_scope, or root)"
        )
    return output


def _attach(pid: int, output: Path) -> subprocess.Popen[bytes]:
    options = ["--rate", str(SAMPLES_PER_S), "--format", "raw", "--full-filenames", "--subprocesses"]
    command = [find_py_spy(), "record", *options, "--output", str(output), "--pid", str(pid)]
    return start(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _detach(spy: subprocess.Popen[bytes]) -> None:
    spy.send_signal(signal.SIGINT)  # it writes what it has
    with contextlib.suppress(subprocess.TimeoutExpired):
        spy.wait(WRITE_TIMEOUT_S)
    stop(spy)
