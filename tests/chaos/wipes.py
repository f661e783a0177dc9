"""Takes away all that Redis holds, and writes down what that was: to the last entry, as it happens at one moment."""

from __future__ import annotations

import shutil
import time
from typing import Any

from tests.chaos.records import Wipe
from tests.chaos.traffic import AGE, JOBS, REPLY_STREAMS, Driver, Entries, Reader, client, until_answered
from theo_daemon.embedded_valkey import EmbeddedValkey

# Others wait for so long after a FLUSHALL: an id that is made of the time is not given twice.
FLUSH_PAUSE_MS = 5
LOSS_PAUSE_MS = 60_000  # nothing is written between the last look and the SIGKILL


class Wiper:
    """Empties Redis under a driver and a reader."""

    def __init__(self, url: str, driver: Driver, reader: Reader) -> None:
        self._redis, self._driver, self._reader = client(url), driver, reader
        self._wipes = 0

    def flush(self) -> Wipe:
        """FLUSHALL. Raises redis.ConnectionError if the server is away."""
        return self._wipe("flushed", FLUSH_PAUSE_MS, flush=True)

    def lose(self, server: EmbeddedValkey) -> Wipe:
        """SIGKILL, and its data are gone; the caller starts the server again."""
        wipe = self._wipe("lost", LOSS_PAUSE_MS, flush=False)
        server.kill()
        shutil.rmtree(server.data_dir / "appendonlydir")
        return wipe

    def count_age(self) -> None:
        """To be called before anything is pushed to a server that came back with nothing."""
        until_answered(lambda: self._redis.set(AGE, self._wipes))

    def _wipe(self, how: str, pause_ms: int, *, flush: bool) -> Wipe:
        self._wipes += 1
        held: list[Any] = []

        def wipe(last: dict[str, str]) -> dict[str, Entries]:
            with self._redis.pipeline(transaction=True) as pipe:
                for stream in JOBS:
                    pipe.xrange(stream)
                for stream in REPLY_STREAMS:
                    pipe.xrange(stream, min=f"({last[stream]}")
                pipe.execute_command("CLIENT", "PAUSE", pause_ms, "ALL")
                if flush:
                    pipe.flushall()
                    pipe.set(AGE, self._wipes)
                found = pipe.execute()
            held.extend((stream, entry) for stream, its in zip(JOBS, found, strict=False) for entry, _ in its)
            return dict(zip(REPLY_STREAMS, found[len(JOBS) :], strict=False))

        self._reader.wipe(wipe)
        entries = frozenset(held)
        self._driver.unanswered.difference_update(entries)
        return Wipe(at=time.monotonic(), how=how, held=entries)
