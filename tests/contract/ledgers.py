"""Every way of keeping books, with the processes that keep them, for the suites that ask the same of each."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tests.doubles import until
from tests.fakes import MemoryBooks, MemoryLedger, VirtualClock
from theo_daemon.embedded_valkey import EmbeddedValkey
from theo_daemon.ledger import Ledger
from theo_daemon.ledger.records import Landing
from theo_daemon.ledger.redis import RedisLedger
from theo_daemon.ledger.redis import amend as amend_redis
from theo_daemon.ledger.redis.keys import LedgerKeys
from theo_daemon.ledger.sqlite import SqliteLedger
from theo_daemon.ledger.sqlite import amend as amend_file
from theo_daemon.redis_link import RedisLink
from theo_workers.clock import SystemClock

KINDS = ("memory", "file", "redis")
LEASE_S = 1.5  # of the ledger in Redis: so long a death takes to be noticed


class Rig(ABC):
    """One set of books, and the processes that keep them."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    async def open(self, name: str, *, id_ttl_s: float = 86_400) -> Ledger:
        """Another process."""
        return await self._stack.enter_async_context(self._make(name, id_ttl_s))

    @abstractmethod
    def _make(self, name: str, id_ttl_s: float) -> Ledger: ...

    @abstractmethod
    async def kill(self, ledger: Ledger) -> None:
        """Its process is gone, as if by SIGKILL."""

    @abstractmethod
    async def seems_dead(self, ledger: Ledger) -> None:
        """From now on others take it for dead, though it goes on."""

    async def lands_late(self, ledger: Ledger, landing: Landing) -> None:
        """A process that only seemed dead says how its call ended."""
        await ledger.land(landing)

    async def until(self, condition: Callable[[], Any]) -> None:
        """Time passes until it holds."""
        await until(condition)

    async def pass_time(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    @property
    def now_ms(self) -> int:
        """Unix ms by the time of the books."""
        return int(SystemClock().wall() * 1000)

    async def within(self, awaited: Awaitable[Any]) -> Any:
        """Its result, once time has passed as it must."""
        task = asyncio.ensure_future(awaited)
        await self.until(task.done)
        return task.result()

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """After the last process."""


class AmendableRig(Rig):
    """One that operators reach beside the processes."""

    @abstractmethod
    async def forget_ids(self, ids: Sequence[tuple[str, str]]) -> int: ...

    @abstractmethod
    async def reset_spend(self, rows: Sequence[tuple[str, int]]) -> int: ...


class MemoryRig(Rig):
    """In memory, in virtual time."""

    def __init__(self, stack: AsyncExitStack) -> None:
        super().__init__(stack)
        self._clock, self._books = VirtualClock(), MemoryBooks()

    def _make(self, name: str, id_ttl_s: float) -> Ledger:
        return MemoryLedger(self._books, name=name, clock=self._clock, id_ttl_s=id_ttl_s)

    async def kill(self, ledger: Ledger) -> None:
        assert isinstance(ledger, MemoryLedger)
        ledger.kill()

    async def seems_dead(self, ledger: Ledger) -> None:
        assert isinstance(ledger, MemoryLedger)
        assert ledger._lock is not None
        ledger._lock._close()

    async def until(self, condition: Callable[[], Any]) -> None:
        for _ in range(200):
            if condition():
                return
            await self._clock.advance(0.05)
        raise AssertionError("it did not happen within 10 s")

    async def pass_time(self, seconds: float) -> None:
        await self._clock.advance(seconds)

    @property
    def now_ms(self) -> int:
        return int(self._clock.wall() * 1000)

    def close(self) -> None:
        self._books.close()


class FileRig(AmendableRig):
    """In a file."""

    def __init__(self, stack: AsyncExitStack, path: Path) -> None:
        super().__init__(stack)
        self._path = path

    def _make(self, name: str, id_ttl_s: float) -> Ledger:
        return SqliteLedger(self._path, name=name, id_ttl_s=id_ttl_s)

    async def kill(self, ledger: Ledger) -> None:
        await self.seems_dead(ledger)

    async def seems_dead(self, ledger: Ledger) -> None:
        assert isinstance(ledger, SqliteLedger)
        assert ledger._lock is not None
        ledger._lock._close()  # as the kernel does

    async def forget_ids(self, ids: Sequence[tuple[str, str]]) -> int:
        return amend_file.forget_ids(self._path, ids)

    async def reset_spend(self, rows: Sequence[tuple[str, int]]) -> int:
        return amend_file.reset_spend(self._path, rows, now_ms=self.now_ms)


class RedisRig(AmendableRig):
    """In a real server."""

    def __init__(self, stack: AsyncExitStack, url: str, prefix: str) -> None:
        super().__init__(stack)
        self.url, self.prefix = url, prefix

    def _make(self, name: str, id_ttl_s: float) -> Ledger:
        return RedisLedger(self.url, prefix=self.prefix, name=name, lease_s=LEASE_S, id_ttl_s=id_ttl_s)

    async def kill(self, ledger: Ledger) -> None:
        assert isinstance(ledger, RedisLedger)
        assert ledger._recording is not None
        ledger._recording.cancel()
        await self.seems_dead(ledger)

    async def seems_dead(self, ledger: Ledger) -> None:
        assert isinstance(ledger, RedisLedger)
        await ledger._lease.stop()

    async def lands_late(self, ledger: Ledger, landing: Landing) -> None:
        """Its last word: it is fenced."""
        ledger.tell(landing)
        await until(ledger.crashed.done)
        assert "not among the ledger's owners any more" in str(ledger.crashed.exception())

    async def forget_ids(self, ids: Sequence[tuple[str, str]]) -> int:
        return await self._amend(partial(amend_redis.forget_ids, ids=ids))

    async def reset_spend(self, rows: Sequence[tuple[str, int]]) -> int:
        return await self._amend(partial(amend_redis.reset_spend, rows=rows))

    async def _amend(self, change: Callable[..., Awaitable[int]]) -> int:
        wire = RedisLink(self.url).wire()
        try:
            return await change(wire, LedgerKeys(self.prefix))
        finally:
            await wire.close()


@asynccontextmanager
async def rigged(kind: str, folder: Path, valkey: EmbeddedValkey, prefix: str) -> AsyncIterator[Rig]:
    """Books of this kind; its processes are closed at the end."""
    async with AsyncExitStack() as stack:
        rig: Rig
        match kind:
            case "memory":
                rig = MemoryRig(stack)
            case "file":
                rig = FileRig(stack, folder / "ledger.db")
            case _:
                rig = RedisRig(stack, valkey.url, prefix)
        yield rig
    rig.close()
