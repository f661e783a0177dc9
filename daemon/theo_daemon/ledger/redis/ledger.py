"""The ledger in Redis: opened, kept tidy and closed here; what it shows is `face.py`'s."""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Final, Self

import msgspec
from redis.exceptions import RedisError

from theo_daemon.ledger.condition import Restored
from theo_daemon.ledger.face import LedgerFace, process_name
from theo_daemon.ledger.records import Bury, Forget
from theo_daemon.ledger.redis.batches import Batches
from theo_daemon.ledger.redis.commits import Commits
from theo_daemon.ledger.redis.keys import Keeping, LedgerKeys
from theo_daemon.ledger.redis.lease import Lease
from theo_daemon.ledger.redis.reading import RedisTransaction, reading_redis
from theo_daemon.ledger.redis.scripts import LEAVE, PRUNE, REGISTER, SCHEMA
from theo_daemon.ledger.redis.texts import Texts
from theo_daemon.ledger.redis.watcher import Watcher, standings_of
from theo_daemon.ledger.shared import SharedStanding
from theo_daemon.redis_link import RedisLink, error_code
from theo_workers.clock import Clock, SystemClock, sleep
from theo_workers.errors import LedgerError
from theo_workers.health import HealthSnapshot
from theo_workers.upstreams.room import Room

PRUNE_EVERY_S: Final = 30.0
PRUNE_ROWS: Final = 100
RECENT: Final = 500  # attempts that are looked through for a key's last error

_decode_health = msgspec.msgpack.Decoder(HealthSnapshot).decode


