"""Hedged calls: one that takes long gets a rival at another model; the first answer counts, the other is closed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from theo_daemon.bookings import Bookings, Started
from theo_daemon.claiming import Asking
from theo_daemon.fleet import Fleet
from theo_daemon.flight import Flight
from theo_daemon.hedge import Allowance, affordable
from theo_daemon.hold_lines import HoldLines
from theo_daemon.job import OnUnknown
from theo_daemon.ledger.port import Claims
from theo_daemon.ledger.records import Granted, Landing, Verdict, Want
from theo_daemon.money import to_nano
from theo_daemon.outcomes import settled
from theo_workers.breaker import Closed
from theo_workers.clock import Clock
from theo_workers.errors import NotAdmitted
from theo_workers.failures import CONSEQUENCES, NextStep
from theo_workers.messages import Outcome
from theo_workers.model_worker import CallFailed, Completed

Submit = Callable[[Flight, str, "Rival"], Started | None]


CheckTime = Callable[[Want, float], None]
"""Raises NotAdmitted when a claim that was asked for at that monotonic second was granted too late to be sent."""


class NotSent(Exception):
    """The ledger did not grant the rival's call."""


class Rival:
    """A second call of a flight. It has its own attempt on record and its own hold, but never the flight's key."""

    def __init__(
        self, *, fleet: Fleet, ledger: Claims, asking: Asking, check_time: CheckTime, clock: Clock
    ) -> None:
        self._fleet, self._ledger, self._asking = fleet, ledger, asking
        self._check_time, self._clock = check_time, clock
        self.sent = False
        self._on_its_way = False  # its claim, or the verdict
        self._gone: asyncio.Future[None] | None = None  # given up: ends when that can cost nothing any more

    async def claim(self, flight: Flight, want: Want) -> None:
        """The last step before the provider is called. Raises NotSent."""
        if self._given_up():  # which the worker does not know yet
            raise NotSent
        asked_at = self._clock.monotonic()
        asked = self._ledger.ask(self._asking.ask(flight, want), orphaned=partial(self._void, want))
        self._on_its_way = True
        try:
            verdict = await asked
        except asyncio.CancelledError:
            if not asked.cancelled():  # answered in the very turn of the loop that we were cancelled in
                self._void(want, asked.result())
            raise
        if self._given_up():
            self._void(want, verdict)
            raise NotSent
        self._on_its_way = False
        assert verdict is not None
        self._fleet.heed(want, verdict)
        if not isinstance(verdict, Granted):
            raise NotSent
        try:
            self._check_time(want, asked_at)
        except NotAdmitted:
            flight.leave_loose(self._ledger.land(_voided(want)))
            raise NotSent from None
        flight.listed.add(want.attempt_id)
        self.sent = True

    def _given_up(self) -> bool:
        return self._gone is not None

    def give_up(self, flight: Flight) -> None:
        """It was not sent, and must not be."""
        self._gone = asyncio.get_running_loop().create_future()
        if self._on_its_way:
            flight.leave_loose(self._gone)

    def _void(self, want: Want, verdict: Verdict | None) -> None:
        """Granted, but its call was given up meanwhile."""
        if not isinstance(verdict, Granted):
            self._over()
            return
        self._ledger.land(_voided(want)).add_done_callback(self._over)

    def _over(self, _void: object = None) -> None:
        self._on_its_way = False
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)


