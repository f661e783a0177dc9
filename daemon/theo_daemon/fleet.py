"""The models as the dispatcher sees them: who has a free slot, who may be tried, what a call may cost."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct, structs

from theo_daemon.budgets import Budgets, Draw
from theo_daemon.catalogue import Route
from theo_daemon.config import ModelConfig
from theo_daemon.downgrade import Option, prefer_cheaper
from theo_daemon.job import Job
from theo_daemon.learner import Learner
from theo_daemon.ledger.rates import Rate
from theo_daemon.ledger.records import Granted, OtherWindow, OverBudget, Unfit, Verdict, Want
from theo_daemon.money import NANO
from theo_daemon.preflight import cap_under_a_ceiling, output_cap
from theo_daemon.region_watch import RegionWatch
from theo_daemon.retry_budget import RetryBudget
from theo_daemon.routing import AWAY, LATE, LOAD_STEPS, SLOW, Candidate, best, choose
from theo_daemon.standings import Standings
from theo_daemon.throttling import throttling
from theo_daemon.usual import UsualLatency
from theo_workers.breaker import Breaker, Closed
from theo_workers.clock import Clock
from theo_workers.messages import Usage
from theo_workers.model_worker import ModelWorker
from theo_workers.prices import MTOK, Price, bound_nano, cost_nano, snapshot
from theo_workers.standing import Available
from theo_workers.texts import Text
from theo_workers.tokens.count import TokenCounter

LARGE_BYTES = 16_384  # above this, tokens are counted in a thread, or reckoned from the size
BYTES_PER_TOKEN = 4
USUAL_OUTPUT_TOKENS = 500
CLOCK_SLACK_S = 2.0  # wall clocks are corrected by less than that all the time
PROBE_SLACK_S = 5.0  # a probe's right ends this long after its call must have


class Member(Struct, frozen=True):
    """One model: its configuration, its worker, its price (None: unknown)."""

    config: ModelConfig
    worker: ModelWorker
    price: Price | None
    breaker: Breaker
    retries: RetryBudget  # its endpoint's
    usual: UsualLatency
    free: bool = False  # certainly nothing is charged
    place: int = 0  # of its region, in order of preference
    snapshot: str | None = None  # of the price, for the books
    unseen: int = 0  # prompt tokens that a call's bound has more, or fewer, than is usual for its kind


class Fleet:
    """All models of the configuration."""

    def __init__(
        self,
        members: Mapping[str, Member],
        *,
        budgets: Budgets,
        standings: Standings,
        counter: TokenCounter,
        clock: Clock,
        rng: random.Random,
        regions: RegionWatch | None = None,
    ) -> None:
        self._members = {name: _priced(member, member.price) for name, member in members.items()}
        self._budgets, self._standings = budgets, standings
        self._counter, self._clock, self._rng = counter, clock, rng
        self.counter, self._regions = counter, regions
        breakers = {name: member.breaker for name, member in members.items()}
        self._throttling = throttling(breakers, rng=rng, observer=standings)
        self.learner: Learner | None = None  # None: among the best, weights decide

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

    def choose(
        self, models: Sequence[str], *, deadline: float | None = None, workflow: str = "", size: int = 0
    ) -> str | None:
        """Of these, the one to start a call on now; None when none has a free slot.

        `deadline` is the job's own, monotonic seconds; `size` are its bytes.
        """
        now, members, regions = self._clock.monotonic(), self._members, self._regions
        if len(models) == 1:
            (only,) = models
            return only if members[only].worker.free(now) > 0 else None
        left_ms = None if deadline is None else (deadline - now) * 1000
        candidates = []
        for name in models:
            member = members[name]
            worker, routing = member.worker, member.config.routing
            if worker.free(now) <= 0:
                continue
            mean, running = worker.health.latency_ewma_ms, worker.running
            flaws = member.place
            if mean is not None and mean > routing.latency_threshold_ms:
                flaws |= SLOW
            if regions is not None and regions.is_away(name, now):
                flaws |= AWAY
            load = running * LOAD_STEPS // worker.limit if running else 0
            usual_ms = 0.0
            if left_ms is not None and (usual_ms := member.usual.ms) > left_ms:
                flaws |= LATE
            candidates.append(Candidate(name, routing.weight, load, flaws, usual_ms))
        chosen = self._one_of(candidates, workflow, size, now)
        if self._throttling is not None:  # the last one is asked all the same: no job waits for a throttle
            while len(candidates) > 1 and chosen is not None and self._throttling.passes_over(chosen, now):
                candidates = [one for one in candidates if one.model != chosen]
                chosen = self._one_of(candidates, workflow, size, now)
        return chosen

    def _one_of(self, candidates: Sequence[Candidate], workflow: str, size: int, now: float) -> str | None:
        if self.learner is None:
            return choose(candidates, self._rng.random())
        pool = [one.model for one in best(candidates)]
        return (
            self._learnt(self.learner, pool, workflow, size, now) if len(pool) > 1 else next(iter(pool), None)
        )

    def _learnt(self, learner: Learner, pool: Sequence[str], workflow: str, size: int, now: float) -> str:
        for name in pool:
            if not isinstance(self._members[name].breaker.peek(now), Closed):
                learner.forgive(name)
        return learner.choose(pool, workflow=workflow, size=size, now=now)

    def first_free(self, models: Sequence[str]) -> str | None:
        """Of these, the first that would start a call at once."""
        now = self._clock.monotonic()
        free = [name for name in models if self._members[name].worker.free(now) > 0]
        while self._throttling is not None and len(free) > 1 and self._throttling.passes_over(free[0], now):
            del free[0]
        return free[0] if free else None

    def preferred(self, models: Sequence[str], route: Route, job: Job, size: int) -> Sequence[str]:
        """Of these, the ones to choose from: all of them, or the cheaper ones while a budget is under pressure."""
        if not self._budgets.may_strain or len(models) == 1:
            return models
        now = self._clock.monotonic()
        return prefer_cheaper(
            [
                Option(
                    model=name,
                    cost=self._expected_cost(self._members[name], job, size),
                    strained=self._budgets.strained(self.draw(name, route, job)),
                    free=self._members[name].worker.free(now) > 0,
                )
                for name in models
            ]
        )

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

    def silent_s(self, models: Iterable[str]) -> float:
        """Since when none of these has answered anybody; inf: none ever did, or the clock was set back since."""
        answered = [self._members[name].worker.health.last_success_time for name in models]
        latest = max((at for at in answered if at is not None), default=-math.inf)
        since = self._clock.wall() - latest
        return since if since >= -CLOCK_SLACK_S else math.inf

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

    def still_takes(self, want: Want, now: float) -> bool:
        """Would its model take the call that was admitted a while ago? Who has the right to probe has it on record."""
        member = self._members[want.model]
        if want.probe_until_ms is not None:
            return True
        return isinstance(member.breaker.state, Closed) and isinstance(
            member.worker.availability(now), Available
        )

    def heed(self, want: Want, verdict: Verdict) -> None:
        """What the claim's answer tells of its model, or of its budgets."""
        if want.rate is not None or want.probe_until_ms is not None or isinstance(verdict, Unfit):
            self._standings.heed(want.model, verdict)
        if isinstance(verdict, OtherWindow):
            self._budgets.learn(verdict)
        elif self._budgets.may_strain and isinstance(verdict, Granted):
            self._budgets.note(want.scopes, verdict.strained)

    def bound_nano(
        self, model: str, route: Route, job: Job, prompt_bound: int | None, *, tight: bool
    ) -> int | None:
        """The most that a call may cost, in nano-dollars; None when its price is unknown.

        `prompt_bound` is the most prompt tokens, where they were counted before. Unless `tight`, a cheap and
        far too high one will do, or none: no ceiling depends on it.
        """
        member = self._members[model]
        if member.price is None:
            return None
        cap = output_cap(job, member.config)
        if member.free:
            return 0
        if cap is None:
            if not tight:
                return None
            cap = self._cap_under_ceilings(member, member.price, route, job)
        if prompt_bound is None:
            bound = self._counter.bound_request if tight else self._counter.loose_bound_request
            prompt_bound = bound(
                job.messages, job.params, provider=member.config.provider, model=member.config.model
            )
            if prompt_bound is None:
                return None
        return bound_nano(member.price, prompt_bound + member.unseen, cap)

    def capped_params(self, model: str, route: Route, job: Job) -> Mapping[str, Any]:
        """The job's, for a call under a ceiling: where nothing else caps its answer, with the cap of the bound."""
        member = self._members[model]
        if member.price is None or member.free or output_cap(job, member.config) is not None:
            return job.params
        return {**job.params, "max_tokens": self._cap_under_ceilings(member, member.price, route, job)}

    def _cap_under_ceilings(self, member: Member, price: Price, route: Route, job: Job) -> int:
        return cap_under_a_ceiling(
            member.config, price, self.draw(member.config.name, route, job).ceiling_nano
        )

    def usd(self, model: str, prompt_tokens: int, completion_tokens: int) -> float:
        """What a call of so many tokens costs, reckoned with what a short prompt costs; 0 when that is unknown."""
        price = self._members[model].price
        if price is None:
            return 0.0
        per_mtok = prompt_tokens * price.rates.input + completion_tokens * price.rates.output
        return (per_mtok / MTOK + price.per_call) / NANO

    def draw(self, model: str, route: Route, job: Job) -> Draw:
        """The budgets that a call draws on: always the model's total, and every ceiling that fits the job."""
        now_ms = int(self._clock.wall() * 1000)
        return self._budgets.draw(model, route.name, job.workflow, job.tenant, now_ms)

    def held_off(
        self,
        models: Iterable[str],
        refused: OverBudget,
        route: Route,
        job: Job,
        prompt_bounds: Mapping[str, int],
    ) -> list[str]:
        """Of these, those whom the holds in the way of `refused` forbid, too: what is left is no more for them."""
        return [
            name
            for name in models
            if any(scope.name == refused.scope.name for scope in self.draw(name, route, job).scopes)
            and (bound := self.bound_nano(name, route, job, prompt_bounds.get(name), tight=True)) is not None
            and bound >= (refused.bound_nano or 0)
        ]

    def estimate(self, model: str, job: Job, output: Text) -> Usage:
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

    def _expected_cost(self, member: Member, job: Job, size: int) -> float:
        """What a usual answer would cost, in nano-dollars, from the size of the job alone; infinite: unknown."""
        if member.price is None:
            return math.inf
        usage = Usage(
            prompt_tokens=size // BYTES_PER_TOKEN, completion_tokens=_expected_output(job, member.config)
        )
        return cost_nano(member.price, usage)


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
