"""The entries this process holds: read, not yet finished or handed back."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct

from theo_daemon.job import Delivery, EntryRef


class Room(Struct, frozen=True):
    """What the dispatcher can take in now."""

    jobs: int
    bytes: int
    soon: bool = False  # there may be more before anything that is held is finished


class HeldEntries:
    """The table that reading adds to, finishing takes from and renewal walks over. Implements `Holds`."""

    def __init__(self) -> None:
        self._sizes: dict[EntryRef, int] = {}
        self.bytes = 0  # of all field names and values held
        self.freed = asyncio.Event()  # set whenever there may be more room than before
        self.kept_until = (
            math.inf
        )  # monotonic seconds; from then on a peer may have taken over what is held here
        self._kept_since = math.inf  # as `kept_until`, of what was added since the renewal under way began
        self._doubted: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._sizes)

    def __contains__(self, ref: EntryRef) -> bool:
        return ref in self._sizes

    def __iter__(self) -> Iterator[EntryRef]:
        return iter(self._sizes)

    def renewing(self) -> None:
        """What is held now is going to be renewed: see `keep`."""
        self._kept_since = math.inf

    def keep(self, until: float) -> None:
        """All that was held when the renewal began, and is still held, is ours until then."""
        self.kept_until = min(until, self._kept_since)
        if self._doubted is not None:
            self._doubted.set_result(None)
            self._doubted = None

    def doubt_from(self, until: float) -> None:
        """Something was added that is ours until then at most, and from then on only if it is renewed."""
        self.kept_until = min(self.kept_until, until)
        self._kept_since = min(self._kept_since, until)

    async def kept(self) -> None:
        """Wait until it is known again what of this is ours."""
        if self._doubted is None:
            self._doubted = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._doubted)

    def fits(self, room: Room, max_job_bytes: int) -> int:
        """How many entries may be read into `room`, each as large as it may be: its size is known too late.

        A process that holds nothing takes one however large, or it would stand still for ever.
        """
        count = min(room.jobs, room.bytes // max_job_bytes)
        return count if count > 0 or self._sizes else min(room.jobs, 1)

    def take(self, deliveries: Iterable[Delivery]) -> Sequence[Delivery]:
        """Hold these; returns those that were not held before, which alone are to be worked on."""
        fresh = []
        sizes = self._sizes
        for delivery in deliveries:
            ref, fields = delivery.ref, delivery.fields
            if ref not in sizes:
                sizes[ref] = size = sum(map(len, fields))
                self.bytes += size
                fresh.append(delivery)
        return fresh

    def weigh(self, ref: EntryRef, size: int) -> None:
        """The size of an entry that was taken before it was known. Unknown entries are ignored."""
        before = self._sizes.get(ref)
        if before is not None:
            self._sizes[ref] = size
            self.bytes += size - before

    def release(self, ref: EntryRef) -> None:
        """The entry is finished or handed back. Unknown entries are ignored."""
        size = self._sizes.pop(ref, None)
        if size is not None:
            self.bytes -= size
            self.freed.set()
