"""The entries this process holds: read, not yet finished or handed back."""

from __future__ import annotations

import asyncio
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

    def __len__(self) -> int:
        return len(self._sizes)

    def __contains__(self, ref: EntryRef) -> bool:
        return ref in self._sizes

    def __iter__(self) -> Iterator[EntryRef]:
        return iter(self._sizes)

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
