"""`serve` processes that are started again whenever they end, each boot with a name of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.provider import BOOT_HEADER
from tests.e2e.processes import toml
from tests.e2e.zygote import Order, Word, Zygote

MODELS = ("a", "b", "c", "d", "e", "f")  # so that one that a 429 has paused leaves others
TIMEOUT_S = 4.0
FILE, REDIS = "file", "redis"  # where the ledger may be
LEASE_S = {FILE: 3.0, REDIS: 6.0}  # a process that stands still must not be taken for dead
UNSEEN_S = 1.0  # a process that ended by itself is noticed within this
BUSY_AFTER_S = 0.25  # from when it serves
AGAIN_AFTER_S = 0.25  # and its place is empty for so long
ENDED_WITHIN_S = 10.0  # of a SIGKILL


class Boot:
    """One process, from its start to its end."""

    def __init__(self, name: str, pid: int, log: Path) -> None:
        self.name, self.pid, self.log = name, pid, log
        self.end: Word | None = None
        self.killed = False
        self.began_at, self.began_unix = time.monotonic(), time.time()
        self._serves_since: float | None = None

    @property
    def serves(self) -> bool:
        """Has it come as far as reading jobs?"""
        if self._serves_since is None and self.log.exists() and b'"process_started"' in self.log.read_bytes():
            self._serves_since = time.monotonic()
        return self._serves_since is not None

    @property
    def at_work(self) -> bool:
        """Has it had the time to begin something?"""
        return (
            self.serves
            and self._serves_since is not None
            and time.monotonic() > self._serves_since + BUSY_AFTER_S
        )

    def send(self, number: signal.Signals) -> float:
        """Send a signal; when, monotonic. One that has just ended by itself does not mind."""
        at = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
        return at

    def last_words(self) -> str:
        assert self.end is not None
        said = self.log.read_text() if self.log.exists() else "(nothing)"
        return f"{self.name} ended with {self.end.status}: {said[-1500:]}"


def _config(boot: str, provider_urls: Sequence[str], ledger: str, timeout_s: float) -> str:
    # Dear models, so that every nano-dollar shows.
    models = [
        {
            "name": name, "provider": "openai", "model": name, "base_url": provider_urls[place % len(provider_urls)],
            "api_key": "env:E2E_API_KEY", "headers": {BOOT_HEADER: boot}, "concurrency": 4,
            "max_output_tokens": 1000, "input_cost_per_mtok": 100, "output_cost_per_mtok": 1000,
            "routing": {"spend_ceiling": 1_000_000.0, "spend_window": "1d"} if name in "ab" else {},
        }
        for place, name in enumerate(MODELS)
    ]  # fmt: skip
    # Kills are frequent and the rehearsal's doing: no job is to be given up for them.
    tables = {
        "redis": {"prefix": "theo"},
        "ingress": {"lease_s": LEASE_S[ledger], "max_in_flight": 64, "drain_s": 10.0, "max_deliveries": 20},
        "reply": {"max_len": 1_000_000},
        "routing": {
            "default": "chat", "timeout_s": timeout_s, "cache_ttl_seconds": 3600.0, "cache_max_entries": 1_000_000,
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
        self,
        zygote: Zygote,
        folder: Path,
        redis_url: str,
        provider_urls: Sequence[str],
        *,
        count: int,
        ledger: str = FILE,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._zygote, self._folder = zygote, folder
        self._redis_url, self._provider_urls = redis_url, provider_urls
        self.ledger, self._timeout_s = ledger, timeout_s
        self.boots: dict[int, Boot] = {}  # all there ever were, by pid
        self.died: dict[int, float] = {}  # pid -> Unix seconds, at the earliest
        self.left: dict[int, float] = {}  # the same of those that were asked to leave
        self.places = [self._boot() for _ in range(count)]

    def _boot(self) -> Boot:
        name = f"boot-number-{len(self.boots) + 1:04}"
        folder, config, log = self._folder, self._folder / f"{name}.toml", self._folder / f"{name}.log"
        config.write_text(_config(name, self._provider_urls, self.ledger, self._timeout_s))
        if self.ledger == REDIS:  # each on a host of its own
            folder = folder / name
            folder.mkdir()
        words = ["theo-router", "serve", "--config", str(config), "--redis-url", self._redis_url]
        host = name if self.ledger == REDIS else ""
        pid = self._zygote.fork(Order(words, str(folder), str(log), host))
        # Books tell processes apart by their pid.
        assert pid not in self.boots, (
            f"pid {pid} came twice: there are too few of them for so long a rehearsal"
        )
        self.boots[pid] = Boot(name, pid, log)
        return self.boots[pid]

    def look(self) -> list[Boot]:
        """Start anew where a process ended; those that ended by themselves."""
        unasked = self._bury(0.0)
        for place, boot in enumerate(self.places):
            if boot.end is not None and (
                boot.end.status == -signal.SIGKILL or time.time() >= boot.end.at + AGAIN_AFTER_S
            ):
                self.places[place] = self._boot()
        return unasked

    def _bury(self, within_s: float) -> list[Boot]:
        unasked: list[Boot] = []
        for word in self._zygote.ended(within_s):
            boot = self.boots[word.pid]
            boot.end = word
            if word.status != -signal.SIGKILL and word.pid not in self.left:
                # One that gives up as it boots closes its ledger at any time before its end.
                self.died[word.pid] = word.at - UNSEEN_S if boot.serves else boot.began_unix
                unasked.append(boot)
        return unasked

    @property
    def alive(self) -> list[Boot]:
        return [boot for boot in self.places if boot.end is None and not boot.killed]

    @property
    def serving(self) -> list[Boot]:
        return [boot for boot in self.alive if boot.serves]

    @property
    def at_work(self) -> list[Boot]:
        return [boot for boot in self.alive if boot.at_work]

    @property
    def booting(self) -> list[Boot]:
        return [boot for boot in self.alive if not boot.serves]

    def kill(self, boot: Boot) -> float:
        """When it was killed, monotonic."""
        self.died[boot.pid], boot.killed = time.time(), True
        return boot.send(signal.SIGKILL)

    @property
    def killed(self) -> int:
        """How many ended by SIGKILL."""
        return sum(
            boot.end is not None and boot.end.status == -signal.SIGKILL for boot in self.boots.values()
        )

    def drain(self, timeout_s: float) -> list[str]:
        """Ask all to leave; those that did not leave well."""
        for boot in self.places:
            if boot.end is None:
                self.left[boot.pid] = time.time()
                boot.send(signal.SIGTERM)
        deadline = time.monotonic() + timeout_s
        while any(boot.end is None for boot in self.places) and time.monotonic() < deadline:
            self._bury(0.1)
        late = [boot for boot in self.places if boot.end is None]
        for boot in late:
            boot.send(signal.SIGKILL)
        return [
            *(f"{boot.name} did not leave within {timeout_s} s" for boot in late),
            *(boot.last_words() for boot in self.places if boot.end is not None and boot.end.status),
        ]

    def close(self) -> None:
        for boot in self.places:
            if boot.end is None:
                boot.send(signal.SIGKILL)
        while any(boot.end is None for boot in self.places):
            self._bury(ENDED_WITHIN_S)
