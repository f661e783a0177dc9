"""Makes trouble on a schedule drawn from the seed, and writes down what it did and when."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import random
import signal
import time
from collections.abc import Callable

import redis

from tests.chaos.fleet import REDIS, Boot, Fleet
from tests.chaos.records import Faults, Stop
from tests.chaos.traffic import client
from theo_daemon.embedded_valkey import EmbeddedValkey

KILL_EVERY_S, STOP_EVERY_S, REDIS_KILL_EVERY_S, CUT_EVERY_S = 2.8, 12.0, 24.0, 15.0
STOP_S = (1.0, 2.5)
TICK_S = 0.02
RECONNECTED_WITHIN_S = 2.0


class Trouble:
    """Call `step` often, from the thread that started the server."""

    def __init__(self, fleet: Fleet, server: EmbeddedValkey, *, seconds: float, seed: int) -> None:
        self.faults = Faults()
        self._fleet, self._server, self._random = fleet, server, random.Random(f"trouble/{seed}")
        self._redis = client(server.url)
        self._started = time.monotonic()
        self._order = itertools.count()
        self._plan: list[tuple[float, int, Callable[[], None]]] = []
        for every_s, work in (
            (KILL_EVERY_S, self._kill),
            (STOP_EVERY_S, self._stop),
            (REDIS_KILL_EVERY_S, self._kill_redis),
            (CUT_EVERY_S, self._cut),
        ):
            for _ in range(max(1, round(seconds / every_s))):
                self._at(self._random.uniform(0, seconds), work)

    @property
    def over(self) -> bool:
        return not self._plan

    def step(self) -> None:
        """Do what is due."""
        self.faults.crashes += self._fleet.look()
        while self._plan and self._plan[0][0] <= time.monotonic() - self._started:
            _, _, work = heapq.heappop(self._plan)
            work()

    def _at(self, offset_s: float, work: Callable[[], None]) -> None:
        heapq.heappush(self._plan, (offset_s, next(self._order), work))

    def _later(self, delay_s: float, work: Callable[[], None]) -> None:
        self._at(time.monotonic() - self._started + delay_s, work)

    def _kill(self) -> None:
        """Only who serves has something to lose; where nobody does, wait."""
        serving = self._fleet.serving
        if not serving:
            self._later(0.1, self._kill)
            return
        boot = self._random.choice(serving)
        self.faults.kills[boot.name] = self._fleet.kill(boot)
        self._end_stop(boot)
        self.faults.crashes += self._fleet.look()

    def _stop(self) -> None:
        standing = {stop.boot for stop in self.faults.stops if stop.ended_at == float("inf")}
        free = [boot for boot in self._fleet.serving if boot.name not in standing]
        if not free:
            self._later(0.1, self._stop)
            return
        boot = self._random.choice(free)
        self.faults.stops.append(Stop(boot=boot.name, started_at=boot.send(signal.SIGSTOP)))
        self._later(self._random.uniform(*STOP_S), lambda: self._continue(boot))

    def _continue(self, boot: Boot) -> None:
        if boot.status is None:
            boot.send(signal.SIGCONT)
        self._end_stop(boot)

    def _end_stop(self, boot: Boot) -> None:
        for stop in self.faults.stops:
            if stop.boot == boot.name:
                stop.ended_at = min(stop.ended_at, time.monotonic())

    def _kill_redis(self) -> None:
        killed_at = time.monotonic()
        self.faults.redis_kills.append(killed_at)
        self._server.kill()
        time.sleep(self._random.uniform(0.0, 0.5))
        self._server.start()
        if self._fleet.ledger == REDIS:
            back_at = time.monotonic() + RECONNECTED_WITHIN_S
            self.faults.unrecorded.append(Stop(boot="", started_at=killed_at, ended_at=back_at))

    def _cut(self) -> None:
        with contextlib.suppress(redis.RedisError):
            self._redis.client_kill_filter(_type="normal")
            self.faults.cut_connections.append(time.monotonic())
