"""Which jobs may be what their processes died of, and how they are treated until that is known. Pure.

Deaths are on record of processes that had sent the job's call, or were rehearsing the job. Redis counts more than that:
every time an entry came to another process, be it after a death, a stall or a long wait. So its count only makes an
entry suspect. Suspects are rehearsed: read, decoded and counted one at a time, with a mark on record while that lasts.
A death in there is certainly theirs, and a job that survives it goes on like any other.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from theo_daemon.job import EntryRef

UNEXPLAINED = 2  # holders that were lost without a death on record, from which on an entry is suspect


class Suspect(Struct, frozen=True):
    """An entry that this process owns and has not read. `deliveries` is the server's count, this one included."""

    ref: EntryRef
    lane: str
    deliveries: int


class Treatment(StrEnum):
    READ = "read"  # like any other
    REHEARSE = "rehearse"
    REFUSE = "refuse"


def suspect_from(max_deliveries: int) -> int:
    """The delivery from which on an entry is looked at before it is read.

    No entry that must be refused has fewer: each death on record was one delivery, and this is another.
    """
    return min(UNEXPLAINED, max_deliveries) + 1


def alone_from(max_deliveries: int, max_attempts: int) -> int:
    """The deaths on record from which on a job runs alone: the next one would be its last."""
    return max(1, min(max_deliveries, max_attempts) - 1)


def treat(deliveries: int, deaths: int, *, max_deliveries: int) -> Treatment:
    """`deliveries` as the server counts them, the present one included; `deaths` on record."""
    if deaths >= max_deliveries:
        return Treatment.REFUSE
    return Treatment.REHEARSE if deliveries - 1 - deaths >= UNEXPLAINED else Treatment.READ