class Hedging:
    """Runs the races. `submit` hands a rival to a model's worker."""

    def __init__(
        self, *, fleet: Fleet, ledger: Claims, asking: Asking, bookings: Bookings, submit: Submit,
        on_unknown: OnUnknown, hold_lines: HoldLines, check_time: CheckTime, clock: Clock,
    ) -> None:  # fmt: skip
        self._fleet, self._ledger, self._asking = fleet, ledger, asking
        self._bookings, self._submit, self._on_unknown = bookings, submit, on_unknown
        self._hold_lines, self._check_time, self._clock = hold_lines, check_time, clock
        self._allowance = Allowance()

    async def race(self, flight: Flight, first: Started) -> Started:
        """The call that counts, once it is certain which: an answered one, or the only one that is left."""
        after_ms = self._fleet[first.want.model].config.routing.hedge_after_ms
        job = flight.lead.job
        if after_ms is None or first.streamed or (job.on_unknown or self._on_unknown) == "fail":
            return first
        self._allowance.call()
        rung: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._clock.call_at(self._clock.monotonic() + after_ms / 1000, rung)
        try:
            await asyncio.wait((first.result, rung), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._give_up(flight, first)
            raise
        finally:
            rung.cancel()
        if first.result.done() or flight.sent_attempt != first.want.attempt_id:
            return first
        rival = Rival(
            fleet=self._fleet, ledger=self._ledger, asking=self._asking, check_time=self._check_time,
            clock=self._clock,
        )  # fmt: skip
        second = self._start(flight, first, rival)
        return first if second is None else await self._first_of(flight, first, second, rival)

    def _start(self, flight: Flight, first: Started, rival: Rival) -> Started | None:
        """A rival, if money, the allowance and the models' circuits all have room for one."""
        if not self._allowance.is_left or first.want.bound_nano is None:
            return None
        job, tried = flight.lead.job, {one.model for one in flight.tried}
        left_nano = None
        if job.max_cost_nano is not None:
            left_nano = job.max_cost_nano - flight.cost_nano - first.want.bound_nano
        models = [
            name
            for name in flight.candidates
            if name != first.want.model and name not in tried and self._affords(flight, name, left_nano)
        ]
        lead = flight.lead
        model = self._fleet.choose(models, deadline=lead.deadline, workflow=job.workflow, size=lead.size)
        second = None if model is None else self._submit(flight, model, rival)
        if second is not None:
            self._allowance.spend()
        return second

    def _affords(self, flight: Flight, name: str, left_nano: int | None) -> bool:
        member = self._fleet[name]
        if not isinstance(
            member.breaker.peek(self._clock.monotonic()), Closed
        ):  # a probe must not be cut short for having lost a race
            return False
        most = member.config.routing.hedge_max_cost
        return affordable(
            self._fleet.bound_nano(
                name, flight.route, flight.lead.job, flight.prompt_bounds.get(name), tight=True
            ),
            most_nano=None if most is None else to_nano(most),
            left_nano=left_nano,
        )

    # -- the race ------------------------------------------------------------------------------------

    async def _first_of(self, flight: Flight, first: Started, second: Started, rival: Rival) -> Started:
        try:
            await asyncio.wait((first.result, second.result), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._drop(flight, second, rival, kept=not _answered(first))
            self._give_up(flight, first)
            raise
        second_wins = _answered(second) and not _answered(first)
        if second_wins or (rival.sent and not second.result.done() and _leaves_it_to_others(first)):
            self._drop(flight, first)
            flight.sent_attempt = second.want.attempt_id
            return second
        self._drop(flight, second, rival)
        return first

    def _drop(self, flight: Flight, call: Started, rival: Rival | None = None, *, kept: bool = False) -> None:
        """Close the call that does not count, and book it by itself: the landing is the other's."""
        result = call.end
        if result is None:
            call.result.cancel()
        if isinstance(result, CallFailed):
            self._bookings.failed(flight, call, result)
        elif isinstance(result, Completed):
            self._bookings.spare(flight, call, result, kept=kept)
        elif rival is not None and not rival.sent:
            rival.give_up(flight)
        else:
            self._bookings.charge(flight, call.want, Outcome.CANCELLED, code=None)
        if flight.settled is not None:
            self._ledger.tell(Landing(settled=flight.settled))
            flight.settled = None
            self._hold_lines.freed(call.want.scopes)

    def _give_up(self, flight: Flight, first: Started) -> None:
        """Nobody waits for the flight any more."""
        self._bookings.cut_off(flight, first)
        first.result.cancel()


def _voided(want: Want) -> Landing:
    return Landing(settled=settled(want, "void", cost_nano=0, latency_ms=0.0))


def _answered(call: Started) -> bool:
    return isinstance(call.end, Completed)


def _leaves_it_to_others(call: Started) -> bool:
    """Has it failed, and in a way that another model may not?"""
    result = call.end
    return (
        isinstance(result, CallFailed)
        and CONSEQUENCES[result.error.failure].next_step is not NextStep.TERMINAL
    )
