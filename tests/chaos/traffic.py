"""Pushes jobs of every kind, each certainly once, and reads replies, through whatever becomes of Redis."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.chaos.records import Entry, Pushed, Reply

PREFIX = "theo"
LANES = ("", ":high", ":low")
JOBS = tuple(f"{PREFIX}:jobs{lane}" for lane in LANES)
REPLY_STREAMS = (f"{PREFIX}:replies", *(f"{PREFIX}:reply:client-{n}" for n in range(3)))
AGE = "age"  # a key of the rehearsal's own: how often Redis was wiped
Entries = Sequence[tuple[str, dict[str, str]]]
RETRY_S = 0.05
PUSH_EVERY_S = 0.02
NOT_YET = -1
MOST_UNANSWERED = 3000  # no more is pushed than can be answered

# One command for a batch, so that all of it is stored or nothing, whatever becomes of the answer; told again, it is
# refused by the ids. A server that has just lost everything takes none.
# ARGV: for each job its place in KEYS, its id, the number of its words, the words.
STORE = f"""
local age, at = redis.call('GET', '{AGE}'), 1
if not age then return '-1' end
while ARGV[at] do
    local words = tonumber(ARGV[at + 2])
    redis.call('XADD', KEYS[tonumber(ARGV[at])], ARGV[at + 1], unpack(ARGV, at + 3, at + 2 + words))
    at = at + 3 + words
end
return age
"""


def client(url: str) -> Any:
    """It never repeats a command by itself."""
    again = Retry(NoBackoff(), 0)
    return redis.Redis.from_url(url, decode_responses=True, socket_timeout=5, retry=again)


class Mix:
    """Which job comes next."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._recent: list[dict[str, str]] = []  # jobs that others may share a call with
        self._count = 0

    def job(self) -> tuple[int, dict[str, str]]:
        """Lane and fields. The prompt is the job's group: jobs of one group may share one call."""
        chance, self._count = self._random, self._count + 1
        lane = chance.randrange(len(LANES))
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
    """Pushes `jobs` jobs evenly over `seconds`. Entry ids of its own choice make each push certain.

    But where Redis may be `wiped`, the same id may be stored twice: there a batch whose answer is lost is given up.
    """

    def __init__(self, url: str, *, jobs: int, seconds: float, seed: int, wiped: bool = False) -> None:
        self.pushed: list[Pushed] = []
        self.unanswered: set[Entry] = set()  # the reader takes out what it reads
        self.held_back_s = 0.0  # since too much was unanswered
        self._redis, self._mix = client(url), Mix(seed)
        self._jobs, self._seconds, self._wiped = jobs, seconds, wiped
        self._last_ms = 0
        self._thread = threading.Thread(target=self._run, name="driver", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def _run(self) -> None:
        started = time.monotonic()
        number = 0
        while number < self._jobs:
            time.sleep(PUSH_EVERY_S)
            if len(self.unanswered) > MOST_UNANSWERED:
                self.held_back_s += PUSH_EVERY_S
                continue
            elapsed = time.monotonic() - started - self.held_back_s
            due = min(self._jobs, int(elapsed * self._jobs / self._seconds) + 1)
            if due > number:
                self._push([self._job(one) for one in range(number, due)])
                number = due

    def _job(self, number: int) -> tuple[int, str, dict[str, str]]:
        lane, fields = self._mix.job()
        self._last_ms = max(self._last_ms, int(time.time() * 1000))
        return lane, f"{self._last_ms}-{number}", fields

    def _push(self, batch: Sequence[tuple[int, str, dict[str, str]]]) -> None:
        entries = [(JOBS[lane], entry_id) for lane, entry_id, _ in batch]
        self.unanswered.update(entries)
        while (age := self._store(batch)) == NOT_YET:
            time.sleep(RETRY_S)
        for entry, (_, _, fields) in zip(entries, batch, strict=True):
            certain = age is not None
            job = Pushed(entry=entry, group=fields["prompt"], fields=fields, age=age or 0, certain=certain)
            self.pushed.append(job)
        if age is None:
            self.unanswered.difference_update(entries)

    def _store(self, batch: Sequence[tuple[int, str, dict[str, str]]]) -> int | None:
        """How often Redis had been wiped by then; None where nobody knows whether it was stored; or NOT_YET."""
        words: list[str | int] = []
        for lane, entry_id, fields in batch:
            flat = [word for pair in fields.items() for word in pair]
            words += [lane + 1, entry_id, len(flat), *flat]
        try:
            return int(self._redis.eval(STORE, len(JOBS), *JOBS, *words))
        except redis.ResponseError as error:
            if "equal or smaller" not in str(error):  # else an earlier try was stored, its answer lost
                raise
            return 0
        except (redis.ConnectionError, redis.TimeoutError):
            return None if self._wiped else NOT_YET


class Reader:
    """Reads every final reply as it appears."""

    def __init__(self, url: str, unanswered: set[Entry]) -> None:
        self.replies: dict[Entry, list[Reply]] = {}
        self.count = 0
        self.age = 0  # how often Redis was wiped
        self._redis, self._unanswered = client(url), unanswered
        self._last = dict.fromkeys(REPLY_STREAMS, "0-0")
        self._taking = threading.RLock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)

    def wipe(self, wipe: Callable[[dict[str, str]], dict[str, Entries]]) -> None:
        """`wipe` is told the last ids that were read, empties Redis, and says what replies there were after these."""
        with self._taking:
            for stream, entries in wipe(dict(self._last)).items():
                self.take(stream, entries)
            self.age += 1

    def take(self, stream: str, entries: Entries) -> None:
        """What a stream holds after the last that was read, or after an earlier one."""
        now = time.monotonic()
        with self._taking:
            last = _parsed(self._last[stream])
            for entry_id, fields in entries:
                if _parsed(entry_id) <= last:
                    continue
                self._last[stream] = entry_id
                if fields["final"] == "1":
                    entry = (fields["job_stream"], fields["entry_id"])
                    reply = Reply(entry=entry, fields=fields, seen_at=now, age=self.age)
                    self.replies.setdefault(entry, []).append(reply)
                    self._unanswered.discard(entry)
                    self.count += 1

    def _run(self) -> None:
        while not self._stop.is_set():
            time.sleep(PUSH_EVERY_S)  # many at a time are read for less
            for stream, entries in until_answered(
                lambda: self._redis.xread(self._last, count=500, block=200)
            ):
                self.take(stream, entries)


def _parsed(entry_id: str) -> tuple[int, int]:
    ms, _, number = entry_id.partition("-")
    return int(ms), int(number)


def until_answered(command: Callable[[], Any]) -> Any:
    """Repeat a command that may be repeated until Redis answers."""
    while True:
        try:
            return command()
        except (redis.ConnectionError, redis.TimeoutError):
            time.sleep(RETRY_S)
