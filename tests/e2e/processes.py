"""`serve` processes and a client of their streams, as somebody has them who knows only the contract."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar
from unittest import mock

import redis

from tests.e2e.provider import Provider
from theo_daemon.cli import app

ROOT = Path(__file__).resolve().parents[2]
API_KEY = "sk-e2e-0123456789abcdefghijklmnop"
T = TypeVar("T")
Reply = dict[str, str]


def until(found: Callable[[], T], within_s: float, what: object = "") -> T:
    """The first true value of `found`, asked for until the deadline; then an AssertionError."""
    deadline = time.monotonic() + within_s
    while not (value := found()):
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {within_s} s: {what() if callable(what) else what}")
        time.sleep(0.02)
    return value


def toml(value: Any) -> str:
    """A value as TOML in one line."""
    match value:
        case dict():
            return "{ " + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + " }"
        case list() | tuple():
            return "[" + ", ".join(map(toml, value)) + "]"
        case _:
            return json.dumps(value)


class Serve:
    """One process and its log."""

    def __init__(self, name: str, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        self.name, self._log = name, folder / f"{name}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)

    @property
    def log(self) -> str:
        return self._log.read_text("utf-8", "replace")

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log lines of this event."""
        lines = (
            json.loads(line) for line in self.log.splitlines() if line.startswith("{") and line.endswith("}")
        )
        return [line for line in lines if line["event"] == name]

    def wait_event(self, name: str, within_s: float = 15) -> dict[str, Any]:
        """The first log line of this event."""

        def seen() -> list[dict[str, Any]]:
            assert self.running or self.events(name), f"{self.name} ended: {self.log[-2000:]}"
            return self.events(name)

        return until(seen, within_s, f"{name} in the log of {self.name}")[0]

    def wait_ready(self) -> Self:
        self.wait_event("process_started")
        until(lambda: self.get("/readyz")[0] == 200, 10, f"/readyz of {self.name}")
        return self

    def get(self, path: str) -> tuple[int, str]:
        """Status and body from the status port."""
        url = self.wait_event("status_port_opened")["url"]
        try:
            with urllib.request.urlopen(url + path, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read().decode()

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(10)

    def stand_still(self) -> None:
        """SIGSTOP: alive, and doing nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT: as if nothing had been."""
        os.kill(self.pid, signal.SIGCONT)

    def wait_exit(self, within_s: float) -> int:
        return self._process.wait(within_s)

    def close(self) -> None:
        if self.running:
            self.kill()


class Births(Protocol):
    """Starts processes for little."""

    def start(self, name: str, words: list[str], folder: Path) -> Serve:
        """One that runs this command in this folder."""


class Fleet:
    """Processes that share a configuration, a ledger and a prefix; and a client that pushes and reads."""

    def __init__(self, folder: Path, url: str, prefix: str, provider: Provider) -> None:
        self.folder, self.url, self.prefix, self.provider = folder, url, prefix, provider
        self.redis: Any = redis.Redis.from_url(url, decode_responses=True, socket_timeout=20)
        self.processes: list[Serve] = []
        self.wrapper: tuple[str, ...] = ()  # goes before the command of each process
        self.births: Births | None = None  # forks the processes; None: each is started from nothing
        self.config: dict[str, Any] = {
            "redis": {"prefix": prefix},
            "routing": {"default": "fast"},
            "models": [self.model("fast")],
            "telemetry": {"http": "127.0.0.1:0"},
        }

    def model(self, name: str, **more: Any) -> dict[str, Any]:
        """A model of the tests' provider that calls it by the same name; free of charge unless told."""
        free = {"input_cost_per_mtok": 0, "output_cost_per_mtok": 0}
        known = {"name": name, "provider": "openai", "model": name, "base_url": self.provider.url}
        return {**known, "api_key": "env:E2E_API_KEY", **free, **more}

    def write_config(self, folder: Path | None = None) -> Path:
        """Where `config` lies as a file, as it is now."""
        folder = folder or self.folder
        folder.mkdir(exist_ok=True)
        path = folder / "config.toml"
        new = folder / "config.toml.new"  # a process that was started before may be about to read it
        new.write_text("".join(f"{key} = {toml(value)}\n" for key, value in self.config.items()))
        new.replace(path)
        return path

    def start(self, name: str = "a", *more: str, folder: Path | None = None) -> Serve:
        """Start a process, with `more` words; use `wait_ready` before relying on it. In another folder it is as on
        another host."""
        path = self.write_config(folder)
        words = ["serve", "--config", str(path), "--redis-url", self.url, *more]
        if self.births is None or self.wrapper or "--processes" in words:
            process = self._start_from_nothing(name, words, path.parent)
        else:
            process = self.births.start(name, words, path.parent)
        self.processes.append(process)
        return process

    def _start_from_nothing(self, name: str, words: list[str], folder: Path) -> Serve:
        command = [*self.wrapper, sys.executable, "-m", "theo_daemon", *words]
        known = {k: v for k, v in os.environ.items() if not k.startswith(("THEO_", "PYTEST"))}
        paths = f"{ROOT / 'daemon'}{os.pathsep}{ROOT / 'workers'}"
        return Serve(name, command, folder, {**known, "PYTHONPATH": paths, "E2E_API_KEY": API_KEY})

    def output(self, *words: str) -> str:
        """What a command prints, run here beside the processes, with their configuration."""
        out = io.StringIO()
        known = {name: value for name, value in os.environ.items() if not name.startswith("THEO_")}
        with (
            mock.patch.dict(os.environ, {**known, "E2E_API_KEY": API_KEY}, clear=True),
            contextlib.redirect_stdout(out),
            contextlib.suppress(SystemExit),
        ):
            app([*words, "--config", str(self.folder / "config.toml")], prog_name="theo-router")
        return out.getvalue()

    def command(self, *words: str) -> Any:
        """What a command prints as JSON."""
        return json.loads(self.output(*words, "--json"))

    def start_all(self, *names: str) -> list[Serve]:
        """Start several at once; ready when this returns."""
        return [process.wait_ready() for process in [self.start(name) for name in names]]

    def jobs_key(self, lane: str = "") -> str:
        return f"{self.prefix}:jobs:{lane}" if lane else f"{self.prefix}:jobs"

    def push(self, lane: str = "", /, **fields: Any) -> str:
        """XADD one job; its entry id."""
        return str(self.redis.xadd(self.jobs_key(lane), fields))

    def push_all(self, jobs: Iterable[dict[str, Any]], lane: str = "") -> list[str]:
        """XADD many in one pipeline; their entry ids."""
        with self.redis.pipeline(transaction=False) as pipe:
            for fields in jobs:
                pipe.xadd(self.jobs_key(lane), fields)
            return [str(entry) for entry in pipe.execute()]

    def entries(self, key: str) -> list[dict[str, str]]:
        """All entries of a stream under the prefix."""
        return [fields for _, fields in self.redis.xrange(f"{self.prefix}:{key}")]

    def finals(self, key: str = "replies") -> dict[str, list[Reply]]:
        """The final replies in a stream by entry id."""
        found: dict[str, list[Reply]] = {}
        for fields in self.entries(key):
            if fields["final"] == "1":
                found.setdefault(fields["entry_id"], []).append(fields)
        return found

    def answers(self, ids: Iterable[str], within_s: float = 10, key: str = "replies") -> list[Reply]:
        """The one final reply of each, in order; waits for the last, then sees that none came twice."""
        asked = list(ids)
        until(
            lambda: self.finals(key).keys() >= set(asked),
            within_s,
            lambda: f"replies to {sorted(set(asked) - self.finals(key).keys())[:5]} of {len(asked)}",
        )
        finals = self.finals(key)
        assert {entry: len(finals[entry]) for entry in asked if len(finals[entry]) != 1} == {}
        return [finals[entry][0] for entry in asked]

    def ask(self, within_s: float = 10, /, **fields: Any) -> Reply:
        """Push a job and wait for its reply in the default stream."""
        return self.answers([self.push(**fields)], within_s)[0]

    def pending(self, lane: str = "") -> int:
        return int(self.redis.xpending(self.jobs_key(lane), "theo")["pending"])

    def settled(self, lane: str = "", within_s: float = 5) -> None:
        """The job stream is empty and nobody holds anything."""
        until(
            lambda: self.redis.xlen(self.jobs_key(lane)) == 0 and self.pending(lane) == 0,
            within_s,
            lambda: f"XLEN {self.redis.xlen(self.jobs_key(lane))}, pending {self.pending(lane)}",
        )

    def events(self, name: str) -> list[dict[str, str]]:
        return [event for event in self.entries("events") if event["event"] == name]

    def close(self) -> None:
        """End every process; print the logs, which pytest shows when the test failed."""
        for process in self.processes:
            process.close()
            print(f"--- log of {process.name}\n{process.log[-6000:]}")
        self.redis.close()
        for ballast in self.folder.rglob("*.ballast"):  # temporary folders are kept for a while
            ballast.unlink()