class RedisLedger(LedgerFace):
    """One set of books under a key prefix, shared by all processes of all hosts that use this Redis.

    `url` and `prefix` are those of the job streams; `name` is this process's, unique to its boot. A process that
    is not heard of for `lease_s` may be taken for dead. `keep_days` bounds the history of attempts and windows,
    `id_ttl_s` the memory of client ids. Time in the books is the time of Redis.
    """

    def __init__(
        self, url: str, *, prefix: str = "theo", name: str | None = None, clock: Clock | None = None,
        rng: random.Random | None = None, lease_s: float = 30.0, keep_days: float = 30, id_ttl_s: float = 86_400,
    ) -> None:  # fmt: skip
        name, clock, rng = name or process_name(), clock or SystemClock(), rng or random.Random()
        self._link, lease_link = (RedisLink(url, prefix=prefix, client_name=name) for _ in range(2))
        self._keys = keys = LedgerKeys(prefix)
        self._keeping = Keeping(id_ms=int(id_ttl_s * 1000), keep_ms=int(keep_days * 86_400_000))
        self._wire = self._link.wire()  # for what nobody's call waits for
        self._lease = Lease(lease_link, keys, name=name, lease_s=lease_s, rng=rng)
        self._commits = Commits(
            self._link.wire(), keys, name=name, lease_s=lease_s, keeping=self._keeping, clock=clock, rng=rng
        )
        self._texts = Texts(self._link, keys, clock, rng)
        self._batches = Batches(self._commits, self._lease, clock, self._texts.read)
        self._watcher = Watcher(self._link.wire(), keys, clock)
        super().__init__(name, clock, recorder=self._batches, watcher=self._watcher)
        self._lease.on_lost = self._batches.crash
        self._lease.on_silence = self._batches.note_silence
        self._lease.last_batch = lambda: self._commits.last
        self._lease.on_behind = self._look_behind
        self._lease.on_dead = self._bury
        self._batches.on_buried = self._buried
        self._commits.on_restored = self._restored
        self._recording: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def share_room(self, room: Room) -> None:
        self._batches.large.room = room

    async def __aenter__(self) -> Self:
        """Register this process. Raises LedgerError, which says what was found and what to do."""
        since = self._clock.monotonic()
        try:
            self._owner, self.uuid = await self._register()
            self._batches.warnings += await self._odd()
        except RedisError as error:
            await self._wire.close()
            raise LedgerError(f"the ledger at {self.place} cannot be opened: {error}") from error
        self._batches.open(self._owner)
        self._lease.start(self._owner, since=since)
        self._recording = asyncio.get_running_loop().create_task(self._batches.run())
        self._recording.add_done_callback(self._batches.note_end)
        self._tasks = self._look_after(
            (self._watcher.run(), self._prune(), self._condition.run(), self._link.watch(self._clock))
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Record what is queued and leave. Raises LedgerError for ended calls that could not be recorded in time."""
        self._flush_forgotten()
        if self._recording is not None:
            await self._batches.stop(self._recording)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._lease.stop()
        with contextlib.suppress(RedisError):  # then others find its lease run out
            await self._wire.run(LEAVE, (self._keys.base,), (self._owner, self.name))
        for wire in (self._wire, self._commits.wire, self._watcher.wire, self._texts.wire):
            await wire.close()
        self._check_recorded(error)

    @property
    def place(self) -> str:
        return f"{self._link.shown}, {self._keys.base}"

    async def standings(self) -> tuple[list[SharedStanding], dict[str, HealthSnapshot]]:
        standings = await self._ask("HGETALL", self._keys.standings)
        health = await self._ask("HGETALL", self._keys.health)
        return standings_of(standings), {
            health[at].decode(): _decode_health(health[at + 1]) for at in range(0, len(health), 2)
        }

    def transaction(self) -> AbstractContextManager[RedisTransaction]:
        """See `port.Books`."""
        return reading_redis(self._link, self._keys)

    # -- for `wait_for_inflight` ---------------------------------------------------------------------

    async def _in_flight(self, key: str) -> bool:
        return bool(await self._ask("HEXISTS", self._keys.flights, key))

    async def _last_error(self, key: str) -> str | None:
        latest: list[tuple[bytes, dict[bytes, bytes]]] = []
        for stream in (self._keys.doubtful, self._keys.failures):
            for entry_id, words in await self._ask("XREVRANGE", stream, "+", "-", "COUNT", RECENT):
                attempt = dict(zip(words[::2], words[1::2], strict=True))
                if attempt[b"key"] == key.encode() and attempt[b"error_code"]:
                    latest.append((entry_id, attempt))
                    break
        if not latest:
            return None
        attempt = max(latest, key=lambda found: [int(part) for part in found[0].split(b"-")])[1]
        code, status, model = (attempt[name].decode() for name in (b"error_code", b"status_code", b"model"))
        return f"{code} (status {status}, model {model})" if status else f"{code} (model {model})"

    async def _fresh_answer(self, key: str) -> bytes | None:
        seconds, micros = await self._ask("TIME")
        text = await self._ask("GET", self._keys.answer(key))
        if text is None:
            return None
        head, _, answer = text.partition(b"\n")
        _, fresh_until, _ = head.split(b" ")
        return bytes(answer) if int(fresh_until) > int(seconds) * 1000 + int(micros) // 1000 else None

    async def _ask(self, *words: str | int) -> Any:
        """Raises LedgerError."""
        try:
            return await self._wire.ask(*words)
        except RedisError as error:
            raise LedgerError(f"the ledger at {self.place} cannot be read: {error_code(error)}") from error

    # -- owners, and housekeeping --------------------------------------------------------------------

    async def _register(self) -> tuple[int, str]:
        lease_ms = int(self._lease.lease_s * 1000)
        words = (self.name, lease_ms, uuid.uuid4().hex, SCHEMA)
        owner, found, schema, _ = await self._wire.run(REGISTER, (self._keys.base,), words)
        if not owner:
            raise LedgerError(
                f"{self.place} was written by a newer theo-router (schema {schema.decode()}; this one knows {SCHEMA}). "
                "Upgrade this process; an older one must not write there."
            )
        return int(owner), found.decode()

    async def _odd(self) -> list[str]:
        """What a restart of this Redis would take along."""
        info = await self._wire.ask("INFO", "persistence")
        if b"aof_enabled:0" not in info:
            return []
        lost = "a restart of it forgets what was spent and remembered since its last snapshot"
        where = f"the ledger lies in a Redis without append-only file ({self._link.shown})"
        return [f"{where}: {lost}. CONFIG SET appendonly yes"]

    def _buried(self, name: str) -> None:
        self._watcher.tell_of(name)

    def _look_behind(self) -> None:
        """Redis has lost what it had acknowledged: the next batch finds that out, and this one does for all."""
        self._batches.post(Forget(()), answer=False)

    def _restored(self, batches: int) -> None:
        self._condition.on_tidings(Restored(batches))

    def _bury(self, dead: Sequence[int]) -> None:
        """Their leases ran out; the script looks once more."""
        for owner in dead:
            self._batches.post(Bury(owner), answer=False)

    async def _prune(self) -> None:
        while True:
            with contextlib.suppress(RedisError):  # it is away: later will do
                words = (PRUNE_ROWS, self._keeping.keep_ms, "")
                while await self._wire.run(PRUNE, (self._keys.base,), words) >= PRUNE_ROWS:
                    await sleep(self._clock, 0.05)
            await sleep(self._clock, PRUNE_EVERY_S)
