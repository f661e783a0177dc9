"""Jobs of dead processes that end here before the ledger was asked: what is on record of them is told all the same.

Their outcome may be there, paid for and never published; so may calls that nobody knows the end of, which they pay.
"""

from __future__ import annotations

import asyncio
from collections.abc import Container
from functools import partial

from msgspec import structs

from theo_daemon.flight import Flight, Ticket
from theo_daemon.job import Failed, JobOutcome
from theo_daemon.landing import Landings
from theo_daemon.ledger.port import Claims
from theo_daemon.ledger.records import Check, Clear, Landing, Replay, Verdict
from theo_daemon.outcomes import Result, with_prior
from theo_daemon.ports import Holds
from theo_daemon.reply import decode_outcome
from theo_workers.clock import Clock


class LookBack:
    """Ends jobs with what an earlier owner of their entry left."""

    def __init__(self, ledger: Claims, landings: Landings, holds: Holds, clock: Clock) -> None:
        self._ledger, self._landings, self._holds, self._clock = ledger, landings, holds, clock

    def hand_over(self, flight: Flight, *, lost: bool) -> frozenset[int]:
        """The lead has left; the attempts that the next job pays for though they are on record for its entry.

        Where another process has that entry, or may have, it tells of those that have ended: the next job does not.
        """
        if not lost and self._clock.monotonic() < self._holds.kept_until:
            return flight.hand_over()
        if flight.settled is not None:
            self._ledger.tell(Landing(settled=flight.settled))
            flight.settled = None
        flight.lead.redelivered = True
        flight.leave_behind()
        return frozenset()

    def end(self, ticket: Ticket, outcome: Failed, *, but: Container[int] = ()) -> None:
        """End a job that had no call of its own here, `but` these attempts, which others pay for."""
        if not ticket.redelivered:
            self._landings.finish(ticket, outcome)
            return
        ticket.ended = True  # the reply waits for the ledger
        self._ask(ticket).add_done_callback(partial(self._finish, ticket, outcome, but))

    async def withdrawn(self, flight: Flight, outcome: Failed) -> Result:
        """How a flight ends that nobody waits for any more."""
        if flight.asking:
            await self._disowned(flight)
        if flight.lead.redelivered and flight.sent_attempt is None:
            match await self._ask(flight.lead):
                case Replay(kept, own=True, held=held):
                    flight.held = held and held.take()
                    return Result(decode_outcome(kept), shared=False)
                case Clear(prior):
                    flight.list_prior(prior)
        told = structs.replace(outcome, cost_nano=flight.cost_nano, attempts=tuple(flight.attempts))
        return Result(told, shared=False)

    async def _disowned(self, flight: Flight) -> None:
        """Its claim may be on record already: if we died now, it would be charged, as a call that was sent.

        So the job is told that it cost nothing only when the record says so.
        """
        flight.disowned = asyncio.get_running_loop().create_future()
        void = await flight.disowned
        if void is not None:
            await self._ledger.land(void)

    def _ask(self, ticket: Ticket) -> asyncio.Future[Verdict | None]:
        return self._ledger.ask(
            Check(
                ref=ticket.ref,
                digest=ticket.key,
                tenant=ticket.job.tenant,
                client_id=None if ticket.repeat else ticket.job.client_id,
                redelivered=True,
            )
        )

    def _finish(
        self, ticket: Ticket, failure: Failed, but: Container[int], look: asyncio.Future[Verdict | None]
    ) -> None:
        if look.cancelled():
            return
        outcome: JobOutcome = failure
        match look.result():
            case Replay(kept, own=True, held=held):
                ticket.held = held and held.take()
                outcome = decode_outcome(kept)
            case Clear(prior):
                outcome = with_prior(failure, prior, but=but)
                self._landings.release_id(ticket)  # which the look has taken
        self._landings.finish(ticket, outcome)
