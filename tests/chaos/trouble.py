"""Makes trouble on a schedule drawn from the seed, and writes down what it did and when."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import random
import signal
import time
from collections.abc import Callable
from typing import Any

import redis
from msgspec import Struct

from tests.chaos.fleet import FILE, REDIS, Boot, Fleet
from tests.chaos.records import FOREVER, Faults, Stop
from tests.chaos.traffic import JOBS, client
from tests.chaos.wipes import Wiper
from theo_daemon.embedded_valkey import EmbeddedValkey

STOP_S = (1.0, 2.5)
AWAY_S = (0.0, 0.5)  # Redis
TICK_S = 0.02
GROUP = "theo"
RECONNECTED_WITHIN_S = 2.0
KILL_BOOTING = 0.2  # of the kills
# In turn, from one restart of Redis to the next. With the second a crash may cost up to two seconds where the disk is
# slow (Redis holds its writes back while an fsync is under way), so it is not for books that lie in Redis.
FSYNC = {FILE: ("always", "everysec"), REDIS: ("always",)}


class Rates(Struct, frozen=True, kw_only=True):
    """Seconds from one fault to the next, in the mean; FOREVER: none."""

    kill_s: float = 0.33
    stop_s: float = 2.7
    redis_kill_s: float = 7.2
    cut_s: float = 8.0
    strangers_s: float = 6.0
    wipe_s: float = FOREVER


class Trouble:
    """Call `step` often, from the thread that started the server."""

    def __init__(
        self, fleet: Fleet, server: EmbeddedValkey, wiper: Wiper, *, rates: Rates, seconds: float, seed: int
    ) -> None:
        self.faults = Faults()
        self._fleet, self._server, self._wiper = fleet, server, wiper
        self._random = random.Random(f"trouble/{seed}")
        self._redis = client(server.url)
        self._started, self._seconds = time.monotonic(), seconds
        self._order = itertools.count()
        self._plan: list[tuple[float, int, Callable[[], None]]] = []
        for every_s, work in (
            (rates.kill_s, self._kill),
            (rates.stop_s, self._stop),
            (rates.redis_kill_s, self._kill_redis),
            (rates.cut_s, self._cut),
            (rates.strangers_s, self._drop),
        ):
            for _ in range(0 if every_s == FOREVER else max(1, round(seconds / every_s))):
                self._at(self._random.uniform(0, seconds), work)
        for number in range(0 if rates.wipe_s == FOREVER else round(seconds / rates.wipe_s)):
            # Not two in a row: between them jobs have to be answered.
            self._at(rates.wipe_s * (number + self._random.uniform(0.1, 0.7)), self._wipe)

    @property
    def over(self) -> bool:
        return not self._plan

    def step(self) -> None:
        """Do what is due."""
        for boot in self._fleet.look():
            if boot.serves or not self._had_reason(boot):
                self.faults.crashes.append(boot.last_words())
            else:
                self.faults.gave_up += 1
        while self._plan and self._plan[0][0] <= time.monotonic() - self._started:
            _, _, work = heapq.heappop(self._plan)
            work()

    def _had_reason(self, boot: Boot) -> bool:
        """A process that finds no Redis as it starts says so and ends: that is its good right."""
        return any(
            stop.started_at <= time.monotonic() and stop.ended_at + RECONNECTED_WITHIN_S >= boot.began_at
            for stop in self.faults.redis_kills
        ) or any(at >= boot.began_at for at in self.faults.cut_connections)

    @property
    def _late(self) -> bool:
        """Is the time of faults over?"""
        return time.monotonic() > self._started + self._seconds

    def _at(self, offset_s: float, work: Callable[[], None]) -> None:
        heapq.heappush(self._plan, (offset_s, next(self._order), work))

    def _later(self, delay_s: float, work: Callable[[], None]) -> None:
        self._at(time.monotonic() - self._started + delay_s, work)

    # -- processes -------------------------------------------------------------------------------------

    def _kill(self) -> None:
        """Mostly one that is at work, and has something to lose; where there is none, wait."""
        self._kill_one(booting=self._random.random() < KILL_BOOTING)

    def _kill_one(self, *, booting: bool) -> None:
        found = self._fleet.booting if booting else self._fleet.at_work
        if not found:
            self._later(TICK_S, lambda: self._kill_one(booting=booting))
            return
        boot = self._random.choice(found)
        self.faults.kills_of_booting += booting
        self.faults.kills[boot.name] = self._fleet.kill(boot)
        self._end_stop(boot)
        self.step()

    def _stop(self) -> None:
        standing = {stop.boot for stop in self.faults.stops if stop.ended_at == FOREVER}
        free = [boot for boot in self._fleet.serving if boot.name not in standing]
        if not free:
            self._later(0.1, self._stop)
            return
        boot = self._random.choice(free)
        self.faults.stops.append(Stop(boot=boot.name, started_at=boot.send(signal.SIGSTOP)))
        self._later(self._random.uniform(*STOP_S), lambda: self._continue(boot))

    def _continue(self, boot: Boot) -> None:
        if boot.end is None:
            boot.send(signal.SIGCONT)
        self._end_stop(boot)

    def _end_stop(self, boot: Boot) -> None:
        for stop in self.faults.stops:
            if stop.boot == boot.name:
                stop.ended_at = min(stop.ended_at, time.monotonic())

    # -- Redis -----------------------------------------------------------------------------------------

    def _kill_redis(self) -> None:
        if self._server.pid is None:  # it is away already
            self._later(0.5, self._kill_redis)
            return
        self.faults.redis_kills.append(Stop(boot="", started_at=time.monotonic()))
        self._server.kill()
        self._later(self._random.uniform(*AWAY_S), self._start_redis)

    def _start_redis(self) -> None:
        self._server.start()
        self._wiper.count_age()
        away = self.faults.redis_kills[-1]
        away.ended_at = time.monotonic()
        with contextlib.suppress(redis.RedisError):  # it begins with what `always` promises
            kinds = FSYNC[self._fleet.ledger]
            self._redis.config_set("appendfsync", kinds[len(self.faults.redis_kills) % len(kinds)])
        if self._fleet.ledger == REDIS:
            back_at = away.ended_at + RECONNECTED_WITHIN_S
            self.faults.unrecorded.append(Stop(boot="", started_at=away.started_at, ended_at=back_at))

    def _cut(self) -> None:
        with contextlib.suppress(redis.RedisError):
            self._redis.client_kill_filter(_type="normal")
            self.faults.cut_connections.append(time.monotonic())

    def _drop(self) -> None:
        """A stranger takes entries out of somebody's hands: acknowledges them, or deletes their consumer.

        Where there are none, wait.
        """
        before = self.faults.acknowledged + self.faults.dropped
        for stream in JOBS:
            with contextlib.suppress(redis.RedisError):
                pending: Any = self._redis.xpending_range(stream, GROUP, "-", "+", 1000)
                if not pending:
                    continue
                if self._random.random() < 0.5:
                    chosen = [row["message_id"] for row in pending[:: self._random.choice((1, 2, 3))]]
                    self.faults.acknowledged += int(self._redis.xack(stream, GROUP, *chosen))  # type: ignore[arg-type]
                else:
                    name = self._random.choice(pending)["consumer"]
                    self.faults.dropped += int(self._redis.xgroup_delconsumer(stream, GROUP, name))  # type: ignore[arg-type]
        if self.faults.acknowledged + self.faults.dropped == before and not self._late:
            self._later(TICK_S, self._drop)

    def _wipe(self) -> None:
        """Every other time the server is gone, too, and comes back with nothing."""
        if self._server.pid is None:
            self._later(0.5, self._wipe)
            return
        if len(self.faults.wipes) % 2 == 0:
            self.faults.wipes.append(self._wiper.flush())
        else:
            self.faults.redis_kills.append(Stop(boot="", started_at=time.monotonic()))
            self.faults.wipes.append(self._wiper.lose(self._server))
            self._later(self._random.uniform(*AWAY_S), self._start_redis)
