"""One thread, many processes, no waiting: an event loop with virtual time, whose order is drawn from a seed.

What really runs side by side is a `Strand` here: a process's event loop, or a thread of it. The callbacks of one strand
run in the order in which they were scheduled, as asyncio promises; which strand goes on, and for how many callbacks, is
drawn. Time stands still while any strand can run, and then jumps to the next timer.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from functools import partial
from typing import Any

NEVER = 1 << 62
SLICE = 8  # callbacks at most before another strand may have a turn
MOST_AT_ONCE = 200_000  # callbacks without time moving on: something goes round in circles

_strand: ContextVar[Strand] = ContextVar("strand")


class Strand:
    """Whatever the kernel schedules, stops and kills as one."""

    __slots__ = ("context", "dead", "frozen", "fuse", "listed", "on_fuse", "owner", "ready", "tasks")

    def __init__(self, owner: Any) -> None:
        self.owner = owner  # the simulated process that it belongs to
        self.ready: deque[Callback] = deque()
        self.frozen = self.dead = False
        self.listed = False  # among those that can run
        self.fuse = NEVER  # after so many callbacks `on_fuse` is called: between two of them, so at any await
        self.on_fuse: Callable[[], None] = _nothing
        self.tasks: list[asyncio.Task[Any]] = []
        self.context = copy_context()
        self.context.run(_strand.set, self)


def this_process() -> Any:
    """The owner of the strand that runs just now."""
    return _strand.get().owner


class Callback:
    """What asyncio calls a Handle, and a TimerHandle."""

    __slots__ = ("_when", "args", "call", "context", "gone")
    _when: float  # of those that are called at a moment

    def __init__(self, call: Callable[..., object], args: tuple[Any, ...], context: Context) -> None:
        self.call, self.args, self.context = call, args, context
        self.gone = False

    def cancel(self) -> None:
        self.gone = True

    def cancelled(self) -> bool:
        return self.gone

    def when(self) -> float:
        return self._when


class SimLoop(asyncio.AbstractEventLoop):
    """`now` is the monotonic second of the world. `bugs` are exceptions that nobody caught."""

    def __init__(self, rng: random.Random) -> None:
        self.now = 1_000.0
        self.bugs: list[BaseException | str] = []
        self.tasks = 0  # so far
        self.create_future: Callable[[], asyncio.Future[Any]] = partial(asyncio.Future, loop=self)  # type: ignore[method-assign]
        self._random = rng.random
        self._runnable: list[Strand] = []
        self._timers: list[tuple[float, int, Any]] = []
        self._set = 0  # timers so far: equal moments keep their order
        self._stopped = False

    # -- what asyncio asks of a loop -----------------------------------------------------------------

    def time(self) -> float:
        return self.now

    get_debug = bool  # False; asked for every future, so no function of Python

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def create_task(
        self, work: Coroutine[Any, Any, Any], *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[Any]:  # type: ignore[override]
        task = SimTask(work, loop=self, name=name, context=context)
        strand = _strand.get(None)
        if strand is not None:
            strand.tasks.append(task)
        return task

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Callback:  # type: ignore[override]
        if context is None:
            context = copy_context()
        entry = Callback(callback, args, context)
        strand = context[_strand]
        if (
            not strand.dead
        ):  # as `_make_ready` does, which costs a call: half of all that a world does goes by here
            strand.ready.append(entry)
            if not strand.listed:
                self._list(strand)
        return entry

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Callback:  # type: ignore[override]
        entry = Callback(callback, args, copy_context() if context is None else context)
        entry._when = when
        self.ring_at(when, entry)
        return entry

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Callback:  # type: ignore[override]
        return self.call_at(self.now + delay, callback, *args, context=context)

    def run_in_executor(self, _executor: Any, work: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """At once, but told later: a thread that takes no time to speak of."""
        future, result = self.create_future(), work(*args)
        self.call_later(0.001, lambda: None if future.done() else future.set_result(result))
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.bugs.append(context.get("exception") or str(context.get("message")))

    # -- the world ------------------------------------------------------------------------------------

    def ring_at(self, when: float, what: Callback | asyncio.Future[None]) -> None:
        """Schedule a callback, or resolve a future, at that second."""
        self._set += 1
        heapq.heappush(self._timers, (when, self._set, what))

    def at(self, when: float, act: Callable[..., object], *args: Any) -> None:
        """The world itself does something at that second."""
        self._set += 1
        heapq.heappush(self._timers, (when, self._set, (act, args)))

    def on(self, strand: Strand, act: Callable[..., object], *args: Any) -> None:
        """Have `strand` do something next, as if it had scheduled it itself."""
        self._make_ready(strand, Callback(act, args, strand.context.copy()))

    def stop(self) -> None:
        self._stopped = True

    def freeze(self, strand: Strand) -> None:
        """It does not run while time goes on (SIGSTOP)."""
        strand.frozen = True
        self._unlist(strand)

    def thaw(self, strand: Strand) -> None:
        strand.frozen = False
        if strand.ready:
            self._list(strand)

    def kill(self, strand: Strand) -> None:
        """It never runs again; its coroutines stay where they are for ever."""
        strand.dead = True
        strand.ready.clear()
        self._unlist(strand)

    def run(self) -> None:
        """Until `stop`, or until nothing is left to happen."""
        random_, runnable, timers, pop = self._random, self._runnable, self._timers, heapq.heappop
        asyncio._set_running_loop(self)
        at_once = 0
        try:
            while not self._stopped:
                if runnable:
                    at_once += self._run_some(runnable[int(random_() * len(runnable))])
                    if at_once > MOST_AT_ONCE:
                        raise AssertionError(f"somebody goes round in circles at {self.now:.3f}")
                elif timers:
                    when, _, what = pop(timers)
                    if when > self.now:
                        self.now, at_once = when, 0
                    if type(what) is tuple:
                        what[0](*what[1])
                    elif type(what) is Callback:
                        if not what.gone:
                            self._make_ready(what.context[_strand], what)
                    elif not what.done():
                        what.set_result(None)
                else:
                    return
        finally:
            asyncio._set_running_loop(None)

    def _run_some(self, strand: Strand) -> int:
        """A turn for `strand`; the number of its callbacks."""
        ready = strand.ready
        count = min(len(ready), 1 + int(self._random() * SLICE), strand.fuse)
        for _ in range(count):
            if not ready or strand.frozen:
                break
            entry = ready.popleft()
            if not entry.gone:
                try:
                    entry.context.run(entry.call, *entry.args)
                except Exception as bug:  # noqa: BLE001 - as an event loop does
                    self.bugs.append(bug)
        if not ready:
            self._unlist(strand)
        if strand.fuse is not NEVER:
            strand.fuse -= count
            if strand.fuse <= 0:
                strand.fuse = NEVER
                strand.on_fuse()
        return count

    def _make_ready(self, strand: Strand, entry: Callback) -> None:
        if strand.dead:
            return
        strand.ready.append(entry)
        if not strand.listed:
            self._list(strand)

    def _list(self, strand: Strand) -> None:
        if not strand.listed and not strand.frozen and not strand.dead:
            strand.listed = True
            self._runnable.append(strand)

    def _unlist(self, strand: Strand) -> None:
        if strand.listed:
            strand.listed = False
            self._runnable.remove(strand)


class SimTask(asyncio.Task[Any]):
    """Its hash is its number, so that a set of tasks has the same order in every run."""

    def __init__(self, work: Coroutine[Any, Any, Any], *, loop: SimLoop, **options: Any) -> None:
        loop.tasks += 1
        self._number = loop.tasks
        super().__init__(work, loop=loop, **options)

    def __hash__(self) -> int:
        return self._number

    __eq__ = object.__eq__


def _nothing() -> None:
    """Stands in until somebody sets `on_fuse`."""
