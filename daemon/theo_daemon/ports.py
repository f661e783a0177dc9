"""What the dispatcher needs of the outside world, as Protocols of one to four methods."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, Protocol

from msgspec import Struct

from theo_daemon.job import Delivery, EntryRef, Envelope, JobOutcome, Word


class Intake(Protocol):
    """Brings deliveries until it is stopped; the dispatcher says how many it has room for."""

    async def run(self, deliver: Callable[[Sequence[Delivery]], None]) -> None:
        """Deliver batches until `stop`. Survives a lost connection; returns only after `stop`."""

    def stop(self) -> None:
        """Read no more. Entries already delivered stay this consumer's."""


class Finish(StrEnum):
    """What the finish script found."""

    PUBLISHED = "published"  # reply added, entry acknowledged and deleted
    ALREADY = "already"  # a peer had finished this entry
    NOT_PENDING = "not_pending"  # the entry is there but not pending: it will be delivered again
    ORPHAN = "orphan"  # the entry is gone and nobody had answered: answered once


class DeadLetter(Struct, frozen=True, kw_only=True):
    """What goes to `P:dead` beside the reply: the entry's own fields and why."""

    fields: Sequence[bytes]
    reason: str
    code: str
    deliveries: int = 1


class Publisher(Protocol):
    """Publishes final replies; each is one atomic step with acknowledging and deleting the entry."""

    def finish(
        self, envelope: Envelope, outcome: JobOutcome, *, queued_ms: int, dead: DeadLetter | None = None
    ) -> asyncio.Future[Finish]:
        """Never raises for Redis trouble: it keeps the reply and tries again until it is published."""

    def delta(self, envelope: Envelope, *, attempt: int, seq: int, text: Word) -> None:
        """Publish one `delta` reply, best effort, before the final one."""

    async def answered(self, ref: EntryRef) -> bool | None:
        """Has this entry its final reply? None when Redis is away, and nobody can say."""

    async def vanished(self, ref: EntryRef) -> bool:
        """Is this entry not in its stream any more? False when Redis is away."""

    async def unusable(self, reply_tos: Sequence[str]) -> frozenset[str]:
        """Of these keys, those that exist with a Redis type other than stream."""


class Events(Protocol):
    """The event stream `P:events` and its log line."""

    def emit(self, event: str, /, *, model: str | None = None, **details: Any) -> None:
        """Publish one documented event, best effort."""


class Holds(Protocol):
    """The intake's table of entries this process holds."""

    @property
    def kept_until(self) -> float:
        """Monotonic seconds; from then on peers may have taken entries over: none of them is to be called for."""

    async def kept(self) -> None:
        """Wait until it is known again which entries are held."""

    def release(self, ref: EntryRef) -> None:
        """The entry is finished or handed back."""
