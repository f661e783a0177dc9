"""Attempt after attempt, until one answers or none may follow; each is on the books before it is sent."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from msgspec import structs

from theo_daemon.bookings import Bookings, Started
from theo_daemon.ceilings import Barred, hold_wait_s, last_word, over_ceiling, unaffordable
from theo_daemon.claiming import AnsweredElsewhere, Asking, Claiming, NotGranted
from theo_daemon.config import RoutingConfig
from theo_daemon.deltas import DeltaFeed
from theo_daemon.fallbacks import Fallbacks
from theo_daemon.fleet import Fleet
from theo_daemon.flight import Flight
from theo_daemon.hedged import Hedging, Rival
from theo_daemon.hold_lines import HoldLines
from theo_daemon.job import EntryRef, OnUnknown
from theo_daemon.ledger.port import Claims
from theo_daemon.ledger.records import (
    OtherWindow,
    OverBudget,
    Throttled,
    Unfit,
    Want,
)
from theo_daemon.outcomes import Result, failed
from theo_daemon.retry import GiveUp, Limits, TryOneOf, after_failure
from theo_daemon.retry_budget import repeat_cost
from theo_workers.clock import Clock, sleep
from theo_workers.errors import (
    DeadlineExceeded,
    GenerationError,
    InternalError,
    MailboxFull,
    NotAdmitted,
    OutcomeUnknown,
    WorkerStopped,
)
from theo_workers.messages import Outcome, Request
from theo_workers.model_worker import Call, CallFailed, Completed


class Attempts:
    """Runs the attempts of flights. Holds nothing of any one of them."""

    def __init__(
        self, *, fleet: Fleet, ledger: Claims, deltas: DeltaFeed, asking: Asking, claiming: Claiming,
        routing: RoutingConfig, on_unknown: OnUnknown, fallbacks: Fallbacks, bookings: Bookings,
        hold_lines: HoldLines, lose: Callable[[Sequence[EntryRef]], None], clock: Clock, rng: random.Random,
    ) -> None:  # fmt: skip
        self._fleet, self._ledger, self._deltas, self._claiming = fleet, ledger, deltas, claiming
        self._max_attempts, self._max_wait_s = routing.max_attempts, routing.max_wait_s
        self._parks, self._on_unknown = routing.when_unavailable == "park", on_unknown
        self._fallbacks, self._bookings = fallbacks, bookings
        self._lose, self._clock, self._rng = lose, clock, rng
        self._hedging: Hedging | None = None
        if any(one.config.routing.hedge_after_ms is not None for one in fleet.members()):
            self._hedging = Hedging(
                fleet=fleet, ledger=ledger, asking=asking, bookings=bookings, submit=self._submit,
                on_unknown=on_unknown, hold_lines=hold_lines, check_time=claiming.check_time, clock=clock,
            )  # fmt: skip

    def start(self, flight: Flight, models: Sequence[str]) -> Started | None:
        """Hand the next attempt to a worker with a free slot, now; None when there is none."""
        if flight.aside:
            others = [model for model in models if model not in flight.aside]
            models = others if self._fleet.has_slot(others) else models
        lead = flight.lead
        if flight.in_order:
            model = self._fleet.first_free(models)
        else:
            model = self._fleet.choose(
                self._fleet.preferred(models, flight.route, lead.job, lead.size),
                deadline=lead.deadline,
                workflow=lead.job.workflow,
                size=lead.size,
            )
        return None if model is None else self._submit(flight, model)

    async def run(self, flight: Flight, started: Started) -> Result | None:
        """From the first call on; None: another turn is needed, to begin or to go on. Raises NotGranted."""
        while True:
            if self._hedging is not None:
                started = await self._hedging.race(flight, started)
            step = await self._end_of(flight, started)
            match step:
                case None:
                    self._claiming.settle(flight)
                    return None
                case Result():
                    return step
                case GiveUp(unknown):
                    return self.gave_up(flight, unknown=unknown)
            following = await self._next(flight, step)
            if following is None:
                return None if self._worth_waiting(flight.targets) else self.gave_up(flight)
            started = following

    async def _end_of(self, flight: Flight, started: Started) -> Result | TryOneOf | GiveUp | None:
        """Wait for the call and book it. None: it was not made."""
        want = started.want
        try:
            result = await started.result
        except NotGranted as refused:
            self._fleet[want.model].retries.give_back(started.repeat_cost)
            if flight.under_way and isinstance(refused.verdict, OverBudget):
                return self._refused(flight, refused.model, refused.verdict)
            if flight.under_way and isinstance(refused.verdict, OtherWindow | Throttled | Unfit):
                return self._decide(flight)
            raise
        except AnsweredElsewhere as found:
            self._fleet[want.model].retries.give_back(started.repeat_cost)
            self._lose([found.ref])
            await asyncio.sleep(0)  # unless others wait for the call, it has just been cancelled
            return None
        except (WorkerStopped, NotAdmitted, DeadlineExceeded):  # the last: in the worker's mailbox
            if not self._bookings.doubtful(flight, want, Outcome.MAYBE, code="internal_error"):
                self._fleet[want.model].retries.give_back(started.repeat_cost)
                return None
            raise InternalError("the model's worker failed after the call was sent") from None
        except asyncio.CancelledError:
            self._bookings.cut_off(flight, started)
            raise
        except GenerationError as error:
            self._bookings.doubtful(flight, want, Outcome.MAYBE, code=error.code)
            raise
        return self._book(flight, started, result)

    def _book(
        self, flight: Flight, started: Started, result: Completed | CallFailed
    ) -> Result | TryOneOf | GiveUp | None:
        try:
            if isinstance(result, Completed):
                return self._bookings.answered(flight, started, result)
            self._bookings.failed(flight, started, result)
        except Exception:  # a bug: the job ends, but what the call holds must not be held for ever
            if flight.settled is None:
                self._bookings.doubtful(flight, started.want, Outcome.MAYBE, code="internal_error")
            raise
        return self._decide(flight)

    # -- money ---------------------------------------------------------------------------------------

    def bar_unaffordable(self, flight: Flight) -> None:
        """Take the candidates away whose call does not fit what is left of the job's own ceiling."""
        job = flight.lead.job
        if job.max_cost_nano is None:
            return
        bounds = {
            model: self._fleet.bound_nano(
                model, flight.route, job, flight.prompt_bounds.get(model), tight=True
            )
            for model in flight.candidates
        }
        refusals = unaffordable(bounds, limit_nano=job.max_cost_nano, spent_nano=flight.cost_nano)
        for model, error in refusals.items():
            flight.bar(model, Barred(error, own=True))

    def bar(self, flight: Flight, model: str, verdict: OverBudget) -> None:
        """Take a candidate away whose budget is spent."""
        tenant, now_ms = flight.lead.job.tenant, int(self._clock.wall() * 1000)
        flight.bar(model, Barred(over_ceiling(verdict, now_ms, tenant=tenant), own=False))

    def sidestep(self, flight: Flight, model: str, verdict: OverBudget, models: Sequence[str]) -> bool:
        """Only holds forbid `model`. True: another of `models` is free that they do not forbid, and is asked next."""
        if len(models) < 2:
            return False
        held_off = self._fleet.held_off(models, verdict, flight.route, flight.lead.job, flight.prompt_bounds)
        flight.aside = flight.aside.union((model,), held_off)
        if self._fleet.has_slot([one for one in models if one not in flight.aside]):
            return True
        flight.aside = frozenset()
        return False

    def unaffordable(self, flight: Flight) -> Result:
        """No candidate is left: the last one's own error, if one was called at all, else what forbids the others."""
        if flight.last_error is not None:
            return self.gave_up(flight)
        last = last_word(flight.barred.values())
        # Who waits may have another ceiling of its own, or none.
        shared = last.error.shared and not any(barred.own for barred in flight.barred.values())
        outcome = failed(last.error, cost_nano=flight.cost_nano, attempts=flight.attempts)
        return Result(outcome, shared=shared, remember=last.error.remembered)

    def _refused(self, flight: Flight, model: str, verdict: OverBudget) -> TryOneOf | GiveUp | None:
        """A later attempt does not fit under a ceiling: decide anew what follows the one before."""
        if not verdict.by_holds:
            self.bar(flight, model, verdict)
        step = self._decide(flight)
        if not (isinstance(step, TryOneOf) and verdict.by_holds):
            return step
        if self.sidestep(flight, model, verdict, step.models):
            return step
        return TryOneOf(step.models, delay_s=max(step.delay_s, hold_wait_s(self._rng.random())))

    # -- sending -------------------------------------------------------------------------------------

    def _submit(self, flight: Flight, model: str, rival: Rival | None = None) -> Started | None:
        member, job = self._fleet[model], flight.lead.job
        draw = self._fleet.draw(model, flight.route, job)
        tight = draw.ceiling_nano is not None or job.max_cost_nano is not None
        want = Want(
            attempt_id=self._ledger.next_attempt_id(),
            model=model,
            provider=member.config.provider,
            bound_nano=self._fleet.bound_nano(
                model, flight.route, job, flight.prompt_bounds.get(model), tight=tight
            ),
            scopes=draw.scopes,
            rate=self._fleet.rate(model, job, flight.lead.size),
            price=member.snapshot,
        )
        on_delta = self._deltas.begin(flight) if rival is None else None  # streamed calls have no rivals
        claim = self._claiming.claim if rival is None else rival.claim
        call = Call(
            request=Request(
                messages=job.messages,
                params=self._fleet.capped_params(model, flight.route, job) if tight else job.params,
                stream=on_delta is not None,
            ),
            deadline=member.worker.starts_at(self._clock.monotonic()) + member.config.routing.timeout_s,
            timeout_s=member.config.routing.timeout_s,
            on_delta=on_delta,
            before_send=partial(claim, flight, want),
        )
        try:
            result = member.worker.submit(call)
        except (WorkerStopped, MailboxFull):
            return None
        return Started(want, member.price, call, result, streamed=on_delta is not None)

    async def _next(self, flight: Flight, step: TryOneOf) -> Started | None:
        """The next attempt on one of the step's models; None when none of them takes calls."""
        if step.delay_s > 0:
            self._claiming.settle(flight)
            await sleep(self._clock, step.delay_s)
        costs = self._repeat_costs(flight)
        unpaid = self._unpaid(costs)  # by now, as others were repeated meanwhile
        flight.aim(tuple(model for model in step.models if model not in unpaid))
        started = self._start_or_queue(flight, [model for model in flight.targets if model not in costs])
        if started is None:
            self._claiming.settle(flight)
        elif (cost := costs.get(started.want.model)) is not None:
            self._fleet[started.want.model].retries.take(cost)
            return structs.replace(started, repeat_cost=cost)
        return started

    def _start_or_queue(self, flight: Flight, fresh: Sequence[str]) -> Started | None:
        """At one with a free slot, a fresh one if there is, else in the mailbox of one that takes calls at all."""
        if (started := self.start(flight, fresh) or self.start(flight, flight.targets)) is not None:
            return started
        for model in self._fleet.available(flight.targets):
            if (queued := self._submit(flight, model)) is not None:
                return queued
        return None

    def _repeat_costs(self, flight: Flight) -> dict[str, int]:
        """What a repeat of each model that was tried takes of its endpoint's budget; waiting for a turn is free."""
        return {one.model: repeat_cost(one.failure) for one in flight.tried}

    def _unpaid(self, costs: Mapping[str, int]) -> set[str]:
        return {model for model, cost in costs.items() if not self._fleet[model].retries.covers(cost)}

    def _worth_waiting(self, models: Sequence[str]) -> bool:
        """None of them takes calls now: will one do so before the longest wait is over?"""
        reopens = self._fleet.reopens_at(models)
        if reopens is None:  # a probe decides at any moment, or only an operator can help
            return self._fleet.may_recover(models)
        return reopens - self._clock.monotonic() <= (self._max_wait_s if self._parks else 0.0)

    # -- ends ----------------------------------------------------------------------------------------

    def _decide(self, flight: Flight) -> TryOneOf | GiveUp | None:
        """What follows the last failed attempt, with what money is left. None: a turn with other candidates."""
        self.bar_unaffordable(flight)
        unpaid = self._unpaid(self._repeat_costs(flight))
        limits = Limits(
            max_attempts=self._max_attempts - flight.lead.doubtful_calls,
            max_wait_s=self._max_wait_s,
            on_unknown=flight.lead.job.on_unknown or self._on_unknown,
        )
        step = after_failure(
            flight.tried,
            flight.candidates,
            available=self._fleet.available(flight.candidates),
            unpaid=unpaid,
            limits=limits,
            jitter=self._rng.random(),
        )
        if not isinstance(step, GiveUp):
            return step
        if flight.last_error is not None and self.detour(flight, flight.last_error):
            return None
        if unpaid and len(flight.tried) < limits.max_attempts:
            for model in unpaid:
                self._bookings.not_repeated(model)
        return step

    def detour(self, flight: Flight, error: GenerationError) -> bool:
        """Send the flight to other models after the error of the ones it had; False: there are none."""
        refused = [one.model for one in flight.tried if one.code == error.code]
        refused += [model for model, barred in flight.barred.items() if barred.error.code == error.code]
        way = self._fallbacks.after(
            error.code,
            flight.route.name,
            candidates=flight.names,
            refused=refused,
            gone={*flight.barred, *(one.model for one in flight.tried)},
        )
        if way is None:
            return False
        self._claiming.settle(flight)
        flight.divert(way.models, in_order=way.in_order)
        return True

    def gave_up(self, flight: Flight, *, unknown: bool = False) -> Result:
        """The last candidate's own error is the job's."""
        error = flight.last_error
        assert error is not None
        final: GenerationError = error
        if unknown:
            final = OutcomeUnknown(
                f"{error.detail}; on_unknown = fail forbids sending it again",
                provider=error.provider,
                status_code=error.status_code,
            )
        outcome = failed(final, cost_nano=flight.cost_nano, attempts=flight.attempts)
        return Result(outcome, shared=final.shared, remember=final.remembered)
