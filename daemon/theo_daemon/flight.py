"""A job being worked on (ticket), and the one generation that identical jobs share (flight)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from theo_daemon.ceilings import Barred
from theo_daemon.job import EntryRef, Failed, Word
from theo_daemon.ledger.records import Landing, PriorAttempt, Scope, Settled
from theo_daemon.outcomes import earlier
from theo_daemon.reception import Accepted
from theo_daemon.retry import Tried
from theo_daemon.telemetry.records import AttemptRecord
from theo_workers.clock import Clock
from theo_workers.errors import UpstreamError
from theo_workers.messages import Attempt, Outcome

IN_DOUBT = (Outcome.MAYBE, Outcome.UNKNOWN)


class Ticket:
    """One job from delivery to reply. Exactly one outcome is published for it."""

    __slots__ = (
        "attempts_before", "deadline", "deadline_timer", "deaths", "delta_attempt", "deltas", "doubtful_calls",
        "ended", "fields", "flight", "held", "job", "key", "queued_ms", "received", "records", "redelivered",
        "ref", "repeat", "route", "seq", "size", "stored",
    )  # fmt: skip

    def __init__(self, accepted: Accepted, *, received: float) -> None:
        delivery = accepted.delivery
        self.job, self.route, self.key = accepted.job, accepted.route, accepted.key
        self.ref: EntryRef = delivery.ref
        self.fields = delivery.fields  # as they came, for a dead letter
        self.received = received  # monotonic seconds
        self.redelivered = delivery.redelivered
        self.size = accepted.size
        self.queued_ms = 0
        self.deaths = 0  # of processes, over this job
        self.doubtful_calls = 0  # of dead processes, that may have been billed for nothing
        self.records: tuple[AttemptRecord, ...] = ()  # its own attempts, once it has ended
        self.repeat = False  # a repeated id: it gets the outcome of another push, and pays nothing
        self.ended = False
        self.held: object = None  # of a large answer, until it is published
        self.stored = False  # its outcome lies in the ledger until it is published
        self.flight: Flight | None = None
        self.deadline: float | None = None  # monotonic seconds
        self.deadline_timer: asyncio.Future[None] | None = None
        # Of earlier owners of the entry: more than they can have streamed, so that clients tell their texts from ours.
        self.attempts_before = 0
        self.delta_attempt = self.deltas = self.seq = 0  # what was streamed to it so far

    def set_timer(
        self, clock: Clock, redis_now_ms: Callable[[], int], ring: Callable[[asyncio.Future[None]], None]
    ) -> bool:
        """Call `ring` at the job's deadline, if it has one; False when that has passed already."""
        if self.job.deadline_ms is None:
            return True
        left_s = (self.job.deadline_ms - redis_now_ms()) / 1000
        if left_s <= 0:
            return False
        self.deadline_timer = rung = asyncio.get_running_loop().create_future()
        rung.add_done_callback(ring)
        self.deadline = clock.monotonic() + left_s
        clock.call_at(self.deadline, rung)
        return True


