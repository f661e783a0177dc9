"""A repeated push waits for the first one of its id: until that has ended, or Redis has lost it and nobody runs it."""

from __future__ import annotations

import asyncio

from theo_daemon.flight import Flight
from theo_daemon.job import EntryRef
from theo_daemon.ledger.port import Claims, OnId
from theo_daemon.ledger.records import JobEnd, Landing
from theo_daemon.ports import Publisher
from theo_workers.clock import Clock, sleep

LOOK_EVERY_S = 5.0


class FirstPush:
    """Waits on `flight.wake`, which others may resolve, too."""

    def __init__(self, ledger: Claims, publisher: Publisher, clock: Clock) -> None:
        self._ledger, self._publisher, self._clock = ledger, publisher, clock

    async def wait(self, flight: Flight, holder: EntryRef) -> None:
        """Return when it is worth asking the ledger again: also when the first push has come and leads."""
        flight.awaited = holder
        try:
            while flight.lead.ref != holder and not await self._woken(flight):
                if await self._publisher.vanished(holder):
                    await self._free(flight, holder)
                    return
        finally:
            flight.awaited = None

    async def _woken(self, flight: Flight) -> bool:
        job = flight.lead.job
        flight.wake = wake = self._ledger.wait(OnId(job.tenant, job.client_id or ""))
        nap = asyncio.ensure_future(sleep(self._clock, LOOK_EVERY_S))
        try:
            await asyncio.wait((wake, nap), return_when=asyncio.FIRST_COMPLETED)
        finally:
            nap.cancel()
        woken = wake.done()
        wake.cancel()
        return woken

    async def _free(self, flight: Flight, holder: EntryRef) -> None:
        """The id goes to whoever asks next, unless a call for the lost entry is still out."""
        job = flight.lead.job
        end = JobEnd(ref=holder, outcome=None, tenant=job.tenant, client_id=job.client_id, vanished=True)
        await self._ledger.land(Landing(ends=(end,)))
