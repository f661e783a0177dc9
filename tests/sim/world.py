"""One world: processes, a Redis, a disk, providers and clients; run until it is at rest, then closed down."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from tests.sim.books import Disk, SimLock
from tests.sim.boots import Boot, HostClock
from tests.sim.clients import Clients
from tests.sim.loop import SimLoop
from tests.sim.network import Server
from tests.sim.oracles import judge
from tests.sim.plan import Plan
from tests.sim.provider import Providers
from tests.sim.trouble import JOB_STREAMS, Fleet, Trouble
from tests.sim.witness import Witness

QUIET_WITHIN_S = 60.0  # after the last push and the last fault
LOOK_EVERY_S = 0.25
GOODBYE_S = 20.0
SLOW_S = (0.3, 1.2)  # below every time-out
_KEPT: list[World] = []  # coroutines of the dead must not be closed, which would run their `finally`s


class World:
    """Build, `run`, and judge by what its `witness` has written down. Time begins at second 1000."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.seed, self.config = plan, plan.seed, plan.config
        self.loop = SimLoop(random.Random(f"order/{plan.seed}"))
        self.rng = random.Random(f"chance/{plan.seed}")
        self.clock = HostClock(self.loop)
        redis_offset = self.clock.wall_offset + plan.redis_skew_s
        self.redis_now: Callable[[], float] = lambda: self.loop.now + redis_offset
        self.server = Server(self.loop, self.rng, self.redis_now, self.point)
        self.disk = Disk(self.loop, self._commit_lag)
        self.witness = Witness(plan, self.server, self.disk, lambda: self.loop.now)
        self.providers = Providers(self._fate, self.point, self.witness.called)
        self.fleet = Fleet(self, self.loop, self.disk, self.witness, self.rng, plan.processes)
        self.clients = Clients(self.loop, self.server, self.witness, plan.jobs)
        self.trouble = Trouble(plan, self.loop, self.server, self.disk, self.clock, self.fleet, self.witness)
        self.complaints: dict[str, list[str]] = {}
        self.defects: list[str] = []
        self.left_over: list[str] = []
        self.quiet_at: float | None = None
        self._fates = {(one.point, one.nth): one.what for one in plan.faults if one.kind == "provider"}
        self._outages = [one for one in plan.faults if one.kind.startswith("outage")]
        self._begun = self._calm_at = self.loop.now

    def run(self) -> None:
        SimLock.disk = self.disk
        self.server.data.do((b"SET", b"theo:reply:text", b"not a stream"))
        self.fleet.open()
        self.loop.at(self.loop.now + LOOK_EVERY_S, self._look)
        try:
            self.loop.run()
        finally:
            _KEPT.append(self)
            self.disk.close()
        self._judge()

    def _judge(self) -> None:
        self.complaints = judge(self.plan, self.witness, self.disk)
        self.complaints["wrongs seen at once"] = self.witness.complaints
        self.complaints["defects"] = [*self.defects, *map(repr, self.loop.bugs)]
        self.complaints["not at rest"] = self.left_over

    @property
    def trace(self) -> int:
        """What happened, in a number: equal for two runs of one plan."""
        told = f"{self.server.trace} {self.disk.commits} {len(self.witness.calls)} {self.loop.now}"
        return zlib.crc32(told.encode())

    # -- what its parts ask ----------------------------------------------------------------------------

    def point(self, name: str, boot: Boot) -> Any:
        return self.trouble.point(name, boot)

    def committed(self, boot: Boot, operations: Sequence[Any], answers: Sequence[Any]) -> None:
        for name in self.witness.committed(boot, operations, answers):
            self.point(name, boot)

    def left(self, boot: Boot) -> None:
        self.fleet.left(boot)

    def _commit_lag(self) -> float:
        return 0.0002 + 0.002 * self.rng.random()

    def _fate(self, prompt: str, model: str, nth: int, now: float) -> tuple[float, str | None]:
        draw = self.rng.random()
        takes_s = 0.01 + 0.2 * draw if draw < 0.9 else 0.7 * draw
        kind = self._fates.get((prompt, nth))
        offset = now - self._begun
        for outage in self._outages:
            if outage.kind.endswith(model) and outage.at <= offset <= outage.at + outage.lasts_s:
                kind = outage.what
        if kind is not None:
            self.witness.faults[f"provider: {kind}"] += 1
            self.witness.overbilled |= kind == "overbilled"
            if kind == "slow":
                takes_s, kind = SLOW_S[0] + (SLOW_S[1] - SLOW_S[0]) * draw, None
        return takes_s, kind

    # -- its end ---------------------------------------------------------------------------------------

    def _look(self) -> None:
        """At rest, or out of time: then everybody may go home."""
        now = self.loop.now
        if self.clients.left or self.trouble.active or now < self._begun + 0.5:
            self._calm_at = now
        elif not (left := self._unfinished()):
            self.quiet_at = now
            self._close()
            return
        elif now > self._calm_at + QUIET_WITHIN_S:
            self.left_over = left
            self._close()
            return
        self.loop.at(now + LOOK_EVERY_S, self._look)

    def _unfinished(self) -> list[str]:
        data = self.server.data
        found = []
        for key in JOB_STREAMS:
            stream = data.keys.get(key)
            if stream is not None and stream.entries:  # type: ignore[union-attr]
                found.append(f"{key.decode()} has {[f'{ms}-{n}' for ms, n in stream.entries]}")  # type: ignore[union-attr]
        found += [
            f"{boot} is not at rest" for boot in self.fleet.alive if boot.serving and not boot.daemon.at_rest
        ]
        found += [f"in flight: {row}" for row in self.disk.rows("SELECT key, owner, entry_id FROM inflight")]
        return found

    def _close(self) -> None:
        self.fleet.closing = True
        for boot in self.fleet.alive:
            if boot.serving:
                self.loop.on(boot.main, boot.daemon.drain)
            else:
                self.fleet.kill(boot)
        self._goodbye_by = self.loop.now + GOODBYE_S
        self._wait_for_the_last()

    def _wait_for_the_last(self) -> None:
        if not self.fleet.alive:
            self.loop.stop()
        elif self.loop.now > self._goodbye_by:
            self.left_over += [f"{boot} does not leave" for boot in self.fleet.alive]
            self.loop.stop()
        else:
            self.loop.at(self.loop.now + LOOK_EVERY_S, self._wait_for_the_last)
