"""Whoever pushes jobs: at its moment, again until Redis takes it; and thinks better of some."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tests.sim.loop import SimLoop
from tests.sim.network import Server
from tests.sim.redis_words import Error
from tests.sim.traffic import Job
from tests.sim.witness import Cancelled, Pushed, Witness
from theo_daemon.entry import STRUCTURED
from theo_daemon.job import EntryRef

AGAIN_S = 0.15
CONTROL = b"theo:control"


class Clients:
    """All of a world's. `left` jobs are not pushed yet."""

    def __init__(self, loop: SimLoop, server: Server, witness: Witness, jobs: Sequence[Job]) -> None:
        self._loop, self._server, self._witness = loop, server, witness
        self.left = len(jobs)
        for job in jobs:
            loop.at(loop.now + job.at, self._push, job)

    def _push(self, job: Job) -> None:
        stream = "theo:jobs" if job.lane == "default" else f"theo:jobs:{job.lane}"
        fields = {"job": json.dumps(_document(job.fields))} if job.as_document else job.fields
        entry = self._ask(b"XADD", stream.encode(), b"*", *_words(fields))
        if entry is None:
            self._loop.at(self._loop.now + AGAIN_S, self._push, job)
            return
        self.left -= 1
        pushed = Pushed(job, EntryRef(stream, entry.decode()), self._loop.now)
        self._witness.pushed.append(pushed)
        self._witness.by_ref[pushed.ref] = pushed
        if job.cancel_at is not None:
            self._loop.at(self._loop.now + job.cancel_at - job.at, self._cancel, pushed)

    def _cancel(self, pushed: Pushed) -> None:
        job = pushed.job
        name = pushed.ref.entry_id if job.cancel_by == "entry" else job.fields["id"]
        if self._ask(b"XADD", CONTROL, b"*", b"cmd", b"cancel", b"id", name.encode()) is None:
            self._loop.at(self._loop.now + AGAIN_S, self._cancel, pushed)
        else:
            self._witness.cancels.append(Cancelled(name, self._loop.now))
            self._witness.faults["cancel"] += 1

    def _ask(self, *words: bytes) -> Any:
        """The reply, or None when Redis does not take it just now."""
        server = self._server
        if not server.up or server.stands_until > self._loop.now:
            return None
        reply = server.data.do(words)
        server.wake()
        return None if isinstance(reply, Error) else reply


def _document(fields: dict[str, str]) -> dict[str, Any]:
    return {name: json.loads(value) if name in STRUCTURED else value for name, value in fields.items()}


def _words(fields: dict[str, str]) -> list[bytes]:
    return [word.encode() for pair in fields.items() for word in pair]
