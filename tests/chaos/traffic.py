"""Pushes jobs of every kind, each certainly once, and reads replies, through whatever becomes of Redis."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any

import redis

from tests.chaos.records import Entry, Pushed, Reply

PREFIX = "theo"
LANES = ("", ":high", ":low")
REPLY_STREAMS = (f"{PREFIX}:replies", *(f"{PREFIX}:reply:client-{n}" for n in range(3)))
RETRY_S = 0.05


def client(url: str) -> Any:
    return redis.Redis.from_url(url, decode_responses=True, socket_timeout=5)


class Mix:
    """Which job comes next."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._recent: list[dict[str, str]] = []  # jobs that others may share a call with
        self._count = 0

    def job(self) -> tuple[str, dict[str, str]]:
        """Lane and fields. The prompt is the job's group: jobs of one group may share one call."""
        chance, self._count = self._random, self._count + 1
        lane = chance.choice(LANES)
        again = self._recent and chance.random() < 0.25
        fields = dict(chance.choice(self._recent)) if again else self._new()
        if chance.random() < 0.2:
            fields["reply_to"] = chance.choice(REPLY_STREAMS[1:])
        return lane, fields

    def _new(self) -> dict[str, str]:
        chance, name = self._random, f"job-{self._count}"
        fields = {"prompt": name}
        if chance.random() < 0.4:
            fields["tenant"] = f"tenant-{chance.randrange(4)}"
        if chance.random() < 0.1:
            fields["stream"] = "1"
        kind = chance.random()
        if kind < 0.15:
            fields["on_unknown"] = "fail"
        elif kind < 0.25:
            fields["cache"] = "off"
        elif kind < 0.28:
            fields["cache"] = "refresh"
        elif kind < 0.40:  # a repeated id, with or without the cache
            fields |= {"id": f"id-{name}"} | ({"cache": "off"} if chance.random() < 0.5 else {})
            self._remember(fields)
        else:
            self._remember(fields)
        return fields

    def _remember(self, fields: dict[str, str]) -> None:
        self._recent.append(fields)
        if len(self._recent) > 40:
            del self._recent[self._random.randrange(20)]


class Driver:
    """Pushes `jobs` jobs evenly over `seconds`. An entry id of its own choice makes each push certain."""

    def __init__(self, url: str, *, jobs: int, seconds: float, seed: int) -> None:
        self.pushed: list[Pushed] = []
        self._redis, self._mix = client(url), Mix(seed)
        self._jobs, self._seconds = jobs, seconds
        self._last_ms = 0
        self._thread = threading.Thread(target=self._run, name="driver", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def _run(self) -> None:
        started = time.monotonic()
        for number in range(self._jobs):
            time.sleep(max(0.0, started + number * self._seconds / self._jobs - time.monotonic()))
            lane, fields = self._mix.job()
            self._last_ms = max(self._last_ms, int(time.time() * 1000))
            stream, entry_id = f"{PREFIX}:jobs{lane}", f"{self._last_ms}-{number}"
            until_answered(lambda: self._push(stream, entry_id, fields))  # noqa: B023 - called at once
            self.pushed.append(Pushed(entry=(stream, entry_id), group=fields["prompt"], fields=fields))

    def _push(self, stream: str, entry_id: str, fields: dict[str, str]) -> None:
        try:
            self._redis.xadd(stream, fields, id=entry_id)
        except redis.ResponseError as error:
            if "equal or smaller" not in str(error):  # else an earlier try was stored, its answer lost
                raise


class Reader:
    """Reads every final reply as it appears."""

    def __init__(self, url: str) -> None:
        self.replies: dict[Entry, list[Reply]] = {}
        self._redis = client(url)
        self._last = dict.fromkeys(REPLY_STREAMS, "0-0")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stop.is_set():
            for stream, entries in until_answered(
                lambda: self._redis.xread(self._last, count=500, block=200)
            ):
                now = time.monotonic()
                self._last[stream] = entries[-1][0]
                for _, fields in entries:
                    if fields["final"] == "1":
                        entry = (fields["job_stream"], fields["entry_id"])
                        reply = Reply(entry=entry, fields=fields, seen_at=now)
                        self.replies.setdefault(entry, []).append(reply)


def until_answered(command: Callable[[], Any]) -> Any:
    """Repeat a command that may be repeated until Redis answers."""
    while True:
        try:
            return command()
        except (redis.ConnectionError, redis.TimeoutError):
            time.sleep(RETRY_S)
        except redis.BusyLoadingError:
            time.sleep(RETRY_S)
