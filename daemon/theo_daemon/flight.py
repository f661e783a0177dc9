"""A job being worked on (ticket), and the one generation that identical jobs share (flight)."""

from __future__ import annotations

import asyncio

from theo_daemon.catalogue import Route
from theo_daemon.job import EntryRef, Failed, Job
from theo_daemon.ledger.records import Settled, Verdict
from theo_daemon.retry import Tried
from theo_daemon.telemetry.records import AttemptRecord
from theo_workers.messages import Attempt


class Ticket:
    """One job from delivery to reply. Exactly one outcome is published for it."""

    __slots__ = (
        "check", "deadline_timer", "ended", "flight", "job", "key", "queued_ms", "received", "records",
        "redelivered", "repeat", "route", "seq", "size", "stored",
    )  # fmt: skip

    def __init__(
        self, job: Job, route: Route, key: str, *, received: float, redelivered: bool, size: int
    ) -> None:
        self.job, self.route, self.key = job, route, key
        self.received = received  # monotonic seconds
        self.redelivered = redelivered
        self.size = size
        self.queued_ms = 0
        self.records: tuple[AttemptRecord, ...] = ()  # its own attempts, once it has ended
        self.repeat = False  # a repeated id: it gets the outcome of another push, and pays nothing
        self.ended = False
        self.stored = False  # its outcome lies in the ledger until it is published
        self.flight: Flight | None = None
        self.check: asyncio.Future[Verdict | None] | None = None  # is its id free? asked when joining
        self.deadline_timer: asyncio.Future[None] | None = None
        self.seq = 0  # of its deltas

    @property
    def ref(self) -> EntryRef:
        return self.job.envelope.ref


class Flight:
    """One generation and the jobs that wait for it. `lead` is the one it runs for, and the one that pays."""

    __slots__ = (
        "attempts", "cost_nano", "holding", "key", "landing", "lead", "looked", "prompt_bounds", "records",
        "route", "sent_attempt", "settled", "task", "text", "tried", "waited_since_ms", "waiters", "withdrawn",
    )  # fmt: skip

    def __init__(self, key: str, lead: Ticket) -> None:
        self.key, self.route = key, lead.route
        self.lead = lead
        self.waiters: list[Ticket] = []
        self.task: asyncio.Task[None] | None = None
        self.holding = False  # the ledger's claim on the key is ours
        self.landing = False  # the outcome is being recorded: too late to withdraw
        self.sent_attempt: int | None = None  # the attempt on record as sent, in this or an earlier round
        self.looked = False  # the ledger was asked for answers already
        self.waited_since_ms: int | None = None  # since when we wait for another process's call
        self.withdrawn: Failed | None = None  # why the last job that waited left
        self.attempts: list[Attempt] = []
        self.records: list[AttemptRecord] = []  # the same attempts, for telemetry
        self.tried: list[Tried] = []
        self.cost_nano = 0
        self.settled: Settled | None = None  # the last attempt's end, to be recorded with the outcome
        self.prompt_bounds: dict[str, int] = {}  # most prompt tokens by model, where counted beforehand
        self.text: list[str] = []  # streamed so far in this attempt

    @property
    def tickets(self) -> list[Ticket]:
        return [self.lead, *self.waiters]

    def restart(self, lead: Ticket) -> None:
        """The next waiting job takes over: with attempts and costs of its own."""
        self.lead = lead
        self.attempts, self.records, self.tried = [], [], []
        self.cost_nano, self.settled = 0, None
        self.looked, self.landing, self.sent_attempt = False, False, None
        self.text = []
