"""The models as the dispatcher sees them: who has a free slot, who may be tried, what a call may cost."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct, structs

from theo_daemon.catalogue import Route
from theo_daemon.config import ModelConfig
from theo_daemon.job import Job
from theo_daemon.ledger.figures import MODEL_SCOPE
from theo_daemon.ledger.rates import Rate
from theo_daemon.ledger.records import Scope, Verdict, Want
from theo_daemon.money import to_nano
from theo_daemon.routing import Candidate, choose
from theo_daemon.spend_window import window_of
from theo_daemon.standings import Standings
from theo_workers.breaker import Breaker
from theo_workers.clock import Clock
from theo_workers.messages import Usage
from theo_workers.model_worker import ModelWorker
from theo_workers.prices import Price, bound_nano, snapshot
from theo_workers.standing import Available
from theo_workers.tokens.count import TokenCounter

LARGE_BYTES = 16_384  # above this, tokens are counted in a thread, or reckoned from the size
BYTES_PER_TOKEN = 4
USUAL_OUTPUT_TOKENS = 500
PROBE_SLACK_S = 5.0  # a probe's right ends this long after its call must have


class Member(Struct, frozen=True):
    """One model: its configuration, its worker, its price (None: unknown)."""

    config: ModelConfig
    worker: ModelWorker
    price: Price | None
    breaker: Breaker
    free: bool = False  # certainly nothing is charged
    snapshot: str | None = None  # of the price, for the books


class Fleet:
    """All models of the configuration."""

    def __init__(
        self,
        members: Mapping[str, Member],
        *,
        standings: Standings,
        counter: TokenCounter,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._members = {name: _priced(member, member.price) for name, member in members.items()}
        self._standings = standings
        self._counter, self._clock, self._rng = counter, clock, rng
        self._scopes: dict[str, tuple[tuple[Scope, ...], int | None]] = {}

    def __getitem__(self, model: str) -> Member:
        return self._members[model]

    def __contains__(self, model: str) -> bool:
        return model in self._members

    def members(self) -> Iterable[Member]:
        return self._members.values()

    def reprice(self, model: str, price: Price | None) -> None:
        """Calls that start from now on cost this; None: unknown."""
        self._members[model] = _priced(self._members[model], price)

    def has_slot(self, models: Iterable[str]) -> bool:
        """Would one of these start a call at once?"""
        now = self._clock.monotonic()
        for name in models:  # noqa: SIM110 - asked for every job that starts: a generator costs as much again
            if self._members[name].worker.free(now) > 0:
                return True
        return False

    def choose(self, models: Sequence[str]) -> str | None:
        """Of these, the one to start a call on now; None when none has a free slot."""
        now, members = self._clock.monotonic(), self._members
        if len(models) == 1:
            (only,) = models
            return only if members[only].worker.free(now) > 0 else None
        candidates = [
            Candidate(
                model=name,
                weight=members[name].config.routing.weight,
                free=members[name].worker.free(now),
                slow=self._slow(members[name]),
            )
            for name in models
        ]
        return choose(candidates, self._rng.random())

    def available(self, models: Sequence[str]) -> list[str]:
        """Of these, those that take calls at all, now or when a slot frees."""
        now = self._clock.monotonic()
        return [
            name for name in models if isinstance(self._members[name].worker.availability(now), Available)
        ]

    def any_available(self, models: Iterable[str]) -> bool:
        """Does one of these take calls at all?"""
        now = self._clock.monotonic()
        return any(isinstance(self._members[name].worker.availability(now), Available) for name in models)

    def reopens_at(self, models: Sequence[str]) -> float | None:
        """The earliest monotonic second at which one of these unavailable models is tried again, if known."""
        now = self._clock.monotonic()
        standings = [self._members[name].worker.availability(now) for name in models]
        return min(
            (s.until for s in standings if not isinstance(s, Available) and s.until is not None), default=None
        )

    def may_recover(self, models: Sequence[str]) -> bool:
        """Is one of these unavailable models only resting? A useless credential needs an operator."""
        now = self._clock.monotonic()
        standings = [self._members[name].worker.availability(now) for name in models]
        return any(isinstance(s, Available) or s.reason in ("circuit_open", "paused") for s in standings)

    def rate(self, model: str, job: Job, size: int) -> Rate | None:
        """What a call takes of the model's limits per minute; `size` is the job's, in bytes. None: it has none."""
        config = self._members[model].config
        if config.rpm is None and config.tpm is None:
            return None
        if config.tpm is None:
            return Rate(config.rpm, None)
        if size > LARGE_BYTES:
            prompt = size // BYTES_PER_TOKEN
        else:
            prompt = self._counter.count_request(
                job.messages, job.params, provider=config.provider, model=config.model
            ).tokens
        return Rate(config.rpm, config.tpm, prompt + _expected_output(job, config))

    def admitted(self, want: Want) -> Want:
        """The claim as it goes to the ledger: a call that a half-open circuit admitted asks for the right to probe."""
        member = self._members[want.model]
        if not member.worker.half_open:
            return want
        lease_s = member.config.routing.timeout_s + PROBE_SLACK_S
        return structs.replace(want, probe_until_ms=int((self._clock.wall() + lease_s) * 1000))

    def heed(self, want: Want, verdict: Verdict) -> None:
        """What the claim's answer tells of its model."""
        if want.rate is not None or want.probe_until_ms is not None:
            self._standings.heed(want.model, verdict)

    def bound_nano(self, model: str, job: Job, prompt_bound: int | None) -> int | None:
        """The most that a call may cost, in nano-dollars; None when price or output cap are unknown.

        `prompt_bound` is the most prompt tokens, where they were counted before.
        """
        member = self._members[model]
        if member.price is None:
            return None
        cap = output_cap(job, member.config)
        if member.free:
            return 0
        if cap is None:
            return None
        if prompt_bound is None:
            tight = member.config.routing.spend_ceiling is not None or job.max_cost_nano is not None
            bound = self._counter.bound_request if tight else self._counter.loose_bound_request
            prompt_bound = bound(
                job.messages, job.params, provider=member.config.provider, model=member.config.model
            )
            if prompt_bound is None:
                return None
        return bound_nano(member.price, prompt_bound, cap)

    async def prompt_bounds(self, route: Route, job: Job) -> dict[str, int]:
        """The most prompt tokens of a large job, by model, counted off the loop."""
        bounds: dict[str, int] = {}
        for config in route.candidates:
            if not self._members[config.name].free:
                measure = await self._counter.measure_request_async(
                    job.messages, job.params, provider=config.provider, model=config.model
                )
                if measure.bound is not None:
                    bounds[config.name] = measure.bound
        return bounds

    def scopes(self, model: str) -> tuple[Scope, ...]:
        """The budgets a call draws on: always the model's total, and its window when it has one."""
        scopes, reset_ms = self._scopes.get(model, ((), 0))
        if reset_ms is not None and int(self._clock.wall() * 1000) >= reset_ms:
            scopes, reset_ms = self._scopes[model] = self._scopes_now(model)
        return scopes

    def _scopes_now(self, model: str) -> tuple[tuple[Scope, ...], int | None]:
        """The scopes, and when they change (Unix ms; None: never)."""
        routing = self._members[model].config.routing
        ceiling = None if routing.spend_ceiling is None else to_nano(routing.spend_ceiling)
        warn = round(ceiling * routing.warning_ratio) if ceiling else None
        name = f"{MODEL_SCOPE}{model}"
        start_ms, reset_ms = window_of(routing.spend_window, int(self._clock.wall() * 1000))
        if start_ms == 0:
            return (Scope(name, 0, ceiling, None, warn),), None
        return (Scope(name, 0), Scope(name, start_ms, ceiling, reset_ms, warn)), reset_ms

    def estimate(self, model: str, job: Job, output: str) -> Usage:
        """Usage counted by ourselves, for a provider that reported none."""
        config = self._members[model].config
        prompt = self._counter.count_request(
            job.messages, job.params, provider=config.provider, model=config.model
        )
        return Usage(
            prompt_tokens=prompt.tokens,
            completion_tokens=self._counter.count_text(output, config.model).tokens,
            estimated=True,
        )

    def _slow(self, member: Member) -> bool:
        threshold = member.config.routing.latency_threshold_ms
        mean = member.worker.health.latency_ewma_ms
        return mean is not None and mean > threshold


def _priced(member: Member, price: Price | None) -> Member:
    free = price is not None and bound_nano(price, 10**9, 10**9) == 0
    return structs.replace(
        member, price=price, free=free, snapshot=None if price is None else snapshot(price)
    )


def _expected_output(job: Job, config: ModelConfig) -> int:
    """Completion tokens to expect: what the job asks for, as providers reckon; else a usual answer."""
    asked = job.params.get("max_completion_tokens", job.params.get("max_tokens"))
    usual = asked if isinstance(asked, int) else USUAL_OUTPUT_TOKENS
    return usual if config.max_output_tokens is None else min(usual, config.max_output_tokens)


def output_cap(job: Job, config: ModelConfig) -> int | None:
    """The most tokens that the answer may have: the job's own limit, else the model's."""
    asked = job.params.get("max_completion_tokens", job.params.get("max_tokens"))
    if isinstance(asked, int):
        return asked if config.max_output_tokens is None else min(asked, config.max_output_tokens)
    return config.max_output_tokens
