"""Publishes replies: collects what ends in one turn of the event loop and ends it in one call to Redis."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, NamedTuple, Protocol

from msgspec import Struct
from redis.exceptions import RedisError

from theo_daemon.backoff import delay_s
from theo_daemon.finish_script import DELTA, DELTA_MARK, FINISH, FOUND, MAX_WORDS
from theo_daemon.job import EntryRef, Envelope, JobOutcome
from theo_daemon.job import Word as Said
from theo_daemon.keys import Keys
from theo_daemon.ports import DeadLetter, Events, Finish
from theo_daemon.redis_link import error_code
from theo_daemon.redis_refusals import of_the_server
from theo_daemon.wire import Script, Wire, Word
from theo_workers.clock import Clock, sleep

CHUNK_STEPS = 128
CHUNK_CHARS = 4_000_000
MOST_DELTA_CHARS = 8_000_000  # waiting for Redis, of all jobs
GOOD_FOR_S = 5.0  # how long a reply key found usable is not asked about again
GOOD_KEYS = 4_096
TELL_EVERY_S = 60.0  # while the same refusal lasts

UNUSABLE = Script("""
local bad = {}
for i, key in ipairs(KEYS) do
    local kind = redis.call('TYPE', key).ok
    if kind ~= 'stream' and kind ~= 'none' then bad[#bad + 1] = i end
end
return bad
""")


class FinalFields(Protocol):
    """`reply.final_fields`: a final reply as name, value, name, value..."""

    def __call__(self, envelope: Envelope, outcome: JobOutcome, *, queued_ms: int) -> Sequence[Said]: ...


class DeltaFields(Protocol):
    """`reply.delta_fields`."""

    def __call__(self, envelope: Envelope, *, attempt: int, seq: int, text: Said) -> Sequence[Said]: ...


class ReplyBounds(Struct, frozen=True, kw_only=True):
    """What keeps replies and dead letters from filling Redis."""

    default_reply: str
    max_len: int = 100_000
    ttl_s: float = 86_400.0
    dead_max_len: int = 10_000
    done_s: float = 3_600.0  # has to outlive any redelivery and any repeated call of ours


class _Step(NamedTuple):
    ref: EntryRef
    keys: tuple[str, str, str]
    args: list[Word]
    size: int  # characters of its words, which bounds a chunk well enough
    answer: asyncio.Future[Finish] | None  # None: a delta


class StreamPublisher:
    """Implements `ports.Publisher`. `run` must be running for anything to be published.

    Whatever becomes of Redis, a final reply is kept and tried again until it is published. Deltas are best
    effort: when one was refused, or may have been lost or doubled, or too much of them waits for Redis, that job
    gets no more of them, so that what a client saw has no gap, and its final reply carries the whole text.
    """

    def __init__(
        self,
        *,
        wire: Wire,
        queries: Wire,
        keys: Keys,
        group: str,
        bounds: ReplyBounds,
        final_fields: FinalFields,
        delta_fields: DeltaFields,
        now_ms: Callable[[], int],
        events: Events,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        """`wire` carries nothing but finishes, so that nothing waits in front of them; `queries` the rest."""
        self._wire, self._queries = wire, queries
        self._done_key, self._dead_key, self._early = keys.done, keys.dead, keys.early
        self._default = bounds.default_reply
        self._head: tuple[Word, ...] = (
            group,
            bounds.max_len,
            int(bounds.ttl_s * 1000),
            int(bounds.done_s * 1000),
            bounds.dead_max_len,
        )
        self._final_fields, self._delta_fields = final_fields, delta_fields
        self._now_ms, self._events, self._clock, self._rng = now_ms, events, clock, rng
        self._boot = f"{rng.getrandbits(48):012x}:"
        self._count = 0
        self._queue: deque[_Step] = deque()
        self._refused: list[_Step] = []
        self._refusals = 0
        self._retry: asyncio.Task[None] | None = None
        self._muted: set[EntryRef] = set()
        self._delta_chars = 0  # of those in the queue
        self._good: dict[str, float] = {}
        self._work = asyncio.Event()
        self._stopping = False
        self._connected = True
        self._trouble: str | None = None
        self._kept_since: float | None = None
        self._told_until: dict[str, float] = {}  # by code
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def pending(self) -> int:
        """Final replies and deltas not yet published."""
        return len(self._queue) + len(self._refused)

    @property
    def trouble(self) -> str | None:
        """The code of what keeps every final reply back; None while Redis takes them, or there are none."""
        return self._trouble if self.pending else None

    def finish(
        self, envelope: Envelope, outcome: JobOutcome, *, queued_ms: int, dead: DeadLetter | None = None
    ) -> asyncio.Future[Finish]:
        """Publish the final reply and end the entry; see `ports.Publisher`."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()  # once: it costs a system call on CPython 3.11
        ref = envelope.ref
        words = self._final_fields(envelope, outcome, queued_ms=queued_ms)
        self._count += 1
        args: list[Word] = [ref.entry_id, f"{self._boot}{self._count}", len(words), 0, *words]
        size = sum(map(len, words))
        if dead is not None:
            letter = self._letter(ref, dead)
            args[3] = len(letter)
            args += letter
            size += sum(map(len, dead.fields))
        self._muted.discard(ref)
        answer: asyncio.Future[Finish] = self._loop.create_future()
        self._push(envelope, args, size, answer)
        return answer

    def delta(self, envelope: Envelope, *, attempt: int, seq: int, text: Said) -> None:
        """Publish one delta, best effort, before anything that is finished later."""
        ref = envelope.ref
        if ref in self._muted:
            return
        if not self._connected:
            self._muted.add(ref)
            return
        if self._delta_chars and self._delta_chars + len(text) > MOST_DELTA_CHARS:
            self._muted.add(ref)
            return
        self._delta_chars += len(text)
        words = self._delta_fields(envelope, attempt=attempt, seq=seq, text=text)
        self._push(envelope, [ref.entry_id, "", len(words), DELTA_MARK, *words], len(text), None)

    async def answered(self, ref: EntryRef) -> bool | None:
        """Has this entry its final reply? None when Redis is away, and nobody can say."""
        try:
            return await self._queries.ask("GET", self._done_key(ref)) is not None
        except RedisError:
            return None

    async def vanished(self, ref: EntryRef) -> bool:
        """Is this entry not in its stream any more? False when Redis is away."""
        try:
            return not await self._queries.ask("XRANGE", ref.stream, ref.entry_id, ref.entry_id)
        except RedisError:
            return False

    async def unusable(self, reply_tos: Sequence[str]) -> frozenset[str]:
        """Of these keys, those that exist with a type other than stream. None of them when Redis is away:
        the finish looks again."""
        now = self._clock.monotonic()
        good = self._good
        asked = [key for key in dict.fromkeys(reply_tos) if good.get(key, 0.0) <= now]
        if not asked:
            return frozenset()
        try:
            positions: list[int] = await self._queries.run(UNUSABLE, asked, ())
        except RedisError:
            return frozenset()
        bad = frozenset(asked[position - 1] for position in positions)
        if len(good) + len(asked) > GOOD_KEYS:
            good.clear()
        good.update((key, now + GOOD_FOR_S) for key in asked if key not in bad)
        return bad

    async def run(self) -> None:
        """Publish until `stop` was called and nothing is left. Cancelled, it keeps what is not published."""
        failures = 0
        while not (self._stopping and not self.pending):
            if not self._queue:
                self._work.clear()
                await self._work.wait()
                continue
            chunk = self._next_chunk()
            try:
                found = await self._send(chunk)
            except RedisError as error:
                failures += 1
                self._give_up_deltas({step.ref for step in self._queue if step.answer is None})
                if failures == 1:
                    self._events.emit("publish_stalled", reason=error_code(error), waiting=self.pending)
                self._connected, self._trouble = False, error_code(error)
                if self._kept_since is None:
                    self._kept_since = self._clock.monotonic()
                await self._wire.close()  # after a failover the next connection finds the new primary
                await sleep(self._clock, delay_s(failures, self._rng.random()))
                continue
            failures = 0
            self._connected = True
            self._settle(chunk, found)
            del chunk  # large answers may be in it, and it may be long until the next one
            if any(isinstance(what, bytes) and what.startswith(b"READONLY") for what in found):
                await self._wire.close()  # it is a replica by now, and the next connection finds the primary

    def stop(self) -> None:
        """Let `run` return as soon as everything is published."""
        self._stopping = True
        self._work.set()

    def _push(
        self, envelope: Envelope, args: list[Word], size: int, answer: asyncio.Future[Finish] | None
    ) -> None:
        ref = envelope.ref
        keys = (ref.stream, self._done_key(ref), envelope.reply_to or self._default)
        self._queue.append(_Step(ref, keys, args, size, answer))
        self._work.set()

    def _letter(self, ref: EntryRef, dead: DeadLetter) -> list[Word]:
        about: list[Word] = [
            *("dead_reason", dead.reason, "dead_code", dead.code, "dead_deliveries", dead.deliveries),
            *("dead_entry_id", ref.entry_id, "dead_stream", ref.stream, "dead_at_ms", self._now_ms()),
        ]
        room = MAX_WORDS - len(about) - 2
        if len(dead.fields) > room:
            return [*dead.fields[:room], "dead_fields_cut", len(dead.fields) // 2 - room // 2, *about]
        return [*dead.fields, *about]

    def _next_chunk(self) -> list[_Step]:
        """The steps to send next; they stay in the queue until they are settled."""
        size = steps = 0
        for step in islice(self._queue, CHUNK_STEPS):
            size += step.size
            if steps and size > CHUNK_CHARS:
                break
            steps += 1
        return list(islice(self._queue, steps))

    async def _send(self, chunk: list[_Step]) -> list[Any]:
        keys: list[str] = [self._default, self._dead_key, self._early]
        args: list[Word] = [*self._head]
        for step in chunk:
            keys += step.keys
            args += step.args
        try:
            found: list[Any] = await self._wire.run(FINISH, keys, args)
        except UnicodeEncodeError:  # a lone surrogate got this far: an ugly reply is better than none
            clean = [word.encode("utf-8", "replace") if isinstance(word, str) else word for word in args]
            found = await self._wire.run(FINISH, [key.encode("utf-8", "replace") for key in keys], clean)
        return found

    def _settle(self, chunk: list[_Step], found: list[Any]) -> None:
        trouble, finals = None, False
        cut: set[EntryRef] = set()
        for step, what in zip(chunk, found, strict=True):
            self._queue.popleft()
            if step.answer is None:
                self._delta_chars -= step.size
                if what != DELTA:
                    cut.add(step.ref)
                continue
            finals = True
            if isinstance(what, bytes):
                reason = what.decode("utf-8", "replace")
                code = reason.partition(" ")[0]
                if of_the_server(code):
                    trouble = code
                self._refused.append(step)
                self._tell(code, entry_id=step.ref.entry_id, reason=reason, waiting=self.pending)
            elif not step.answer.done():
                step.answer.set_result(FOUND[what])
        if cut:
            self._give_up_deltas(cut - {step.ref for step in chunk if step.answer is not None})
        if finals:
            self._trouble = trouble
        self._see_to_refused()

    def _see_to_refused(self) -> None:
        if not self._refused:
            self._refusals = 0
            if self._kept_since is not None:
                self._events.emit(
                    "publish_back", after_s=round(self._clock.monotonic() - self._kept_since, 3)
                )
                self._kept_since = None
                self._told_until.clear()
        elif self._retry is None:
            # Beside the queue, not in it: what Redis refuses one job must not hold up the others.
            self._refusals += 1
            self._retry = asyncio.create_task(self._requeue(delay_s(self._refusals, self._rng.random())))

    def _tell(self, code: str, **details: Any) -> None:
        """Of a refusal: at once, and from time to time while it lasts."""
        now = self._clock.monotonic()
        if self._kept_since is None:
            self._kept_since = now
        if now >= self._told_until.get(code, now):
            self._told_until[code] = now + TELL_EVERY_S
            self._events.emit("publish_refused", **details)

    async def _requeue(self, delay: float) -> None:
        await sleep(self._clock, delay)
        self._retry = None
        self._queue.extend(self._refused)
        self._refused.clear()
        self._work.set()

    def _give_up_deltas(self, refs: set[EntryRef]) -> None:
        """These jobs get no more of them: neither those that are queued, nor later ones."""
        if refs:
            self._queue = deque(
                step for step in self._queue if step.answer is not None or step.ref not in refs
            )
            self._delta_chars = sum(step.size for step in self._queue if step.answer is None)
            self._muted |= refs - {step.ref for step in self._queue if step.answer is not None}
