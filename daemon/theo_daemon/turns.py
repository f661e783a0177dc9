"""Where flights wait for a free slot, in fair order; those whose models are all unavailable are parked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from theo_daemon.attempts import Started
from theo_daemon.catalogue import Route
from theo_daemon.config import RoutingConfig
from theo_daemon.fair_queue import FairQueue
from theo_daemon.fleet import Fleet
from theo_daemon.flight import Flight
from theo_workers.clock import Clock
from theo_workers.errors import NoModelAvailable

Start = Callable[[Flight, Sequence[str]], Started | None]


class TurnQueue:
    """Starts flights as slots free up."""

    def __init__(
        self, queue: FairQueue[Flight], *, start: Start, fleet: Fleet, routing: RoutingConfig, clock: Clock
    ) -> None:
        self._queue, self._start, self._fleet = queue, start, fleet
        self._routing, self._clock = routing, clock
        self._turns: dict[Flight, asyncio.Future[Started]] = {}
        self._routes: dict[str, Route] = {}
        self._parked: set[Flight] = set()

    def __len__(self) -> int:
        return len(self._queue)

    async def turn(self, flight: Flight) -> Started:
        """Wait for a slot and start there. Raises NoModelAvailable when waiting is of no use any more."""
        job = flight.lead.job
        future: asyncio.Future[Started] = asyncio.get_running_loop().create_future()
        self._turns[flight] = future
        self._routes[flight.route.name] = flight.route
        self._queue.push(flight, lane=job.lane, route=flight.route.name, tenant=job.tenant)
        self.pump()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                future.result().result.cancel()  # it started at the very moment when it was given up
            raise
        finally:
            self._queue.discard(flight)
            self._parked.discard(flight)
            del self._turns[flight]

    def pump(self) -> None:
        """Start whoever is next while there are slots."""
        while (flight := self._queue.pop(self._startable)) is not None:
            started = self._start(flight, _names(flight.route))
            if started is None:  # the slot went between the look and the call; the line is kept
                job = flight.lead.job
                self._queue.push(flight, lane=job.lane, route=flight.route.name, tenant=job.tenant)
                return
            self._turns[flight].set_result(started)
        for route in self._queue.routes():
            if not self._fleet.available(_names(self._routes[route])):
                for parked in self._queue.waiting_on(route):
                    self._park(parked)

    def _startable(self, route: str) -> bool:
        return self._fleet.has_slot(self._routes[route])

    # -- parking -------------------------------------------------------------------------------------

    def _park(self, flight: Flight) -> None:
        """No model of its route takes calls: it waits no longer than the configuration allows."""
        future = self._turns[flight]
        if flight in self._parked or future.done():
            return
        models = _names(flight.route)
        if self._routing.when_unavailable == "fail" or not self._fleet.may_recover(models):
            future.set_exception(self._unavailable(models))
            return
        self._parked.add(flight)
        rung: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        rung.add_done_callback(lambda _: self._waited(flight))
        self._clock.call_at(self._clock.monotonic() + self._routing.max_wait_s, rung)

    def _waited(self, flight: Flight) -> None:
        """The longest wait is over: the job fails, unless a model came back and is only busy."""
        future = self._turns.get(flight)
        self._parked.discard(flight)
        if future is not None and not future.done() and not self._fleet.available(_names(flight.route)):
            future.set_exception(self._unavailable(_names(flight.route)))

    def _unavailable(self, models: Sequence[str]) -> NoModelAvailable:
        names, reopens = ", ".join(models), self._fleet.reopens_at(models)
        if reopens is None:
            return NoModelAvailable(f"no model can be tried ({names}); `theo-router status` shows why")
        wait_s = max(0.0, reopens - self._clock.monotonic())
        return NoModelAvailable(
            f"no model can be tried now ({names}); the first is tried again in {wait_s:.1f}s",
            retry_after_s=wait_s,
        )


def _names(route: Route) -> list[str]:
    return [one.name for one in route.candidates]
