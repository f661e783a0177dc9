"""The end of flights and jobs: recorded first, then published, then forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from msgspec import structs

from theo_daemon.deltas import DeltaFeed
from theo_daemon.flight import Flight, Ticket
from theo_daemon.job import Answered, EntryRef, Failed, JobOutcome
from theo_daemon.ledger.port import Claims
from theo_daemon.ledger.records import JobEnd, Landing
from theo_daemon.left_word import left_word
from theo_daemon.manifest import Manifest
from theo_daemon.outcomes import Result
from theo_daemon.ports import DeadLetter, Finish, Publisher
from theo_daemon.reply import encode_outcome
from theo_daemon.telemetry.records import AttemptRecord


class JobObserver(Protocol):
    """Hears what becomes of jobs."""

    def on_job(self, ticket: Ticket, outcome: JobOutcome, attempts: tuple[AttemptRecord, ...]) -> None:
        """A job's reply is published."""

    def on_dead(self, ref: EntryRef, letter: DeadLetter) -> None:
        """A job goes to the dead letters."""

    def on_duplicate(self, ticket: Ticket, outcome: JobOutcome) -> None:
        """The job had its reply already, from another process: this one was thrown away."""


def let_go(ledger: Claims, flight: Flight) -> None:
    """Its key is free, if it has it, and its last attempt booked."""
    if flight.holding or flight.settled is not None:
        key = flight.key if flight.holding else None
        ledger.tell(Landing(settled=flight.settled, release_key=key))
        flight.holding, flight.settled = False, None


class Landings:
    """Ends jobs. A reply leaves only after what it says is durable."""

    def __init__(
        self, *, ledger: Claims, publisher: Publisher, manifest: Manifest, deltas: DeltaFeed,
        redis_now_ms: Callable[[], int], observer: JobObserver,
    ) -> None:  # fmt: skip
        self._ledger, self._publisher, self._manifest = ledger, publisher, manifest
        self._deltas, self._redis_now_ms, self._observer = deltas, redis_now_ms, observer

    async def land(self, flight: Flight, result: Result, *, all_of_it: bool) -> None:
        """End the flight for all its jobs, or (not `all_of_it`) for its lead alone."""
        flight.landing = True
        if result.answer is not None:  # its own call's
            self._deltas.end(flight)
        landed = flight.tickets if all_of_it else [flight.lead]
        ends = [(ticket, self._outcome_for(ticket, flight, result)) for ticket in landed]
        await self._record(flight, result, ends)
        flight.lead.records = tuple(flight.records)
        for ticket, outcome in ends:
            ticket.held = flight.held
            if isinstance(outcome, Answered):
                self._deltas.complete(flight, ticket, outcome.answer.output)
            self.finish(ticket, outcome, dead=_dead_letter(ticket, outcome) if result.dead else None)
        flight.held = None

    def finish(self, ticket: Ticket, outcome: JobOutcome, *, dead: DeadLetter | None = None) -> None:
        """Publish the final reply; what becomes of it is the publisher's care."""
        ticket.ended = True
        if ticket.deadline_timer is not None:
            ticket.deadline_timer.cancel()
        future = self._publisher.finish(ticket.job.envelope, outcome, queued_ms=ticket.queued_ms, dead=dead)
        future.add_done_callback(partial(self._finished, ticket, outcome))
        if dead is not None:
            self._observer.on_dead(ticket.ref, dead)

    def release_id(self, ticket: Ticket) -> None:
        """The job ended without an outcome to remember: its id is free for the next push."""
        if ticket.job.client_id is not None and not ticket.repeat:
            end = JobEnd(
                ref=ticket.ref, outcome=None, tenant=ticket.job.tenant, client_id=ticket.job.client_id
            )
            self._ledger.tell(Landing(ends=(end,)))

    def release_flight(self, flight: Flight) -> None:
        """The flight ends without a result."""
        let_go(self._ledger, flight)

    def queued_ms(self, ticket: Ticket) -> int:
        """Since its push, by the clock of Redis."""
        return max(0, self._redis_now_ms() - ticket.ref.pushed_ms)

    async def _record(
        self, flight: Flight, result: Result, ends: Sequence[tuple[Ticket, JobOutcome]]
    ) -> None:
        """Commit C, where there is anything to commit.

        If we died with a claim loose, it would be charged, as a call that was sent: nothing is told before.
        """
        if flight.loose:
            await asyncio.wait(flight.loose)
        called = bool(flight.attempts)
        rows = [
            JobEnd(
                ref=ticket.ref,
                outcome=encode_outcome(outcome) if called or result.remember else None,
                digest=ticket.key,
                tenant=ticket.job.tenant,
                client_id=None if ticket.repeat else ticket.job.client_id,
                remember=result.remember,
            )
            for ticket, outcome in ends
            if called or ticket.job.client_id is not None
        ]
        if not (called or flight.holding or rows):
            return
        landing = Landing(
            settled=flight.settled,
            release_key=flight.key if flight.holding else None,
            ends=tuple(rows),
            for_waiters=left_word(flight, result) if flight.holding else None,
        )
        flight.holding, flight.settled = False, None
        for ticket, _ in ends:
            ticket.stored = called and not (result.remember and ticket.job.client_id and not ticket.repeat)
        await self._ledger.land(landing)

    def _outcome_for(self, ticket: Ticket, flight: Flight, result: Result) -> JobOutcome:
        """The lead's own outcome, or a waiter's share of it: free of charge."""
        if ticket is flight.lead:
            if flight.sent_attempt is None:
                ticket.queued_ms = self.queued_ms(ticket)
            return result.outcome
        ticket.queued_ms = self.queued_ms(ticket)
        match result.outcome:
            case Answered() as answered if result.answer is not None:
                return Answered(answer=answered.answer, coalesced=True)
            case Answered() as answered:
                return structs.replace(answered, cost_nano=0, attempts=())
            case Failed() as error:
                return structs.replace(error, cost_nano=0)

    def _finished(self, ticket: Ticket, outcome: JobOutcome, future: asyncio.Future[Finish]) -> None:
        if future.cancelled():
            return
        found = future.result()
        # An entry that will be delivered again is answered from the record then.
        if ticket.stored and found is not Finish.NOT_PENDING:
            self._ledger.forget(ticket.ref)
        ticket.held = None
        self._manifest.remove(ticket)
        if found is Finish.ALREADY:
            self._observer.on_duplicate(ticket, outcome)
        self._observer.on_job(ticket, outcome, ticket.records)


def _dead_letter(ticket: Ticket, outcome: JobOutcome) -> DeadLetter | None:
    if not isinstance(outcome, Failed):
        return None
    return DeadLetter(
        fields=ticket.fields, reason=outcome.message, code=outcome.code, deliveries=ticket.deaths
    )
