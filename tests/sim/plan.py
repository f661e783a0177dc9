"""What a world is going to be like, all drawn from its seed beforehand: configuration, jobs, and a list of faults.

Faults are a list so that a failing world can be shrunk: any of them can be left out and the rest stays what it was.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from tests.sim.traffic import Job, draw_jobs
from theo_daemon.config import Config, IngressConfig, LedgerConfig, ModelConfig, RoutingConfig

PUSHED_WITHIN_S = 4.0
FAULTS_WITHIN_S = 6.0

# Where a process may be killed or frozen: as a command of its arrives at Redis, after it took effect, round a commit,
# round a call.
COMMANDS = (
    *("XREADGROUP", "XREAD", "XPENDING", "XADD", "TIME", "XGROUP", "XINFO"),
    *("FINISH", "RENEW", "TAKE", "RECLAIM", "HAND_BACK", "FETCH", "FORGET"),
)
CRASH_POINTS = (
    *(
        f"{name} {when}"
        for name in ("XREADGROUP", "FINISH", "RECLAIM", "RENEW", "TAKE", "HAND_BACK", "FETCH")
        for when in ("sent", "done")
    ),
    *("commit begins", "claim committed", "landing committed", "call begins", "call ends"),
)
# How often a world of sixty jobs passes a point, roughly: the place of a fault is drawn from this.
PASSES = {
    "XREADGROUP": 150, "XREAD": 60, "FINISH": 50, "RENEW": 12, "TAKE": 3, "RECLAIM": 30, "XPENDING": 15, "FETCH": 4,
    "HAND_BACK": 6, "TAKE_IN": 2,
}  # fmt: skip
OTHER_PASSES = 12
# How calls of a provider go wrong.
OFTEN = (
    *("refused", "429", "429 retry-after", "500", "529", "reset"),
    *("garbage", "truncated", "hang", "length", "slow"),
)
SELDOM = ("filter", "context", "invalid", "model unknown", "overbilled", "credential", "quota")
CALL_PASSES = 55
COMMIT_PASSES = {"commit begins": 120, "claim committed": 50, "landing committed": 50}


class Fault(Struct, frozen=True, kw_only=True):
    """One thing that goes wrong: at a moment, at the n-th passing of a point, or in the n-th call of a prompt."""

    kind: str
    at: float = 0.0  # seconds from the start
    point: str = ""
    nth: int = 0
    place: int = 0
    lasts_s: float = 0.0
    what: str = ""

    def __str__(self) -> str:
        where = f"at {self.at:.3f}" if not self.point else f"the {self.nth}. time at {self.point!r}"
        lasting = f" for {self.lasts_s:.3f} s" if self.lasts_s else ""
        return f"{self.kind} {self.what} {where} (place {self.place}){lasting}"


class Plan(Struct, frozen=True, kw_only=True):
    """All of a world but the order in which things happen."""

    seed: int
    processes: int
    config: Config
    jobs: Sequence[Job]
    faults: Sequence[Fault]
    redis_skew_s: float


def draw(seed: int, *, jobs: int = 60) -> Plan:
    """The plan of a seed."""
    rng = random.Random(f"plan/{seed}")
    processes = rng.choice((1, 2, 2, 3, 3, 3, 4))
    config = _draw_config(rng, random.Random(f"optional/{seed}"))
    drawn = draw_jobs(rng, jobs, config, PUSHED_WITHIN_S)
    return Plan(
        seed=seed,
        processes=processes,
        config=config,
        jobs=drawn,
        faults=[
            *_draw_faults(rng, processes, config, drawn),
            *_draw_strangers(random.Random(f"strangers/{seed}"), processes),
        ],
        redis_skew_s=rng.choice((0.0, 0.0, rng.uniform(-30, 30))),
    )


def _draw_config(rng: random.Random, optional: random.Random) -> Config:
    # Ceilings are a few bounds wide: holds stand in the way, and some worlds run dry.
    ceiling = rng.choice((None, None, None, 0.0006, 0.0015, 0.004))
    routing: dict[str, Any] = {
        "timeout_s": rng.choice((1.5, 3.0)),
        "spend_ceiling": ceiling,
        "circuit_breaker_threshold": rng.choice((2, 3)),
        "circuit_breaker_timeout_s": rng.choice((0.6, 1.5)),
        "cache_enabled": rng.random() < 0.9,
        "cache_ttl_seconds": rng.choice((300.0, 300.0, 300.0, 0.5, 0.0)),
        **_draw_optional(optional),
    }
    names = ("a", "b", "c")[: rng.choice((1, 2, 2, 3))]
    models = tuple(
        ModelConfig(
            name=name,
            provider="scripted",
            model=f"{name}-1",
            concurrency=rng.choice((2, 4, 16)),
            max_output_tokens=80,
            input_cost_per_mtok=0.05,
            output_cost_per_mtok=2.0,
            rpm=60 if rng.random() < 0.1 else None,
            routing=RoutingConfig(**routing),
        )
        for name in names
    )
    return Config(
        ingress=IngressConfig(
            max_in_flight=rng.choice((6, 20, 200)),
            lease_s=rng.choice((1.5, 3.0)),
            drain_s=rng.choice((0.5, 4.0)),
            max_deliveries=rng.choice((2, 3, 5)),
            max_job_bytes=4_000,
        ),
        ledger=LedgerConfig(
            url=Path("/nowhere/ledger.db"), on_unknown=rng.choice(("retry", "retry", "fail"))
        ),
        routing=RoutingConfig(
            default="all",
            max_wait_s=rng.choice((1.0, 4.0)),
            max_attempts=rng.choice((1, 3, 4)),
            when_unavailable=rng.choice(("park", "park", "park", "fail")),
            **routing,
        ),
        models=models,
        groups={"all": names},
    )


def _draw_optional(rng: random.Random) -> dict[str, Any]:
    """What is off by default: most worlds are as they are without it."""
    optional: dict[str, Any] = {}
    if rng.random() < 0.1:
        optional |= {
            "hedge_after_ms": rng.choice((20, 100, 400)),
            "hedge_max_cost": rng.choice((0.0001, 1.0)),
        }
    if rng.random() < 0.1:
        optional |= {"circuit_breaker_adaptive": rng.choice(("history", "throttle", True))}
    if rng.random() < 0.1:
        optional |= {"adaptive_concurrency": True}
    return optional


def _draw_faults(rng: random.Random, processes: int, config: Config, jobs: Sequence[Job]) -> list[Fault]:
    """Some worlds are calm in some respect, so that what is wrong there has no excuse."""
    draw = _Draw(rng, processes)
    models = [model.name for model in config.models]
    both = [f"{name} {when}" for name in COMMANDS for when in ("sent", "done")]
    answers = [f"{name} done" for name in COMMANDS]
    if rng.random() < 0.8:
        draw.at_times("kill", 0, 3)
        draw.at_points("kill", CRASH_POINTS, 0, 3)
        draw.at_any_await(0, 2)
    if rng.random() < 0.5:
        draw.at_times("freeze", 0, 2, lasts_s=(0.05, 4.0))
        draw.at_times("stall", 0, 1, lasts_s=(0.05, 3.0))
        draw.at_points("freeze", CRASH_POINTS, 0, 1, lasts_s=(0.5, 4.0))
    if rng.random() < 0.5:  # as a busy host does
        draw.at_points("freeze", CRASH_POINTS, 2, 10, lasts_s=(0.01, 0.2))
    if rng.random() < 0.4:
        draw.at_times("drain", 0, 2)
    if rng.random() < 0.8:
        draw.at_points("cut", both, 6, 24)
        draw.at_points("slow reply", answers, 0, 4, lasts_s=(0.05, 7.0))
        draw.at_times("cut all", 0, 3)
    if rng.random() < 0.7:
        draw.at_points("slow reply", answers, 6, 32, lasts_s=(0.02, 0.3))
    if rng.random() < 0.5:
        draw.at_times("redis stands", 0, 1, lasts_s=(0.2, 7.0))
        draw.at_times("redis stands", 0, 2, lasts_s=(0.01, 0.2))
        draw.at_times("redis down", 0, 2, lasts_s=(0.05, 2.0))
        draw.at_times("redis full", 0, 1, lasts_s=(0.2, 2.0))
        draw.at_times("redis read-only", 0, 1, lasts_s=(0.2, 1.5))
        draw.at_times("scripts flushed", 0, 3)
    if rng.random() < 0.12:
        draw.at_times("redis wiped", 1, 1, lasts_s=(0.05, 1.0))
    if rng.random() < 0.08:
        draw.at_times("redis rolled back", 1, 1, lasts_s=(0.05, 1.0))
    if rng.random() < 0.5:
        draw.at_times("ledger slow", 0, 1, lasts_s=(0.3, 2.0))
        draw.at_times("ledger busy", 0, 1, lasts_s=(0.3, 3.0))
        draw.at_times("disk full", 0, 1, lasts_s=(0.3, 3.0))
    if rng.random() < 0.5:
        draw.at_points("slow commit", ["commit begins"], 4, 16, lasts_s=(0.01, 0.4))
    if rng.random() < 0.15:
        draw.at_times("clock set", 1, 1, what=("+3600", "-3600", "+40", "-40"))
    draw.provider(rng.choice((0.0, 0.2, 0.35, 0.5)), models, jobs)
    return draw.faults


def _draw_strangers(rng: random.Random, processes: int) -> list[Fault]:
    """Other programs, or people, at the job streams."""
    draw = _Draw(rng, processes)
    if rng.random() < 0.25:
        draw.at_times("entries acknowledged", 0, 2)
        draw.at_times("consumer deleted", 0, 2)
        draw.at_points("kill", ["TAKE_IN sent", "TAKE_IN done"], 0, 1)
        draw.at_points("cut", ["FIND done", "TAKE_IN sent", "TAKE_IN done"], 0, 2)
    return draw.faults


class _Draw:
    """Draws faults of one kind after another."""

    def __init__(self, rng: random.Random, processes: int) -> None:
        self._rng, self._processes = rng, processes
        self.faults: list[Fault] = []

    def at_times(
        self, kind: str, least: int, most: int, *,
        lasts_s: tuple[float, float] = (0.0, 0.0), what: Sequence[str] = ("",),
    ) -> None:  # fmt: skip
        for _ in range(self._rng.randint(least, most)):
            self._add(
                kind, at=self._rng.uniform(0.1, FAULTS_WITHIN_S), lasts_s=lasts_s, what=self._rng.choice(what)
            )

    def at_points(
        self,
        kind: str,
        points: Sequence[str],
        least: int,
        most: int,
        *,
        lasts_s: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        for _ in range(self._rng.randint(least, most)):
            point = self._rng.choice(points)
            command = point.partition(" ")[0]
            often = COMMIT_PASSES.get(point) or (
                CALL_PASSES if command == "call" else PASSES.get(command, OTHER_PASSES)
            )
            self._add(kind, point=point, nth=self._rng.randint(1, often), lasts_s=lasts_s)

    def at_any_await(self, least: int, most: int) -> None:
        """Counted in callbacks of that process from a moment on."""
        for _ in range(self._rng.randint(least, most)):
            at = self._rng.uniform(0.0, PUSHED_WITHIN_S)
            self._add("kill at an await", at=at, nth=self._rng.randint(1, 400))

    def provider(self, share: float, models: Sequence[str], jobs: Sequence[Job]) -> None:
        rng = self._rng
        for prompt in dict.fromkeys(job.prompt for job in jobs):
            for nth in range(1, 4):
                if rng.random() < share:
                    kind = rng.choice(OFTEN) if rng.random() < 0.93 else rng.choice(SELDOM)
                    self._add("provider", what=kind, point=prompt, nth=nth)
        if rng.random() < 0.35:
            kind = rng.choice(("500", "refused", "reset", "429", "529"))
            model = rng.choice(models)
            lasts_s = (0.3, 2.5)
            self._add(f"outage of {model}", what=kind, at=rng.uniform(0.2, PUSHED_WITHIN_S), lasts_s=lasts_s)

    def _add(self, kind: str, *, lasts_s: tuple[float, float] = (0.0, 0.0), **more: Any) -> None:
        self.faults.append(
            Fault(
                kind=kind,
                place=self._rng.randrange(self._processes),
                lasts_s=self._rng.uniform(*lasts_s),
                **more,
            )
        )
