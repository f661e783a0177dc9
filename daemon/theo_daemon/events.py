"""Writes `P:events`: bounded, in batches, never in anybody's way."""

from __future__ import annotations

import asyncio
import json
import random
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any

from redis.exceptions import RedisError

from theo_daemon.backoff import delay_s
from theo_daemon.event_names import EVENTS
from theo_daemon.keys import Keys
from theo_daemon.wire import Wire, Word
from theo_workers.clock import Clock, sleep

QUEUE_LENGTH = 1_000
BATCH = 100


class StreamEvents:
    """Implements `ports.Events`. When Redis is away the newest are kept and the others counted."""

    def __init__(
        self,
        *,
        wire: Wire,
        keys: Keys,
        max_len: int = 10_000,
        now_ms: Callable[[], int],
        clock: Clock,
        rng: random.Random,
        log: Callable[..., None] | None = None,
    ) -> None:
        """`log(event, **fields)` gets each event at once, whatever becomes of Redis."""
        self._wire, self._key, self._max_len = wire, keys.events, max_len
        self._now_ms, self._clock, self._rng, self._log = now_ms, clock, rng, log
        self._queue: deque[list[Word]] = deque()
        self._dropped = 0
        self._work = asyncio.Event()
        self._stopping = False

    def emit(self, event: str, /, *, model: str | None = None, **details: Any) -> None:
        """Publish one event. Raises ValueError for a name that `event_names` does not have."""
        if event not in EVENTS:
            raise ValueError(f"{event!r} is not a documented event")
        if model is not None:
            details = {"model": model, **details}
        if self._log is not None:
            self._log(event, **details)
        fields: list[Word] = ["event", event, "at_ms", self._now_ms()]
        for name, value in details.items():
            if value is not None:
                fields += (name, _text(value))
        if len(self._queue) >= QUEUE_LENGTH:
            self._queue.popleft()
            self._dropped += 1
        self._queue.append(fields)
        self._work.set()

    async def run(self) -> None:
        """Write until `stop` was called and nothing is left, or Redis is away then."""
        failures = 0
        while self._queue or not self._stopping:
            if not self._queue:
                self._work.clear()
                await self._work.wait()
                continue
            batch = list(islice(self._queue, BATCH))
            # Taken out before they are sent: an event that may have been written is not written twice.
            for _ in batch:
                self._queue.popleft()
            try:
                await self._wire.ask_all(
                    [("XADD", self._key, "MAXLEN", "~", self._max_len, "*", *fields) for fields in batch]
                )
            except RedisError:
                failures += 1
                self._dropped += len(batch)
                if self._stopping:
                    return
                await sleep(self._clock, delay_s(failures, self._rng.random()))
                continue
            failures = 0
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                self.emit("events_dropped", count=dropped)

    def stop(self) -> None:
        """Let `run` return as soon as the queue is written."""
        self._stopping = True
        self._work.set()


def _text(value: object) -> str:
    """Details as text: JSON where there is structure, `1` and `0` for truth as everywhere in the contract."""
    match value:
        case str():
            return value.encode("utf-8", "replace").decode()
        case bool():
            return "1" if value else "0"
        case dict() | list() | tuple():
            return json.dumps(value, ensure_ascii=False)
        case _:
            return str(value)
