"""Where flights wait for a free slot, in fair order; those whose models are all unavailable are parked.

A job that most of the deaths it may have are on record for runs alone: while nothing else of this process runs. If
the process dies once more then, no other job can have done it, and none of those that ran beside it before is blamed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from theo_daemon.bookings import Started
from theo_daemon.config import RoutingConfig
from theo_daemon.fair_queue import FairQueue
from theo_daemon.fleet import Fleet
from theo_daemon.flight import Flight
from theo_daemon.ledger.records import Busy, Conflict, Hit, IdBusy, Replay, Verdict
from theo_workers.clock import Clock
from theo_workers.errors import NoModelAvailable

LOOK_AFTER_S = 2.0  # a job that waits for so long may have been answered elsewhere; its claim looks anyway
SWEEP_S = 0.25

Start = Callable[[Flight, Sequence[str]], Started | None]
Look = Callable[[Flight], "asyncio.Future[Verdict | None]"]


Kind = tuple[str, str, str]
"""A job's lane, tenant and route."""


def kind_of(flight: Flight) -> Kind:
    """Of its lead."""
    job = flight.lead.job
    return job.lane, job.tenant, flight.route.name


class Found(Exception):
    """The ledger knows something of a job that still waited for its turn."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict


class TurnQueue:
    """Starts flights as slots free up."""

    def __init__(
        self,
        queue: FairQueue[Flight],
        *,
        start: Start,
        look: Look,
        fleet: Fleet,
        routing: RoutingConfig,
        clock: Clock,
        alone_from: int,
    ) -> None:
        """`look` asks the ledger about a flight that waits, which keeps its place in the line meanwhile.

        A job runs alone that so many processes have died over.
        """
        self._queue, self._start, self._look, self._fleet = queue, start, look, fleet
        self._routing, self._clock = routing, clock
        self._turns: dict[Flight, asyncio.Future[Started]] = {}
        self._lines: dict[str, tuple[str, ...]] = {}  # the models that each line waits for
        self._kinds: dict[Kind, int] = {}  # how many of each wait; kept, since it is asked for often
        self._parked: dict[Flight, None] = {}  # in the order in which they were
        self._sweep: asyncio.Future[None] | None = None
        self._alone_from = alone_from
        self._alone: Flight | None = None  # it runs alone, or waits until the others have ended
        self._flying = 0  # flights whose turn it is

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def flying(self) -> int:
        """Flights whose turn it is."""
        return self._flying

    def parked(self) -> list[Flight]:
        """Those whose models take no calls, the latest first."""
        return list(reversed(self._parked))

    def waiting_kinds(self) -> dict[Kind, int]:
        """How many wait for a slot, or are parked."""
        return dict(self._kinds)

    async def turn(self, flight: Flight) -> Started:
        """Wait for a slot and start there; `over` must be called when what was started has ended.

        Raises NoModelAvailable when waiting is of no use any more, Found when there is nothing left to call for.
        """
        models = flight.targets
        if not self._turns and self._alone is None and flight.lead.deaths < self._alone_from:
            started = self._start(flight, models)
            if started is not None:
                self._flying += 1
                return started
        future: asyncio.Future[Started] = asyncio.get_running_loop().create_future()
        self._turns[flight] = future
        kind = kind_of(flight)
        self._kinds[kind] = self._kinds.get(kind, 0) + 1
        flight.queued_at = self._clock.monotonic()
        self._stand_in_line(flight)
        if self._fleet.has_slot(models):
            self.pump()
        elif not self._fleet.any_available(models):
            self._park(flight)
        self._watch()
        try:
            return await future
        except asyncio.CancelledError:
            if _started(future):
                future.result().result.cancel()  # it started at the very moment when it was given up
                self.over(flight)
            raise
        finally:
            self._queue.discard(flight)
            self._parked.pop(flight, None)
            del self._turns[flight]
            self._kinds[kind] -= 1
            if not self._kinds[kind]:
                del self._kinds[kind]
            if self._alone is flight and not _started(future):
                self._alone = None  # given up while it waited for the others to end
                self.pump()

    def realign(self, flight: Flight) -> None:
        """Another job leads it, and may run on other models: if it waits, it goes to the end of their line."""
        if flight in self._turns and flight in self._queue:
            self._queue.discard(flight)
            self._stand_in_line(flight)
            self.pump()

    def over(self, flight: Flight) -> None:
        """What the flight's turn started has ended."""
        self._flying -= 1
        if self._alone is not None:
            if self._alone is flight:
                self._alone = None
            self.pump()

    def pump(self) -> None:
        """Start whoever is next while there are slots."""
        if self._alone is not None and not self._start_alone(self._alone):
            return
        while (flight := self._queue.pop(self._startable)) is not None:
            future = self._turns[flight]
            if future.done():
                continue  # given up, and about to leave the line
            if flight.lead.deaths >= self._alone_from:
                self._alone = flight
                self._start_alone(flight)
                return
            if not self._start_one(flight, future):
                return
        for line in self._queue.routes():
            if not self._fleet.any_available(self._lines[line]):
                for parked in self._queue.waiting_on(line):
                    self._park(parked)

    def _start_one(self, flight: Flight, future: asyncio.Future[Started]) -> bool:
        started = self._start(flight, flight.targets)
        if started is None:  # the slot went between the look and the call; the line is kept
            self._stand_in_line(flight)
            return False
        self._flying += 1
        future.set_result(started)
        return True

    def _start_alone(self, flight: Flight) -> bool:
        """Start it unless others still run. True: it cannot start now, and stands in line again."""
        future = self._turns.get(flight)
        if future is None or future.done() or self._flying or self._start_one(flight, future):
            return False
        self._alone = None
        return True

    def _stand_in_line(self, flight: Flight) -> None:
        job = flight.lead.job
        self._lines[flight.line] = flight.targets
        self._queue.push(flight, lane=job.lane, route=flight.line, tenant=job.tenant)

    def _startable(self, line: str) -> bool:
        return self._fleet.has_slot(self._lines[line])

    # -- looking while waiting -----------------------------------------------------------------------

    def _watch(self) -> None:
        """While somebody waits, look from time to time whether the ledger can answer those who wait long."""
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().create_future()
            self._sweep.add_done_callback(self._swept)
            self._clock.call_at(self._clock.monotonic() + SWEEP_S, self._sweep)

    def _swept(self, _rung: asyncio.Future[None]) -> None:
        self._sweep = None
        long_ago = self._clock.monotonic() - LOOK_AFTER_S
        for flight in self._turns:
            if not flight.looked and flight.queued_at <= long_ago:
                self._look_for(flight)
        if self._turns:
            self._watch()

    def _look_for(self, flight: Flight) -> None:
        flight.looked = True
        self._look(flight).add_done_callback(partial(self._saw, flight))

    def _saw(self, flight: Flight, look: asyncio.Future[Verdict | None]) -> None:
        future = self._turns.get(flight)
        if future is None or future.done() or look.cancelled():
            return
        verdict = look.result()
        if isinstance(verdict, Hit | Replay | Conflict | Busy | IdBusy):
            future.set_exception(Found(verdict))
        elif not self._fleet.any_available(flight.targets):
            self._park(flight)

    # -- parking -------------------------------------------------------------------------------------

    def _park(self, flight: Flight) -> None:
        """No model of its route takes calls: it waits no longer than the configuration allows."""
        future = self._turns[flight]
        if flight in self._parked or future.done():
            return
        models = flight.targets
        if not flight.looked:
            self._look_for(flight)  # an answer on record needs no model; without one we come back here
            return
        if self._routing.when_unavailable == "fail" or not self._fleet.may_recover(models):
            future.set_exception(self._unavailable(models))
            return
        self._parked[flight] = None
        self._wait(flight, self._routing.max_wait_s)

    def _wait(self, flight: Flight, seconds: float) -> None:
        rung: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        rung.add_done_callback(lambda _: self._waited(flight))
        self._clock.call_at(self._clock.monotonic() + seconds, rung)

    def _waited(self, flight: Flight) -> None:
        """The longest wait is over: the job fails, unless a model came back and is only busy.

        One that has answered others since, and is out again just now, was back: the wait counts from its answer.
        """
        future = self._turns.get(flight)
        self._parked.pop(flight, None)
        if future is None or future.done() or self._fleet.any_available(flight.targets):
            return
        left_s = self._routing.max_wait_s - self._fleet.silent_s(flight.targets)
        if left_s > 0:
            self._parked[flight] = None
            self._wait(flight, left_s)
        else:
            future.set_exception(self._unavailable(flight.targets))

    def _unavailable(self, models: Sequence[str]) -> NoModelAvailable:
        names, reopens = ", ".join(models), self._fleet.reopens_at(models)
        if reopens is None:
            return NoModelAvailable(f"no model can be tried ({names}); `theo-router status` shows why")
        wait_s = max(0.0, reopens - self._clock.monotonic())
        return NoModelAvailable(
            f"no model can be tried now ({names}); the first is tried again in {wait_s:.1f}s",
            retry_after_s=wait_s,
        )


def _started(future: asyncio.Future[Started]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None
