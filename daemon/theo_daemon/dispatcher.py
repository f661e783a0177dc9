"""From delivery to reply: tickets join flights, flights wait their turn, outcomes are published once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any, Protocol

import msgspec

from theo_daemon.cancellations import Cancel, Cancellations
from theo_daemon.config import IngressConfig, RoutingConfig
from theo_daemon.fair_queue import FairQueue
from theo_daemon.fleet import Fleet
from theo_daemon.flight import Flight, Ticket
from theo_daemon.generation import Generation, Result, Started, failed
from theo_daemon.job import Answered, Delivery, EntryRef, Failed, JobOutcome, OnUnknown
from theo_daemon.ledger.ledger import Ledger
from theo_daemon.ledger.records import Check, Conflict, JobEnd, Landing, Replay, Verdict
from theo_daemon.ports import DeadLetter, Finish, Holds, Publisher
from theo_daemon.reception import Accepted, Reception, Refused
from theo_daemon.reply import decode_outcome, encode_outcome
from theo_daemon.telemetry.records import AttemptRecord
from theo_daemon.turns import TurnQueue
from theo_workers.clock import Clock
from theo_workers.errors import Cancelled, DeadlineExceeded, GenerationError, IdConflict, InternalError


class DispatchObserver(Protocol):
    """Hears what becomes of jobs."""

    def on_job(self, ticket: Ticket, outcome: JobOutcome, attempts: tuple[AttemptRecord, ...]) -> None:
        """A job's reply is published."""

    def on_settled(self, record: AttemptRecord) -> None:
        """An attempt is over and booked."""

    def on_bug(self, error: BaseException, ticket: Ticket) -> None:
        """An unforeseen exception ended the job as internal_error."""


