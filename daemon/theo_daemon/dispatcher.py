"""From delivery to reply: jobs board flights, flights wait their turn and fly, every job lands once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any, Protocol

from theo_daemon.bookings import AttemptObserver
from theo_daemon.cancellations import Cancel, Cancellations
from theo_daemon.config import Config
from theo_daemon.deltas import DeltaFeed
from theo_daemon.engine import build_engine
from theo_daemon.fleet import Fleet
from theo_daemon.flight import Flight, Ticket, flight_key
from theo_daemon.job import Delivery, EntryRef, Envelope, Failed
from theo_daemon.landing import JobObserver, Landings
from theo_daemon.ledger.port import Claims
from theo_daemon.ledger.records import Check, Conflict, Replay, Verdict
from theo_daemon.lookback import LookBack
from theo_daemon.manifest import Manifest
from theo_daemon.outcomes import Result, failed, replayed
from theo_daemon.ports import Finish, Holds, Publisher
from theo_daemon.reception import Accepted, Reception, Refused
from theo_daemon.refusals import Refusals
from theo_daemon.reply import decode_outcome
from theo_daemon.turns import Kind, kind_of
from theo_workers.clock import Clock
from theo_workers.errors import (
    Cancelled,
    DeadlineExceeded,
    DeliveryLimitExceeded,
    GenerationError,
    IdConflict,
    InternalError,
)


class DispatchObserver(JobObserver, AttemptObserver, Protocol):
    """Hears what becomes of jobs and attempts."""

    def on_bug(self, error: BaseException, ref: EntryRef) -> None:
        """An unforeseen exception ended the job as internal_error."""


class Dispatcher:
    """Everything between the intake and the publisher, for one process.

    It never awaits a job: each flight is a task, each reply a future of the publisher's.
    """

    def __init__(
        self, config: Config, *, reception: Reception, fleet: Fleet, ledger: Claims, publisher: Publisher,
        holds: Holds, clock: Clock, redis_now_ms: Callable[[], int], rng: random.Random, observer: DispatchObserver,
    ) -> None:  # fmt: skip
        self._reception, self._ledger, self._publisher = reception, ledger, publisher
        self._clock, self._redis_now_ms, self._observer = clock, redis_now_ms, observer
        self._manifest = Manifest(holds)
        deltas = DeltaFeed(publisher, clock)
        self._landings = Landings(
            ledger=ledger, publisher=publisher, manifest=self._manifest, deltas=deltas,
            redis_now_ms=redis_now_ms, observer=observer,
        )  # fmt: skip
        self._look_back = LookBack(ledger, self._landings, holds, clock)
        self._refusals = Refusals(
            ledger=ledger, publisher=publisher, holds=holds, on_refusal=reception.count_refusal
        )
        self._measuring, self.lines, self._hold_lines, self._turns, self._generation = build_engine(
            config, fleet=fleet, ledger=ledger, publisher=publisher, holds=holds, deltas=deltas,
            observer=observer, redis_now_ms=redis_now_ms, lose=self.lose, clock=clock, rng=rng,
        )  # fmt: skip
        self._flights: dict[str, Flight] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._cancellations = Cancellations()
        self._draining = False
        self._loop: asyncio.AbstractEventLoop | None = None

    # -- what the owner asks and does ----------------------------------------------------------------

    @property
    def held(self) -> int:
        """Jobs of this process that have no published reply yet."""
        return len(self._manifest)

    @property
    def waiting(self) -> int:
        """Flights that wait for a slot."""
        return len(self._turns)

    @property
    def at_rest(self) -> int:
        """Flights that make no call at the moment: they wait for a slot, a model, money, or another's call."""
        return len(self._flights) - self._turns.flying

    def waiting_kinds(self) -> dict[Kind, int]:
        """How many flights wait for their turn, or for money that others hold."""
        counted = self._turns.waiting_kinds()
        for flight in self._hold_lines.waiting():
            kind = kind_of(flight)
            counted[kind] = counted.get(kind, 0) + 1
        return counted

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        """Take a batch on. Returns at once; every job of it gets its one reply later."""
        # Ours already: a lost lease that came back.
        self.take([self._receive(one) for one in deliveries if one.ref not in self._manifest])

    async def rehearse(self, delivery: Delivery) -> Accepted | Refused:
        """Everything that is done with a job's own words before its call is on record."""
        received = self._receive(delivery)
        if isinstance(received, Accepted):
            # What it raises is a bug that the job's own flight will meet and tell.
            await asyncio.gather(
                self._measuring.rehearse(received.route, received.job), return_exceptions=True
            )
        return received

    def take(self, batch: Sequence[Accepted | Refused]) -> None:
        """As `deliver`, of what has been received."""
        accepted: list[Accepted] = []
        chosen = False
        for received in batch:
            if isinstance(received, Refused):
                self.refuse(received)
            else:
                accepted.append(received)
                chosen = chosen or received.job.envelope.reply_to is not None
        if chosen:
            self._spawn(self._check_reply_streams(accepted))
        else:
            self._board_all(accepted)

    def cancel(self, cancel: Cancel) -> None:
        """End the jobs that it means: those held now, and those read later."""
        self._cancellations.add(cancel)
        for ticket in [ticket for ticket in self._manifest if cancel.covers(ticket.job)]:
            self._withdraw(ticket, failed(Cancelled("the job was cancelled")))

    def lose(self, refs: Sequence[EntryRef]) -> None:
        """These entries are other processes' by now. What is claimed here they wait for; the rest is left to them."""
        for ticket in filter(None, map(self._manifest.find, refs)):
            if ticket.flight is not None and not ticket.flight.holding:
                self._withdraw(ticket, None)

    def give_way(self, count: int) -> list[EntryRef]:
        """Let go of about so many parked jobs, for others that could run; the entries to hand back.

        The latest go first, and none that was called for: whoever takes it over would begin anew.
        """
        back: list[EntryRef] = []
        for flight in self._turns.parked():
            if len(back) >= count:
                break
            if not (flight.tried or flight.cost_nano or flight.landing) and flight.task is not None:
                back += [ticket.ref for ticket in flight.tickets if not ticket.ended]
                flight.gives_way = True
                flight.task.cancel()
        return back

    def pump(self) -> None:
        """Slots may have become free: start who is next."""
        self._turns.pump()

    async def drain(self) -> list[EntryRef]:
        """Give up what was not sent; the entries to hand back. What was sent goes on: see `idle`."""
        self._draining = True
        back: list[EntryRef] = []
        for flight in list(self._flights.values()):
            if flight.sent_attempt is None and not flight.landing and flight.task is not None:
                back += [ticket.ref for ticket in flight.tickets if not ticket.ended]
                flight.task.cancel()
        await asyncio.sleep(0)
        return back

    async def idle(self) -> None:
        """Wait until every job taken on is finished or handed back."""
        await self._manifest.empty()

    async def stop(self) -> None:
        """Cancel whatever is left. Jobs without a reply stay pending in Redis."""
        self._draining = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- boarding ------------------------------------------------------------------------------------

    def _receive(self, delivery: Delivery) -> Accepted | Refused:
        try:
            return self._reception.receive(delivery)
        except Exception as bug:  # noqa: BLE001 - met by one entry, it must cost the others of the batch nothing
            self._observer.on_bug(bug, delivery.ref)
            envelope = Envelope(ref=delivery.ref, id=delivery.ref.entry_id)
            return Refused(envelope, delivery.lane, failed(_bug()), None)

    async def _check_reply_streams(self, accepted: Sequence[Accepted]) -> None:
        names = {str(one.job.envelope.reply_to) for one in accepted if one.job.envelope.reply_to is not None}
        unusable = await self._publisher.unusable(sorted(names))
        good: list[Accepted] = []
        for one in accepted:
            if one.job.envelope.reply_to in unusable:
                self.refuse(self._reception.refuse_reply_to(one))
            else:
                good.append(one)
        self._board_all(good)

    def _board_all(self, accepted: Iterable[Accepted]) -> None:
        for one in accepted:
            if one.delivery.ref not in self._manifest:
                ticket = Ticket(one, received=self._clock.monotonic())
                if ticket.redelivered:  # an attempt takes longer than a millisecond, and so does a death
                    ticket.attempts_before = self._landings.queued_ms(ticket)
                self._board(ticket)

    def _board(self, ticket: Ticket) -> None:
        """Put one job on the flight of its key, or on a new one."""
        same_id = self._manifest.add(ticket)
        if self._cancellations.cancelled(ticket.job):
            self._look_back.end(ticket, failed(Cancelled("the job was cancelled")))
        elif not ticket.set_timer(self._clock, self._redis_now_ms, partial(self._deadline, ticket)):
            self._look_back.end(
                ticket, failed(DeadlineExceeded("the deadline passed before the job was started"))
            )
        elif same_id is not None and same_id.key != ticket.key and not ticket.redelivered:
            error = IdConflict("a job with this id and another payload is running; choose a new id")
            self._landings.finish(ticket, failed(error))
        elif (
            same_id is not None
            and same_id.key == ticket.key
            and same_id.flight
            and not same_id.flight.landing
        ):
            ticket.repeat = True
            self._join(ticket, same_id.flight)
        elif (flight := self._flights.get(flight_key(ticket))) is not None:
            self._join(ticket, flight)
        else:
            self._take_off(Flight(flight_key(ticket), ticket))

    def _deadline(self, ticket: Ticket, rung: asyncio.Future[None]) -> None:
        if not rung.cancelled():
            self._withdraw(ticket, failed(DeadlineExceeded("the deadline passed before an answer arrived")))

    def _join(self, ticket: Ticket, flight: Flight) -> None:
        """A repeat waits for the first push of its id. If that comes last, from a dead process, it takes the lead."""
        if flight.awaited == ticket.ref:
            flight.yield_lead(ticket)
            if flight.wake is not None and not flight.wake.done():
                flight.wake.set_result(None)
            return
        ticket.flight = flight
        flight.waiters.append(ticket)
        if not ticket.repeat and (ticket.job.client_id is not None or ticket.redelivered):
            check = Check(
                ref=ticket.ref,
                digest=ticket.key,
                tenant=ticket.job.tenant,
                client_id=ticket.job.client_id,
                redelivered=ticket.redelivered,
            )
            self._ledger.ask(check).add_done_callback(partial(self._checked, ticket))

    def _checked(self, ticket: Ticket, check: asyncio.Future[Verdict | None]) -> None:
        """A job that joined a flight may have been answered before, or its id may be another's."""
        if check.cancelled() or ticket.ended:
            return
        match check.result():
            case Replay(outcome, own, held):
                self._leave(ticket)
                ticket.held = held and held.take()
                self._landings.finish(ticket, replayed(decode_outcome(outcome), own=own))
            case Conflict():
                self._leave(ticket)
                self._landings.finish(
                    ticket,
                    failed(IdConflict("this id was used before with another payload; choose a new id")),
                )
            case _:
                pass

    def _leave(self, ticket: Ticket) -> None:
        flight = ticket.flight
        if flight is not None and ticket in flight.waiters:
            flight.waiters.remove(ticket)
        ticket.flight = None

    # -- flying --------------------------------------------------------------------------------------

    def _take_off(self, flight: Flight) -> None:
        self._flights[flight.place] = flight
        flight.lead.flight = flight
        flight.task = self._spawn(self._fly(flight))
        flight.task.add_done_callback(partial(self._crashed, flight))

    async def _fly(self, flight: Flight) -> None:
        """Run the flight for its lead, then for those whom the outcome does not serve, one after another."""
        while True:
            try:
                result = await self._generation.run(flight)
            except GenerationError as error:
                outcome = failed(error, cost_nano=flight.cost_nano, attempts=flight.attempts)
                dead = isinstance(error, DeliveryLimitExceeded)
                result = Result(outcome, shared=error.shared, remember=error.remembered, dead=dead)
            except asyncio.CancelledError:
                if flight.withdrawn is None:
                    raise
                flight.landing = True  # whatever else would end the job comes too late
                result = await self._look_back.withdrawn(flight, flight.withdrawn)
            serves_all = result.shared or not flight.waiters
            if serves_all:
                self._flights.pop(
                    flight.place, None
                )  # who comes now finds the answer in the ledger, or flies anew
            await self._landings.land(flight, result, all_of_it=serves_all)
            self._hold_lines.freed(flight.scopes)
            if serves_all:
                return
            flight.restart()

    def _withdraw(self, ticket: Ticket, outcome: Failed | None) -> None:
        """A job ends early (None: not here). The call goes on while somebody else waits for it; else it is closed."""
        flight = ticket.flight
        if ticket.ended or flight is None or flight.landing:
            return
        if ticket is flight.lead and not flight.waiters:
            flight.withdrawn, flight.lost = outcome, outcome is None
            if flight.lost:
                self._flights.pop(flight.place, None)  # who comes now flies anew
            if flight.task is not None:
                flight.task.cancel()
            return
        gone_on: frozenset[int] = frozenset()
        if ticket is flight.lead:
            gone_on = self._look_back.hand_over(flight, lost=outcome is None)
            self._turns.realign(flight)
        else:
            self._leave(ticket)
        if outcome is None:
            self._manifest.remove(ticket)
        else:
            self._landings.release_id(ticket)
            self._look_back.end(ticket, outcome, but=gone_on)

    def _crashed(self, flight: Flight, task: asyncio.Task[None]) -> None:
        """The end of a flight's task: a bug must cost its own jobs an error and nobody else anything."""
        if task.cancelled():
            if flight.lost:
                self._landings.release_flight(flight)
                self._manifest.remove(flight.lead)
            elif self._draining or flight.gives_way:
                self._hand_back(flight)
            elif flight.withdrawn is not None:
                self._never_began(flight, flight.withdrawn)
            return
        error = task.exception()
        if error is None:
            return
        self._flights.pop(flight.place, None)
        self._landings.release_flight(flight)
        for ticket in flight.tickets:
            if not ticket.ended:
                self._observer.on_bug(error, ticket.ref)
                self._landings.release_id(ticket)
                self._landings.finish(ticket, failed(_bug()))

    def _never_began(self, flight: Flight, outcome: Failed) -> None:
        """Withdrawn before its task took a step: nothing was asked or sent."""
        self._flights.pop(flight.place, None)
        self._look_back.end(flight.lead, outcome)
        if flight.waiters:
            flight.restart()
            self._take_off(flight)

    def _hand_back(self, flight: Flight) -> None:
        """Drained: the jobs are other processes' now. A called one keeps its id: the call is told with it."""
        self._flights.pop(flight.place, None)
        self._landings.release_flight(flight)
        for ticket in flight.tickets:
            if not ticket.ended:
                if flight.sent_attempt is None or ticket is not flight.lead:
                    self._landings.release_id(ticket)
                self._manifest.remove(ticket)

    def refuse(self, refused: Refused) -> asyncio.Future[Finish]:
        """A job that cannot run gets its error, and a dead letter where the contract says so."""
        return self._refusals.refuse(refused)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        if self._loop is None:  # kept: asking for it is a system call
            self._loop = asyncio.get_running_loop()
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _bug() -> InternalError:
    return InternalError("the router failed on this job; see its log")
