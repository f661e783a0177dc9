"""The last step before a provider is called: its attempt goes on record, and what it may cost is held."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from theo_daemon.ceilings import fits
from theo_daemon.fleet import Fleet
from theo_daemon.flight import Flight
from theo_daemon.hold_lines import HoldLines
from theo_daemon.job import EntryRef
from theo_daemon.ledger.port import Claims
from theo_daemon.ledger.records import Ask, Clear, Granted, Landing, PriorAttempt, Verdict, Want
from theo_daemon.outcomes import settled
from theo_daemon.ports import Holds, Publisher
from theo_workers.clock import Clock, sleep
from theo_workers.errors import GenerationError, NotAdmitted

AWAY_S = 0.25  # between looks at whether an entry that was another's is answered, while Redis is away
LONG_S = 0.1  # on its way: what the worker knew of its model when it admitted the call may not hold any more


class NotGranted(Exception):
    """The call of `model` must not go out."""

    def __init__(self, model: str, verdict: Verdict) -> None:
        self.model, self.verdict = model, verdict


class AnsweredElsewhere(Exception):
    """The job has its reply by now, from a process that had it before and only stood still."""

    def __init__(self, ref: EntryRef) -> None:
        self.ref = ref


class Asking(Protocol):
    """How the flight asks the ledger, and what earlier owners of its entry forbid."""

    def ask(self, flight: Flight, want: Want | None) -> Ask:
        """The question for this flight."""

    def heed_prior(self, flight: Flight, prior: Sequence[PriorAttempt]) -> None:
        """List them with the flight's own. Raises GenerationError when the job must not be sent again."""


class Claiming:
    """Claims the calls of flights. Holds nothing of any one of them."""

    def __init__(
        self, *, fleet: Fleet, ledger: Claims, asking: Asking, holds: Holds, publisher: Publisher,
        hold_lines: HoldLines, redis_now_ms: Callable[[], int], clock: Clock,
    ) -> None:  # fmt: skip
        self._fleet, self._ledger, self._asking = fleet, ledger, asking
        self._holds, self._publisher, self._hold_lines = holds, publisher, hold_lines
        self._redis_now_ms, self._clock = redis_now_ms, clock

    async def claim(self, flight: Flight, want: Want) -> None:
        """The last step before the provider is called: the attempt goes on record, its bound is held.

        Raises NotGranted, NotAdmitted, AnsweredElsewhere or GenerationError when the call must not go out.
        """
        asked_at = self._clock.monotonic()
        if asked_at >= self._holds.kept_until:
            self.settle(flight)
            await self._holds.kept()
            raise NotAdmitted("lease", None)  # what was admitted before the wait may not be now: another turn
        want = self._fleet.admitted(want)
        self.settle(flight)
        verdict = await self._granted(flight, want)
        self._fleet.heed(want, verdict)
        if not isinstance(verdict, Granted):
            raise NotGranted(want.model, verdict)
        self._hold_lines.over(flight)
        flight.holding, flight.scopes, flight.aside = True, want.scopes, frozenset()
        flight.listed.add(want.attempt_id)
        try:
            _check_lead(flight)
            if verdict.prior:
                self._asking.heed_prior(flight, verdict.prior)
            self.check_time(want, asked_at)
            self._check_own_ceiling(flight, want)
        except (GenerationError, NotAdmitted, NotGranted):
            self._void(flight, want, verdict)
            raise
        if flight.sent_attempt is None:
            flight.lead.queued_ms = max(0, self._redis_now_ms() - flight.lead.ref.pushed_ms)
        flight.sent_attempt = want.attempt_id

    async def _granted(self, flight: Flight, want: Want) -> Verdict:
        asked = self._ledger.ask(self._asking.ask(flight, want), orphaned=partial(self._disown, flight, want))
        flight.asking = True
        lead = flight.lead
        answered: bool | None = False
        try:
            verdict = await asked
            if lead.redelivered and flight.sent_attempt is None and isinstance(verdict, Granted):
                # Who had the entry before may have answered it since; the ledger forgets what is published. Redis
                # knows; while it is away, a call might be the second one.
                answered = await self._publisher.answered(lead.ref)
        except asyncio.CancelledError:
            if not asked.cancelled():  # answered in the very turn of the loop that we were cancelled in
                self._disown(flight, want, asked.result())
            raise
        if flight.disowned is not None or flight.lost:  # given up, which the worker does not know yet
            self._disown(flight, want, verdict)
            raise asyncio.CancelledError
        flight.asking = False
        if answered:
            self._void(flight, want, verdict)
            raise AnsweredElsewhere(lead.ref)
        if answered is None:  # nor could its answer be published
            self._void(flight, want, verdict)
            await sleep(self._clock, AWAY_S)
            raise NotAdmitted("lease", None)
        assert verdict is not None
        return verdict

    def settle(self, flight: Flight) -> None:
        """The last attempt's end goes on record: with the next one's claim, in one commit, unless that must wait."""
        if flight.settled is not None:
            self._ledger.tell(Landing(settled=flight.settled))
            flight.settled = None

    def _disown(self, flight: Flight, want: Want, verdict: Verdict | None) -> None:
        """The claim of a call that nobody wants any more is answered: who ends the job has to know, if he waits."""
        flight.asking, waits = False, flight.disowned
        if waits is None or waits.done():
            self._void(flight, want, verdict)
        else:
            waits.set_result(_voided(flight, want) if isinstance(verdict, Granted) else None)

    def _void(self, flight: Flight, want: Want, verdict: Verdict | None) -> None:
        """Granted, but never sent: certainly not billed."""
        if isinstance(verdict, Granted):
            flight.holding = False
            flight.leave_loose(self._ledger.land(_voided(flight, want)))

    def _check_own_ceiling(self, flight: Flight, want: Want) -> None:
        """Once more, as the job that leads may be another, or a lost call known, since it was looked at."""
        limit_nano = flight.lead.job.max_cost_nano
        if limit_nano is not None and not fits(want.bound_nano, limit_nano - flight.cost_nano):
            raise NotGranted(want.model, Clear())

    def check_time(self, want: Want, asked_at: float) -> None:
        """The commit may have taken so long that the entry is another process's by now, or the model's circuit open.

        Raises NotAdmitted.
        """
        now = self._clock.monotonic()
        if now >= self._holds.kept_until:
            raise NotAdmitted("lease", None)
        if now - asked_at > LONG_S and not self._fleet.still_takes(want, now):
            raise NotAdmitted("circuit_open", None)


def _check_lead(flight: Flight) -> None:
    """The claim may be of a job that has left meanwhile, and so may its id be: the next one asks for itself.

    Raises NotAdmitted.
    """
    if not flight.is_told:
        raise NotAdmitted("lease", None)


def _voided(flight: Flight, want: Want) -> Landing:
    return Landing(settled=settled(want, "void", cost_nano=0, latency_ms=0.0), release_key=flight.key)
