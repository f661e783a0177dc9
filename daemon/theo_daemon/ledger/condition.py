"""How the ledger is, as its process sees it: can it be written, and how long is its WAL?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from theo_workers.clock import Clock, sleep

LOOK_EVERY_S = 1.0
STUCK_S = 12.0  # above the busy timeout, which tells of itself
WAL_ALARM = 64 * 1024 * 1024  # bytes: some reader holds it up, or checkpoints fail


class Troubled(Struct, frozen=True):
    """Commits have to wait, and with them all calls."""

    reason: str


class Recovered(Struct, frozen=True):
    """Commits go on."""

    after_s: float


class WalLarge(Struct, frozen=True):
    """The WAL passed the alarm. Told once, until it was below half of that."""

    bytes: int


class Unrecorded(Struct, frozen=True):
    """The process ends, and so many ended calls are not on record: they will be taken for lost."""

    calls: int
    reason: str


class Restored(Struct, frozen=True):
    """Redis had lost so many batches that it had acknowledged; they were recorded again."""

    batches: int


Tidings = Troubled | Recovered | WalLarge | Unrecorded | Restored


class Health(Protocol):
    """What a writer of the ledger says of itself."""

    busy_with: int  # the number of the piece of work that it is at; 0: none
    on_trouble: Callable[[], None]  # called in the loop when `trouble` has changed

    @property
    def trouble(self) -> str | None:
        """Why the last commit had to wait; None: it did not."""

    @property
    def unrecorded(self) -> int:
        """Calls that have ended and are not on record (yet)."""

    @property
    def ended_by(self) -> str | None:
        """What ended it before its time."""

    @property
    def size(self) -> int:
        """Bytes of the ledger's file, if it has one."""

    @property
    def wal_size(self) -> int:
        """Bytes of its WAL, if it has one."""


class Condition:
    """Looks at the writer every second, and when the writer says so."""

    def __init__(self, writer: Health, clock: Clock) -> None:
        self._writer, self._clock = writer, clock
        self.on_tidings: Callable[[Tidings], None] = _nobody_listens
        self.trouble: str | None = None  # why commits have to wait
        self._since = 0.0
        self._batch, self._batch_since = 0, 0.0
        self._wal_told = False
        writer.on_trouble = self.look

    async def run(self) -> None:
        """Look for ever; cancel to stop."""
        while True:
            self.look()
            await sleep(self._clock, LOOK_EVERY_S)

    def look(self) -> None:
        """Tell what has changed."""
        now = self._clock.monotonic()
        found = self._writer.trouble or self._stuck(now)
        before, self.trouble = self.trouble, found
        if before is None and found is not None:
            self._since = now
            self.on_tidings(Troubled(found))
        elif before is not None and found is None:
            self.on_tidings(Recovered(round(now - self._since, 3)))
        self._look_at_wal()

    def at_end(self) -> Unrecorded | None:
        """What a stopped writer left out; told, too."""
        calls = self._writer.unrecorded
        if not calls:
            return None
        reason = self._writer.ended_by or self._writer.trouble or "the ledger's writer does not answer"
        left = Unrecorded(calls, reason)
        self.on_tidings(left)
        return left

    def _stuck(self, now: float) -> str | None:
        """A commit that neither ends nor fails: a disk that hangs, or a stopped process that holds the gate."""
        batch = self._writer.busy_with
        if batch != self._batch:
            self._batch, self._batch_since = batch, now
        if not batch or now - self._batch_since < STUCK_S:
            return None
        return "a commit does not end: the disk hangs, or another process holds the ledger"

    def _look_at_wal(self) -> None:
        size = self._writer.wal_size
        if size >= WAL_ALARM and not self._wal_told:
            self._wal_told = True
            self.on_tidings(WalLarge(size))
        elif size < WAL_ALARM // 2:
            self._wal_told = False


def _nobody_listens(_tidings: Tidings) -> None:
    """Stands in until the owner sets `on_tidings`."""
