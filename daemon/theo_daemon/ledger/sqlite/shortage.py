"""While the disk is full: claims are kept back, and what room there is goes to the record of what was paid for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import apsw

from theo_daemon.ledger.operations import Operation
from theo_daemon.ledger.port import Orphaned
from theo_daemon.ledger.records import Ask, Check, JobEnd, Landing, Verdict
from theo_daemon.ledger.sqlite.ballast import SPARE, Ballast

Waiting = tuple[Operation, "asyncio.Future[Verdict | None] | None", Orphaned | None]


class Shortage:
    """Belongs to the writer's thread."""

    def __init__(self, ballast: Ballast) -> None:
        self.ballast = ballast
        self.active = False
        self._kept_back: list[Waiting] = []
        self._freed: list[JobEnd] = []

    @property
    def reason(self) -> str:
        """What people are told."""
        needs = self.ballast.needs if self.ballast.kept else SPARE
        return f"the disk is full: no calls are made until {needs >> 20} MiB are free"

    def caused(self, error: apsw.Error) -> bool:
        """Is want of room why a commit failed? Some writes only tell of an I/O error."""
        return isinstance(error, apsw.FullError) or (
            isinstance(error, apsw.IOError) and self.ballast.free() < SPARE
        )

    def declared(self) -> bool:
        """Has another process taken the ballast?"""
        return self.ballast.kept and not self.ballast.stands()

    def begin(self) -> None:
        self.active = True
        self.ballast.release()

    def keep_back(self, batch: Sequence[Waiting]) -> list[Waiting]:
        """The batch without what asks for calls; that comes back with `end`, in order."""
        rest = []
        for waiting in batch:
            operation = waiting[0]
            if isinstance(operation, Ask | Check):
                self._kept_back.append(waiting)
            else:
                rest.append(waiting)
                if isinstance(operation, Landing):
                    self._freed += [one for one in operation.ends if one.client_id and not one.remember]
        return rest

    def end(self) -> list[Waiting]:
        """There is room again: what was kept back.

        Jobs that ended meanwhile let their ids go once more: what they asked before comes only now, and takes them.
        """
        batch, self._kept_back = self._kept_back, []
        if self._freed:
            batch.append((Landing(ends=tuple(self._freed)), None, None))
        self._freed, self.active = [], False
        return batch
