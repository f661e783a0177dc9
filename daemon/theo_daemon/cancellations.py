"""Which jobs were cancelled: remembered for those that are read only later. Pure."""

from __future__ import annotations

from collections import OrderedDict

from msgspec import Struct

from theo_daemon.job import Job

REMEMBERED = 10_000


class Cancel(Struct, frozen=True, gc=False):
    """End the jobs of this id or entry id that were pushed up to `at_ms` (Unix ms by the clock of Redis)."""

    name: str
    tenant: str | None
    at_ms: int

    def covers(self, job: Job) -> bool:
        """Does it mean this job?"""
        ref = job.envelope.ref
        return (
            ref.pushed_ms <= self.at_ms
            and self.name in (job.client_id, ref.entry_id)
            and (self.tenant is None or self.tenant == job.tenant)
        )


class Cancellations:
    """The cancel commands of the recent past, by the name that they give."""

    def __init__(self) -> None:
        self._by_name: OrderedDict[str, list[Cancel]] = OrderedDict()

    def add(self, cancel: Cancel) -> None:
        """Remember it; the oldest names are forgotten beyond a limit."""
        self._by_name.setdefault(cancel.name, []).append(cancel)
        self._by_name.move_to_end(cancel.name)
        if len(self._by_name) > REMEMBERED:
            self._by_name.popitem(last=False)

    def cancelled(self, job: Job) -> bool:
        """Was this job cancelled before it was read?"""
        if not self._by_name:
            return False
        names = (job.client_id, job.envelope.ref.entry_id)
        return any(cancel.covers(job) for name in names if name for cancel in self._by_name.get(name, ()))
