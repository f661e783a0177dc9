"""Ends calls that take too long, with one armed timer for all of them."""

from __future__ import annotations

import asyncio
import math
from enum import StrEnum
from typing import NamedTuple

from theo_workers.clock import Clock

# An alarm that rings so late tells that the whole process stood still. Answers that came meanwhile have not been read:
# the event loop looks at timers first. They were paid for, so nothing is given up before it has looked at sockets, too.
STOOD_STILL_S, READ_WITHIN_S = 0.1, 0.02


class Phase(StrEnum):
    """What a call is waiting for."""

    CONNECT = "connect"
    FIRST_BYTE = "first_byte"
    BODY = "body"
    DRAIN = "drain"  # the answer is whole; only the end of the connection's turn is missing


class Floor(NamedTuple):
    """The least that must come: `size` bytes in `seconds`. A body that drips holds a slot as a hanging one does."""

    size: int
    seconds: float


class Watch:
    """One call under watch: its task is cancelled once `due` has come, and `fired` is then True."""

    __slots__ = ("deadline", "due", "fired", "floor_at", "owed", "phase", "task")

    def __init__(self, task: asyncio.Task[object], due: float, deadline: float) -> None:
        self.task, self.due, self.deadline = task, due, deadline
        self.phase = Phase.CONNECT
        self.fired = False
        self.floor_at, self.owed = math.inf, 0  # until when how many bytes must have come


class Watchdog:
    """Cancels the tasks of overdue calls, by the injected clock.

    A timer per call costs more than the rest of its bookkeeping, and nearly none of them ever rings. So one
    alarm is kept at or before the earliest `due`; it is armed anew only when a call is due before it, or
    when it rings.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._watches: set[Watch] = set()
        self._alarm_at = math.inf
        self._alarm: asyncio.Future[None] | None = None
        self._handle: asyncio.TimerHandle | None = None

    def start(self, task: asyncio.Task[object], wait_s: float, *, deadline: float) -> Watch:
        """Watch `task` until `stop`: its first phase may last `wait_s`, all of them until `deadline`."""
        due = min(self._clock.monotonic() + wait_s, deadline)
        watch = Watch(task, due, deadline)
        self._watches.add(watch)
        if due < self._alarm_at:
            self._arm(due, task.get_loop())
        return watch

    def move(self, watch: Watch, phase: Phase, wait_s: float) -> None:
        """The call has come to `phase`, which may last `wait_s` from now."""
        due = min(self._clock.monotonic() + wait_s, watch.deadline)
        watch.phase, watch.due = phase, due
        if due < self._alarm_at:
            self._arm(due, watch.task.get_loop())

    def receive(self, watch: Watch, size: int, wait_s: float, floor: Floor | None) -> None:
        """`size` bytes of the body have come. `floor` holds while something has begun that is not whole."""
        now = self._clock.monotonic()
        watch.owed -= size
        if floor is None:
            watch.floor_at, watch.owed = math.inf, 0
        elif watch.owed <= 0 or watch.floor_at == math.inf:
            watch.floor_at, watch.owed = now + floor.seconds, floor.size
        due = min(now + wait_s, watch.deadline, watch.floor_at)
        watch.phase, watch.due = Phase.BODY, due
        if due < self._alarm_at:
            self._arm(due, watch.task.get_loop())

    def stop(self, watch: Watch) -> None:
        """The call is over."""
        self._watches.discard(watch)

    def close(self) -> None:
        """Forget the alarm. Idempotent."""
        if self._handle is not None:
            self._handle.cancel()
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._handle = None
        self._alarm_at = math.inf

    def _arm(self, at: float, loop: asyncio.AbstractEventLoop) -> None:
        self.close()
        self._alarm_at = at
        self._alarm = loop.create_future()
        self._alarm.add_done_callback(self._ring)
        self._handle = self._clock.call_at(at, self._alarm)

    def _ring(self, alarm: asyncio.Future[None]) -> None:
        if alarm is not self._alarm:
            return  # replaced by an earlier one meanwhile
        set_for, now = self._alarm_at, self._clock.monotonic()
        self._alarm = self._handle = None
        self._alarm_at = math.inf
        if now > set_for + STOOD_STILL_S:
            self._arm(now + READ_WITHIN_S, alarm.get_loop())
            return
        for watch in [watch for watch in self._watches if watch.due <= now]:
            self._watches.discard(watch)
            watch.fired = True
            watch.task.cancel()
        if self._watches:
            self._arm(min(watch.due for watch in self._watches), alarm.get_loop())
