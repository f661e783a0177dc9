"""What this process recorded in the last seconds, for the case that Redis turns out to have lost it.

A replica that becomes the primary may never have got what the old one acknowledged; so may a server that restarts from
what it had on disk. The commit script notices: the last batch that it knows of this owner is not the last one that was
answered. Then those after it are told again, claims as calls that are under way whatever the limits say by now.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from msgspec import Struct

from theo_daemon.ledger.operations import Operation
from theo_daemon.ledger.records import Ask, Bury, Check, Forget, Granted, Landing, Verdict
from theo_daemon.ledger.redis.told import Buried
from theo_workers.clock import Clock
from theo_workers.texts import length

KEEP_S: Final = 10.0
KEEP_BYTES: Final = 32_000_000  # of answers and outcomes


class Restore(Struct, frozen=True, gc=False):
    """This ask was granted before. Only ever told again, never asked."""

    ask: Ask


Recorded = Operation | Restore


class _Batch(NamedTuple):
    token: int
    at: float  # monotonic seconds
    operations: list[Recorded]
    size: int


class Journal:
    """Of one owner. Tokens grow."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._batches: deque[_Batch] = deque()
        self._size = 0
        self._before = 0  # the last token that is not kept any more

    def add(
        self, token: int, operations: Sequence[Recorded], verdicts: Sequence[Verdict | Buried | None]
    ) -> None:
        """This batch was recorded, and answered so."""
        again = [
            one
            for operation, verdict in zip(operations, verdicts, strict=True)
            if (one := _again(operation, verdict)) is not None
        ]
        size = sum(_size(one) for one in again)
        now = self._clock.monotonic()
        self._batches.append(_Batch(token, now, again, size))
        self._size += size
        while self._batches and (self._batches[0].at < now - KEEP_S or self._size > KEEP_BYTES):
            gone = self._batches.popleft()
            self._before, self._size = gone.token, self._size - gone.size

    def take_since(self, token: int) -> list[list[Recorded]] | None:
        """The batches after that one, which are kept no more; None: they are not all here."""
        if token < self._before:
            return None
        taken: list[list[Recorded]] = []
        while self._batches and self._batches[-1].token > token:
            batch = self._batches.pop()
            self._size -= batch.size
            if batch.operations:
                taken.append(batch.operations)
        return taken[::-1]


def _again(operation: Recorded, verdict: Verdict | Buried | None) -> Recorded | None:
    """What has to be told again of it. Looks change nothing, and who is dead will be found dead again.

    An outcome is not forgotten twice: a reply that was published by then may be lost as well, and is published from it.
    """
    match operation:
        case Ask():
            return Restore(operation) if isinstance(verdict, Granted) else None
        case Check() | Forget() | Bury():
            return None
    return operation


def _size(operation: Recorded) -> int:
    if not isinstance(operation, Landing):
        return 0
    settled = operation.settled
    answer = 0 if settled is None or settled.cache is None else length(settled.cache.answer)
    answer += 0 if operation.for_waiters is None else length(operation.for_waiters.answer)
    return answer + sum(length(end.outcome or b"") for end in operation.ends)
