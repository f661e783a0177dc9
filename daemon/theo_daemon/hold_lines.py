"""Where flights wait for calls in flight to give back what they hold of a budget.

Of those that one budget keeps waiting, one at a time asks the ledger again: a thousand that ask ten times a second
would leave it no time for anything else, and be refused. When one gets through the next may try, so whatever room there
is is used as fast as claims are granted. Other processes see it only when they try, so a process that has taken room
several times in a row leaves them a moment for that: else whoever was first would have it all.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from theo_daemon.ceilings import hold_wait_s
from theo_daemon.flight import Flight
from theo_daemon.ledger.records import Scope
from theo_workers.clock import Clock

IN_A_ROW = 3  # rooms taken before peers get their turn; with 5 one of two got 9 of 34 calls on a busy machine
TURN_OF_PEERS_S = hold_wait_s(1.0)  # each that waits has tried by then
TRY_S = 1.0  # who has not come through by then, for want of a slot or a model, keeps nobody else from trying

Row = tuple[str, int]  # a scope's name and its window


class _Line:
    """Those that one budget keeps waiting, and the one of them that tries now."""

    __slots__ = ("taken", "timer", "trying", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[tuple[Flight, asyncio.Future[None]]] = deque()
        self.trying: Flight | None = None
        self.timer: asyncio.Future[None] | None = None
        self.taken = 0  # rooms in a row


class HoldLines:
    """Of one process. What other processes give back is noticed by trying now and then.

    `peers`: how many other processes there are, as far as is known.
    """

    def __init__(self, clock: Clock, rng: random.Random, *, peers: Callable[[], int]) -> None:
        self._clock, self._rng, self._peers = clock, rng, peers
        self._lines: dict[Row, _Line] = {}
        self._trying: dict[Flight, Row] = {}

    async def wait(self, flight: Flight, scope: Scope) -> None:
        """Until this flight may try again. Who has tried in vain stays first. Cancel it freely."""
        row = (scope.name, scope.window_start_ms)
        line = self._lines.setdefault(row, _Line())
        place = (flight, asyncio.get_running_loop().create_future())
        if self._trying.get(flight) == row:
            line.waiting.appendleft(place)
            self._stop_trying(flight)
        else:
            self.over(flight)
            line.waiting.append(place)
        if line.trying is None and line.timer is None:
            self._set_timer(row, line, hold_wait_s(self._rng.random()))
        try:
            await place[1]
        except asyncio.CancelledError:
            if place in line.waiting:
                line.waiting.remove(place)
                self._tidy(row, line)
            else:
                self.over(flight)
            raise

    def waiting(self) -> Iterator[Flight]:
        """Everybody who stands in a line."""
        return (flight for line in self._lines.values() for flight, _ in line.waiting)

    def over(self, flight: Flight) -> None:
        """This flight got through, or has ended: if it was its turn to try, the next may."""
        row = self._trying.get(flight)
        if row is not None:
            self._stop_trying(flight)
            line = self._lines[row]
            line.taken += 1
            self._go_on(row, line)

    def freed(self, scopes: Iterable[Scope]) -> None:
        """A call of this process has given back what it held of these."""
        if not self._lines:
            return
        for scope in scopes:
            row = (scope.name, scope.window_start_ms)
            line = self._lines.get(row)
            if line is not None and line.trying is None:
                self._go_on(row, line)

    def _go_on(self, row: Row, line: _Line) -> None:
        """There may be room: for the next here, or it is the turn of peers."""
        if line.taken < IN_A_ROW or not line.waiting or not self._peers():
            self._let_go(row, line)
        elif line.timer is None:
            self._set_timer(row, line, TURN_OF_PEERS_S)

    def _let_go(self, row: Row, line: _Line) -> None:
        """Let the first one try."""
        if line.timer is not None:
            line.timer.cancel()
            line.timer = None
        while line.waiting:
            flight, may_try = line.waiting.popleft()
            if may_try.done():
                continue  # it is about to leave
            line.trying = flight
            self._trying[flight] = row
            may_try.set_result(None)
            self._set_timer(row, line, TRY_S)
            return
        self._tidy(row, line)

    def _stop_trying(self, flight: Flight) -> None:
        line = self._lines[self._trying.pop(flight)]
        if line.trying is flight:
            line.trying = None
            if line.timer is not None:
                line.timer.cancel()
                line.timer = None

    def _set_timer(self, row: Row, line: _Line, seconds: float) -> None:
        rung: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.timer = rung
        rung.add_done_callback(lambda _: None if rung.cancelled() else self._rang(row, line))
        self._clock.call_at(self._clock.monotonic() + seconds, rung)

    def _rang(self, row: Row, line: _Line) -> None:
        line.timer, line.taken = None, 0
        self._let_go(row, line)

    def _tidy(self, row: Row, line: _Line) -> None:
        """Forget a line in which nobody stands or tries any more."""
        if not line.waiting and row not in self._trying.values():
            if line.timer is not None:
                line.timer.cancel()
            self._lines.pop(row, None)