class Flight:
    """One generation and the jobs that wait for it. `lead` is the one it runs for, and the one that pays."""

    __slots__ = (
        "aside", "asked_for", "asking", "attempt_number", "attempts", "awaited", "barred", "candidates", "cost_nano",
        "disowned", "doubtful", "flush",
        "gives_way", "held", "holding", "in_order", "key", "landing", "last_error", "lead", "line", "listed",
        "looked", "loose", "lost", "measured", "names", "passed", "place", "prior", "prompt_bounds", "queued_at",
        "records", "route", "scopes", "sent", "sent_attempt", "settled", "streamed", "targets", "task", "text",
        "tried", "tried_before", "waited_since_ms", "waiters", "wake", "withdrawn",
    )  # fmt: skip

    def __init__(self, key: str, lead: Ticket) -> None:
        self.key, self.route = key, lead.route
        self.lead = lead
        self.names = lead.route.names  # the models it may run on: the route's, or those of a detour
        self.in_order = False  # the first of them that can take calls is asked, not one by weight
        self.measured: tuple[str, ...] = ()  # the names whose windows it was held against
        self.candidates = self.names  # those that neither money nor a window forbids
        self.passed: frozenset[str] = frozenset()  # of these, whom it makes no sense to ask again
        self.targets = self.candidates  # the others: where the next attempt may go to
        self.line = lead.route.name  # where it waits for a slot: with flights of the same targets
        self.barred: dict[str, Barred] = {}  # the others
        self.aside: frozenset[str] = (
            frozenset()
        )  # candidates that only holds forbid, since it last waited for those
        self.waiters: list[Ticket] = []
        self.task: asyncio.Task[None] | None = None
        self.place = key  # among the flights of this process, whoever leads
        self.awaited: EntryRef | None = None  # the push of the same id, elsewhere, that we wait for
        self.wake: asyncio.Future[None] | None = None  # ends that wait, or the wait for another's call
        self.scopes: tuple[Scope, ...] = ()  # what its last call drew on
        self.holding = False  # the ledger's claim on the key is ours
        self.asked_for: Ticket | None = None  # whom the last question to the ledger was about
        self.asking = False  # the claim of its next call is on its way to the ledger, or its verdict back
        self.disowned: asyncio.Future[Landing | None] | None = None  # that claim's void, for who ends the job
        # Claims that nobody wants any more: each ends once it can cost nothing, and that is on record.
        self.loose: tuple[asyncio.Future[Any], ...] = ()
        self.gives_way = False  # it was parked, and is let go of for jobs that can run
        self.landing = False  # the outcome is being recorded: too late to withdraw
        self.looked = False  # the ledger was asked for answers already
        self.queued_at = 0.0  # monotonic seconds; since when it waits for a slot
        self.sent_attempt: int | None = None  # the attempt on record as sent, in this or an earlier round
        self.waited_since_ms: int | None = None  # since when we wait for another process's call
        self.lost = False  # its last entry is another process's by now
        self.withdrawn: Failed | None = None  # why the last job that waited left
        self.attempts: list[Attempt] = []  # of the lead's entry, those of earlier owners first
        self.prior: list[PriorAttempt] = []  # of these, the earlier owners'
        self.listed: set[int] = set()  # the ids of its attempts in the ledger
        self.records: list[AttemptRecord] = []  # the same attempts, for telemetry
        self.tried: list[Tried] = []
        self.tried_before = 0  # of these, how many before its present names
        self.last_error: UpstreamError | None = None  # of this round's attempts
        self.cost_nano = 0
        self.doubtful = False  # a call for the lead's entry may have been billed for nothing
        self.settled: Settled | None = None  # the last attempt's end, to be recorded with the outcome
        self.prompt_bounds: dict[str, int] = {}  # most prompt tokens by model, where counted beforehand
        self.attempt_number = 0  # grows through all rounds, so that deltas of an earlier one are told apart
        self.text: list[Word] = []  # streamed so far in this attempt
        self.sent = 0  # of these, how many were sent
        self.streamed = False  # the answer was, to the end
        self.held: object = None  # what its large answer takes of the process's room
        self.flush: asyncio.Future[None] | None = None  # rings when the next delta is due

    @property
    def tickets(self) -> list[Ticket]:
        return [self.lead, *self.waiters]

    def restart(self) -> None:
        """The next waiting job takes over: with attempts and costs of its own."""
        self._promote()
        self.key = flight_key(self.lead)
        self.names = self.candidates = self.targets = self.route.names
        self.line, self.barred, self.passed = self.route.name, {}, frozenset()
        self.aside = frozenset()
        self.in_order, self.measured, self.tried_before = False, (), 0
        self.attempts, self.prior, self.records, self.tried, self.listed = [], [], [], [], set()
        self.cost_nano, self.settled, self.last_error, self.doubtful = 0, None, None, False
        self.looked, self.landing, self.sent_attempt = False, False, None
        self.withdrawn, self.asking, self.disowned = None, False, None
        self.text, self.sent, self.streamed = [], 0, False

    def leave_loose(self, end: asyncio.Future[Any]) -> None:
        """The job must not be told what it cost before this."""
        self.loose = (*(one for one in self.loose if not one.done()), end)

    @property
    def is_told(self) -> bool:
        """Is what the ledger answered last about its lead? That may have left while the answer was on its way."""
        return self.asked_for is self.lead

    @property
    def under_way(self) -> bool:
        """Was one of its present candidates called already?"""
        return len(self.tried) > self.tried_before

    def divert(self, models: tuple[str, ...], *, in_order: bool) -> None:
        """From now on these are its candidates: the ones before refused the job for what it is."""
        self.names, self.in_order, self.tried_before = models, in_order, len(self.tried)
        self.passed = frozenset()
        self._narrow()

    def aim(self, models: tuple[str, ...]) -> None:
        """After a failure the next attempt goes to one of these, however long it has to wait for them."""
        self.passed = frozenset(self.candidates).difference(models)
        self._narrow()

    def bar(self, model: str, barred: Barred) -> None:
        """Money, or its context window, forbids this candidate, for as long as the flight is its lead's."""
        self.barred[model] = barred
        self._narrow()

    def yield_lead(self, first: Ticket) -> None:
        """The push that holds the lead's client id is here: the call is made for it, the lead repeats it."""
        if first in self.waiters:
            self.waiters.remove(first)
        self.lead.repeat, first.repeat = True, False
        self.waiters.insert(0, self.lead)
        self._forget_prior()
        self.lead, first.flight = first, self
        self.key = flight_key(first)

    def hand_over(self) -> frozenset[int]:
        """The lead has left: the next job that waits goes on with the call, under its own ceiling.

        Returns the attempts that it pays for from now on, though they are on record for the old lead's entry.
        """
        gone_on = frozenset(self.listed.difference(one.attempt_id for one in self.prior))
        self._forget_prior()
        self._change_lead()
        return gone_on

    def leave_behind(self) -> None:
        """As `hand_over`, but the calls that have ended are told with the old lead's entry, by whoever has that now."""
        self.attempts, self.prior, self.cost_nano, self.doubtful = [], [], 0, False
        self._change_lead()

    def _change_lead(self) -> None:
        self._promote()
        if self.barred:
            self.barred = {model: barred for model, barred in self.barred.items() if not barred.own}
            self._narrow()

    def list_prior(self, prior: Sequence[PriorAttempt]) -> None:
        """Calls that earlier owners of the lead's entry sent: in its reply they come first, and it pays for them."""
        for one in sorted(prior, key=lambda one: one.attempt_id):
            if one.is_call and one.attempt_id not in self.listed:
                self.listed.add(one.attempt_id)
                self.prior.append(one)
                self.attempts.append(earlier(one))
                self.cost_nano += one.cost_nano
                self.doubtful = self.doubtful or one.state in IN_DOUBT
                self.attempt_number += 1

    def _forget_prior(self) -> None:
        """They are the old lead's affair: its own reply tells of them."""
        for one in self.prior:
            self.attempts.remove(earlier(one))
            self.cost_nano -= one.cost_nano
        self.prior = []
        self.doubtful = self.doubtful and bool(self.attempts)

    def _promote(self) -> None:
        self.lead = self.waiters.pop(0)
        self.lead.repeat = False  # if it repeats an id, the id is its own from now on

    def _narrow(self) -> None:
        self.candidates = tuple(name for name in self.names if name not in self.barred)
        self.targets = tuple(name for name in self.candidates if name not in self.passed)
        # No configured name has a line break.
        whole = self.targets == self.route.names
        self.line = self.route.name if whole else "\n".join(("", *self.targets))


def flight_key(ticket: Ticket) -> str:
    """Jobs with one key share a call. `refresh` shares with `refresh` only, `off` with pushes of its own id.

    It must not depend on which of those leads: the call may go on for another of them, whose entry a peer may have by
    then, and who looks there whether it is made.
    """
    match ticket.job.cache:
        case "use":
            return ticket.key
        case "refresh":
            return f"{ticket.key}:refresh"
        case "off" if ticket.job.client_id is not None:
            return f"{ticket.key}:id:{ticket.job.client_id}"
        case "off":
            return f"{ticket.key}:{ticket.ref.stream}:{ticket.ref.entry_id}"
