"""`serve` processes that are started again whenever they end, each boot with a name of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.chaos.provider import BOOT_HEADER
from tests.e2e.hostname import on_host
from tests.e2e.processes import API_KEY, ROOT, toml

MODELS = ("a", "b", "c", "d")
TIMEOUT_S = 4.0
FILE, REDIS = "file", "redis"  # where the ledger may be
LEASE_S = {FILE: 3.0, REDIS: 6.0}  # a process that stands still must not be taken for dead
UNSEEN_S = 1.0  # a process that ended by itself is noticed within this


class Boot:
    """One process, from its start to its end."""

    def __init__(self, name: str, folder: Path, redis_url: str, provider_url: str, ledger: str) -> None:
        self.name, self.log = name, folder / f"{name}.log"
        config = folder / f"{name}.toml"
        config.write_text(_config(name, provider_url, ledger))
        host: tuple[str, ...] = ()
        if ledger == REDIS:  # each on a host of its own
            host, folder = on_host(name), folder / name
            folder.mkdir()
        known = {k: v for k, v in os.environ.items() if not k.startswith(("THEO_", "PYTEST"))}
        paths = f"{ROOT / 'daemon'}{os.pathsep}{ROOT / 'workers'}"
        command = [
            *host,
            sys.executable,
            "-m",
            "theo_daemon",
            "serve",
            "--config",
            str(config),
            "--redis-url",
            redis_url,
        ]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                stdout=log,
                stderr=log,
                env={**known, "PYTHONPATH": paths, "E2E_API_KEY": API_KEY},
            )
        self._serves = False

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def serves(self) -> bool:
        """Has it come as far as reading jobs?"""
        if not self._serves:
            self._serves = b'"process_started"' in self.log.read_bytes()
        return self._serves

    @property
    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._process.poll()

    def send(self, number: signal.Signals) -> float:
        """Send a signal; when. A killed one is waited for."""
        at = time.monotonic()
        self._process.send_signal(number)
        if number is signal.SIGKILL:
            self._process.wait(10)
        return at

    def wait(self, timeout_s: float) -> int:
        return self._process.wait(timeout_s)


def _config(boot: str, provider_url: str, ledger: str) -> str:
    # Four models, so that one that a 429 has paused leaves others; dear ones, so that every nano-dollar shows.
    models = [
        {
            "name": name, "provider": "openai", "model": name, "base_url": provider_url, "api_key": "env:E2E_API_KEY",
            "headers": {BOOT_HEADER: boot}, "concurrency": 2, "max_output_tokens": 1000,
            "input_cost_per_mtok": 100, "output_cost_per_mtok": 1000,
            "routing": {"spend_ceiling": 1_000_000.0, "spend_window": "1d"} if name in "ab" else {},
        }
        for name in MODELS
    ]  # fmt: skip
    tables = {
        "redis": {"prefix": "theo"},
        "ingress": {"lease_s": LEASE_S[ledger], "max_in_flight": 64, "drain_s": 10.0},
        "routing": {
            "default": "chat", "timeout_s": TIMEOUT_S, "cache_ttl_seconds": 3600.0, "cache_max_entries": 1_000_000,
            "circuit_breaker_threshold": 6, "circuit_breaker_timeout_s": 0.5,
        },
        "models": models,
        "groups": {"chat": list(MODELS)},
        "telemetry": {"http": ""},
    }  # fmt: skip
    if ledger == REDIS:
        tables["ledger"] = {"url": "redis"}
    return "".join(f"{key} = {toml(value)}\n" for key, value in tables.items())


class Fleet:
    """`count` places, in each of which a process runs."""

    def __init__(
        self, folder: Path, redis_url: str, provider_url: str, *, count: int, ledger: str = FILE
    ) -> None:
        self._folder, self._redis_url, self._provider_url = folder, redis_url, provider_url
        self.ledger = ledger
        self._boots = 0
        self.died: dict[int, float] = {}  # pid -> Unix seconds, at the earliest
        self.left: dict[int, float] = {}  # the same of those that were asked to leave
        self.places: list[Boot] = []
        for _ in range(count):
            self.places.append(self._boot())

    def _boot(self) -> Boot:
        self._boots += 1
        name = f"boot-number-{self._boots:03}"
        return Boot(name, self._folder, self._redis_url, self._provider_url, self.ledger)

    def look(self) -> list[str]:
        """Restart who ended; what those that ended by themselves had to say.

        A process that finds no Redis as it starts says so and ends: that is its good right.
        """
        crashes: list[str] = []
        for place, boot in enumerate(self.places):
            if boot.status is None:
                continue
            self.died.setdefault(boot.pid, time.time() - UNSEEN_S)
            if boot.serves and boot.status != -signal.SIGKILL:
                crashes.append(f"{boot.name} ended with {boot.status}: {boot.log.read_text()[-1500:]}")
            self.places[place] = self._boot()
        return crashes

    @property
    def serving(self) -> list[Boot]:
        return [boot for boot in self.places if boot.status is None and boot.serves]

    def kill(self, boot: Boot) -> float:
        """When it was killed, monotonic."""
        self.died[boot.pid] = time.time()
        return boot.send(signal.SIGKILL)

    def drain(self, timeout_s: float) -> list[str]:
        """Ask all to leave; those that did not leave well."""
        for boot in self.places:
            if boot.status is None:
                self.left[boot.pid] = time.time()
                boot.send(signal.SIGTERM)
        deadline = time.monotonic() + timeout_s
        found: list[str] = []
        for boot in self.places:
            try:
                status = boot.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                boot.send(signal.SIGKILL)
                found.append(f"{boot.name} did not leave within {timeout_s} s")
            else:
                if status:
                    found.append(f"{boot.name} left with {status}: {boot.log.read_text()[-1500:]}")
        return found

    def close(self) -> None:
        for boot in self.places:
            if boot.status is None:
                boot.send(signal.SIGKILL)