class Dispatcher:
    """Everything between the intake and the publisher, for one process.

    It never awaits a job: each flight is a task, each reply a future of the publisher's.
    """

    def __init__(
        self, *, reception: Reception, fleet: Fleet, ledger: Ledger, publisher: Publisher, holds: Holds,
        ingress: IngressConfig, routing: RoutingConfig, on_unknown: OnUnknown, clock: Clock,
        redis_now_ms: Callable[[], int], rng: random.Random, observer: DispatchObserver,
    ) -> None:  # fmt: skip
        self._reception, self._fleet, self._ledger = reception, fleet, ledger
        self._publisher, self._holds, self._ingress = publisher, holds, ingress
        self._clock, self._redis_now_ms, self._observer = clock, redis_now_ms, observer
        self._turns = TurnQueue(FairQueue(ingress.lanes), fleet=fleet, routing=routing, clock=clock)
        self._generation = Generation(
            fleet=fleet,
            ledger=ledger,
            turns=self._turns,
            routing=routing,
            on_unknown=on_unknown,
            clock=clock,
            on_settled=observer.on_settled,
            redis_now_ms=redis_now_ms,
            rng=rng,
        )
        self._turns.start = self._generation.start
        self._tickets: dict[EntryRef, Ticket] = {}
        self._flights: dict[str, Flight] = {}
        self._ids: dict[tuple[str, str], Ticket] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._bytes = 0
        self._draining = False
        self._cancellations = Cancellations()
        self._idle = asyncio.Event()
        self._idle.set()

    # -- what the intake asks and does -----------------------------------------------------------------

    @property
    def held(self) -> int:
        """Jobs of this process that have no published reply yet."""
        return len(self._tickets)

    @property
    def held_bytes(self) -> int:
        return self._bytes

    @property
    def waiting(self) -> int:
        """Flights that wait for a slot."""
        return len(self._turns)

    @property
    def flying(self) -> int:
        """Generations under way, waiting ones included."""
        return len(self._flights)

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        """Take a batch on. Returns at once; every job of it gets its one reply later."""
        accepted: list[Accepted] = []
        for delivery in deliveries:
            if delivery.ref in self._tickets:
                continue  # ours already: a lost lease that came back
            received = self._reception.receive(delivery)
            if isinstance(received, Refused):
                self._refuse(received)
            else:
                accepted.append(received)
        chosen = [one for one in accepted if one.job.envelope.reply_to is not None]
        if chosen:
            self._spawn(self._check_reply_streams(accepted, chosen))
        else:
            self._board_all(accepted)

    def cancel(self, cancel: Cancel) -> None:
        """End the jobs that it means: those held now, and those read later."""
        self._cancellations.add(cancel)
        for ticket in [ticket for ticket in self._tickets.values() if cancel.covers(ticket.job)]:
            self._withdraw(ticket, failed(Cancelled("the job was cancelled")))

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
        await self._idle.wait()

    async def stop(self) -> None:
        """Cancel whatever is left. Jobs without a reply stay pending in Redis."""
        self._draining = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def pump(self) -> None:
        """Slots may have become free: start who is next."""
        self._turns.pump()

    # -- boarding ------------------------------------------------------------------------------------

    async def _check_reply_streams(self, accepted: Sequence[Accepted], chosen: Iterable[Accepted]) -> None:
        names = sorted({str(one.job.envelope.reply_to) for one in chosen})
        unusable = await self._publisher.unusable(names)
        good: list[Accepted] = []
        for one in accepted:
            if one.job.envelope.reply_to in unusable:
                self._refuse(self._reception.refuse_reply_to(one))
            else:
                good.append(one)
        self._board_all(good)

    def _board_all(self, accepted: Iterable[Accepted]) -> None:
        for one in accepted:
            if one.delivery.ref not in self._tickets:
                self._board(one)
        self._turns.pump()

    def _board(self, accepted: Accepted) -> None:
        """Put one job on the flight of its key, or on a new one."""
        ticket = Ticket(
            accepted.job,
            accepted.route,
            accepted.key,
            received=self._clock.monotonic(),
            redelivered=accepted.delivery.redelivered,
            size=accepted.size,
        )
        self._hold(ticket)
        if self._cancellations.cancelled(ticket.job):
            self._finish(ticket, failed(Cancelled("the job was cancelled")))
            return
        if self._expired(ticket):
            return
        same_id = self._same_id(ticket)
        if same_id is not None and same_id.key != ticket.key:
            error = IdConflict("a job with this id and another payload is running; choose a new id")
            self._finish(ticket, failed(error))
            return
        if same_id is not None and same_id.flight is not None and not same_id.flight.landing:
            ticket.repeat = True
            self._join(ticket, same_id.flight)
            return
        key = flight_key(ticket)
        flight = self._flights.get(key)
        if flight is not None:
            self._join(ticket, flight)
        else:
            self._take_off(Flight(key, ticket))

    def _hold(self, ticket: Ticket) -> None:
        self._tickets[ticket.ref] = ticket
        self._bytes += ticket.size
        self._idle.clear()

    def _expired(self, ticket: Ticket) -> bool:
        """Set the deadline's timer; True when it had passed before we began."""
        if ticket.job.deadline_ms is None:
            return False
        left_s = (ticket.job.deadline_ms - self._redis_now_ms()) / 1000
        if left_s <= 0:
            self._finish(ticket, failed(DeadlineExceeded("the deadline passed before the job was started")))
            return True
        rung: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        rung.add_done_callback(partial(self._deadline, ticket))
        ticket.deadline_timer = rung
        self._clock.call_at(self._clock.monotonic() + left_s, rung)
        return False

    def _deadline(self, ticket: Ticket, rung: asyncio.Future[None]) -> None:
        if not rung.cancelled():
            self._withdraw(ticket, failed(DeadlineExceeded("the deadline passed before an answer arrived")))

    def _same_id(self, ticket: Ticket) -> Ticket | None:
        """The job of this process that holds the same client id; else this one holds it now."""
        if ticket.job.client_id is None:
            return None
        first = self._ids.setdefault((ticket.job.tenant, ticket.job.client_id), ticket)
        return None if first is ticket else first

    def _join(self, ticket: Ticket, flight: Flight) -> None:
        ticket.flight = flight
        flight.waiters.append(ticket)
        if not ticket.repeat and (ticket.job.client_id is not None or ticket.redelivered):
            ticket.check = self._ledger.ask(
                Check(
                    ref=ticket.ref,
                    digest=ticket.key,
                    tenant=ticket.job.tenant,
                    client_id=ticket.job.client_id,
                    redelivered=ticket.redelivered,
                )
            )
            ticket.check.add_done_callback(partial(self._checked, ticket))

    def _checked(self, ticket: Ticket, check: asyncio.Future[Verdict | None]) -> None:
        """A job that joined a flight may have been answered before, or its id may be another's."""
        ticket.check = None
        if check.cancelled() or ticket.ended:
            return
        match check.result():
            case Replay(outcome, own):
                replayed = decode_outcome(outcome)
                self._leave(ticket)
                self._finish(ticket, replayed if own else msgspec.structs.replace(replayed, cost_nano=0))
            case Conflict():
                self._leave(ticket)
                self._finish(ticket, failed(IdConflict("this id was used before with another payload")))
            case _:
                pass

    def _leave(self, ticket: Ticket) -> None:
        flight = ticket.flight
        if flight is not None and ticket in flight.waiters:
            flight.waiters.remove(ticket)
        ticket.flight = None

    # -- flying --------------------------------------------------------------------------------------

    def _take_off(self, flight: Flight) -> None:
        self._flights[flight.key] = flight
        flight.lead.flight = flight
        flight.task = self._spawn(self._fly(flight))
        flight.task.add_done_callback(partial(self._crashed, flight))

    async def _fly(self, flight: Flight) -> None:
        """Run the flight for its lead, then for those whom the outcome does not serve, one after another."""
        while True:
            flight.lead.queued_ms = self._queued_ms(flight.lead)
            try:
                result = await self._generation.run(flight)
            except GenerationError as error:
                outcome = failed(error, cost_nano=flight.cost_nano, attempts=flight.attempts)
                result = Result(outcome, shared=error.shared, remember=error.remembered)
            except asyncio.CancelledError:
                if flight.withdrawn is None:
                    raise
                result = Result(_with_attempts(flight.withdrawn, flight), shared=False)
            if await self._land(flight, result):
                return

    async def _land(self, flight: Flight, result: Result) -> bool:
        """Record the outcome, then publish it. True when the flight is over; False when a waiter took it over."""
        flight.landing = True
        serves_all = result.shared or not flight.waiters
        if serves_all:
            self._flights.pop(flight.key, None)  # who comes now finds the answer in the ledger, or flies anew
        landed = flight.tickets if serves_all else [flight.lead]
        ends = [(ticket, self._outcome_for(ticket, flight, result)) for ticket in landed]
        await self._record(flight, result, ends)
        flight.lead.records = tuple(flight.records)
        for ticket, outcome in ends:
            self._finish(ticket, outcome)
        if serves_all:
            return True
        flight.restart(flight.waiters.pop(0))
        return False

    async def _record(
        self, flight: Flight, result: Result, ends: Sequence[tuple[Ticket, JobOutcome]]
    ) -> None:
        """Commit C, where there is anything to commit."""
        called = bool(flight.attempts)
        rows = [
            JobEnd(
                ref=ticket.ref,
                outcome=encode_outcome(outcome) if called or result.remember else None,
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
            settled=flight.settled, release_key=flight.key if flight.holding else None, ends=tuple(rows)
        )
        flight.holding = False
        for ticket, _ in ends:
            ticket.stored = called
        await self._ledger.land(landing)

    def _outcome_for(self, ticket: Ticket, flight: Flight, result: Result) -> JobOutcome:
        """The lead's own outcome, or a waiter's share of it: free of charge."""
        if ticket is flight.lead:
            return result.outcome
        ticket.queued_ms = self._queued_ms(ticket)
        match result.outcome:
            case Answered() as answered if result.answer is not None:
                return Answered(answer=answered.answer, coalesced=True)
            case Answered() as answered:
                return msgspec.structs.replace(answered, cost_nano=0, attempts=())
            case Failed() as error:
                return msgspec.structs.replace(error, cost_nano=0)

    def _withdraw(self, ticket: Ticket, outcome: Failed) -> None:
        """A job ends early. The call goes on while somebody else waits for it; else it is closed."""
        flight = ticket.flight
        if ticket.ended or flight is None or (flight.landing and ticket is flight.lead):
            return
        if ticket is not flight.lead:
            self._leave(ticket)
            self._release_id(ticket)
            self._finish(ticket, outcome)
        elif flight.waiters:
            flight.lead = flight.waiters.pop(0)
            self._release_id(ticket)
            self._finish(ticket, outcome)
        elif flight.task is not None:
            flight.withdrawn = outcome
            flight.task.cancel()

    def _release_id(self, ticket: Ticket) -> None:
        if ticket.job.client_id is not None and not ticket.repeat:
            end = JobEnd(
                ref=ticket.ref, outcome=None, tenant=ticket.job.tenant, client_id=ticket.job.client_id
            )
            self._ledger.tell(Landing(ends=(end,)))

    def _crashed(self, flight: Flight, task: asyncio.Task[None]) -> None:
        """The end of a flight's task: a bug must cost its own jobs an error and nobody else anything."""
        if task.cancelled():
            if self._draining:
                self._hand_back(flight)
            return
        error = task.exception()
        if error is None:
            return
        self._flights.pop(flight.key, None)
        if flight.holding:
            self._ledger.tell(Landing(settled=flight.settled, release_key=flight.key))
        for ticket in flight.tickets:
            if not ticket.ended:
                self._observer.on_bug(error, ticket)
                self._release_id(ticket)
                self._finish(ticket, failed(InternalError("the router failed on this job; see its log")))

    def _hand_back(self, flight: Flight) -> None:
        """Drained: the jobs are other processes' now."""
        self._flights.pop(flight.key, None)
        if flight.holding:
            self._ledger.tell(Landing(settled=flight.settled, release_key=flight.key))
        for ticket in flight.tickets:
            if not ticket.ended:
                self._release_id(ticket)
                self._let_go(ticket)

    # -- ending --------------------------------------------------------------------------------------

    def _refuse(self, refused: Refused) -> None:
        """A job that cannot run gets its error, and a dead letter where the contract says so."""
        future = self._publisher.finish(refused.envelope, refused.outcome, queued_ms=0, dead=refused.dead)
        future.add_done_callback(lambda _: self._holds.release(refused.envelope.ref))
        self._reception.count_refusal(refused)

    def _finish(self, ticket: Ticket, outcome: JobOutcome, dead: DeadLetter | None = None) -> None:
        ticket.ended = True
        if ticket.deadline_timer is not None:
            ticket.deadline_timer.cancel()
        future = self._publisher.finish(ticket.job.envelope, outcome, queued_ms=ticket.queued_ms, dead=dead)
        future.add_done_callback(partial(self._finished, ticket, outcome))

    def _finished(self, ticket: Ticket, outcome: JobOutcome, future: asyncio.Future[Finish]) -> None:
        if future.cancelled():
            return
        if ticket.stored:
            self._ledger.forget(ticket.ref)
        self._let_go(ticket)
        self._observer.on_job(ticket, outcome, ticket.records)

    def _let_go(self, ticket: Ticket) -> None:
        if self._tickets.pop(ticket.ref, None) is None:
            return
        ticket.ended = True
        self._bytes -= ticket.size
        if ticket.job.client_id is not None:
            name = (ticket.job.tenant, ticket.job.client_id)
            if self._ids.get(name) is ticket:
                del self._ids[name]
        self._holds.release(ticket.ref)
        if not self._tickets:
            self._idle.set()

    def _queued_ms(self, ticket: Ticket) -> int:
        return max(0, self._redis_now_ms() - ticket.ref.pushed_ms)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def flight_key(ticket: Ticket) -> str:
    """Jobs with one key share a call. `refresh` shares with `refresh` only, `off` with nobody."""
    match ticket.job.cache:
        case "use":
            return ticket.key
        case "refresh":
            return f"{ticket.key}:refresh"
        case "off":
            return f"{ticket.key}:{ticket.ref.stream}:{ticket.ref.entry_id}"


def _with_attempts(outcome: Failed, flight: Flight) -> Failed:
    return msgspec.structs.replace(outcome, cost_nano=flight.cost_nano, attempts=tuple(flight.attempts))


__all__ = ["DispatchObserver", "Dispatcher", "Started", "flight_key"]
