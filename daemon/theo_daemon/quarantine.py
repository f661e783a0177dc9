"""Where suspect entries wait: each is rehearsed alone, under a mark on record, before it goes on like any other."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import islice
from typing import Protocol

from msgspec import Struct
from redis.exceptions import RedisError

from theo_daemon.backoff import delay_s
from theo_daemon.generation import deaths_among, over_the_limit
from theo_daemon.held import HeldEntries
from theo_daemon.job import Delivery, EntryRef
from theo_daemon.lease_scripts import FETCH
from theo_daemon.ledger.port import Claims
from theo_daemon.ledger.records import (
    NO_MODEL,
    Ask,
    Busy,
    Clear,
    Granted,
    JobEnd,
    Landing,
    PriorAttempt,
    Verdict,
    Want,
)
from theo_daemon.outcomes import settled
from theo_daemon.ports import Finish
from theo_daemon.reception import TRUNCATED_FIELD_BYTES, Accepted, Reception, Refused
from theo_daemon.suspicion import Suspect, Treatment, treat
from theo_daemon.wire import Wire
from theo_workers.clock import Clock, sleep

BATCH = 64  # suspects asked about at once
MOST_WORDS = 4_000  # of an entry that is not read as a whole
AGAIN_S = 0.5  # until suspects that other processes are at are looked at again


class Ward(Protocol):
    """What the dispatcher does for suspects."""

    async def rehearse(self, delivery: Delivery) -> Accepted | Refused:
        """Do with the job's words whatever can kill a process."""

    def take(self, batch: Sequence[Accepted | Refused]) -> None:
        """Take on what has been received."""

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        """Receive these and take them on."""

    def refuse(self, refused: Refused) -> asyncio.Future[Finish]:
        """Answer with an error."""


class QuarantineRules(Struct, frozen=True, kw_only=True):
    """The `[ingress]` table, as far as suspects go."""

    group: str
    max_job_bytes: int
    max_deliveries: int


class Quarantine:
    """Of one process. Its entries are held, so that their leases are renewed; `run` must be running."""

    def __init__(
        self, *, wire: Wire, rules: QuarantineRules, consumer: str, held: HeldEntries, ledger: Claims, ward: Ward,
        reception: Reception, clock: Clock, rng: random.Random,
    ) -> None:  # fmt: skip
        self._wire, self._rules, self._consumer, self._held = wire, rules, consumer, held
        self._ledger, self._ward, self._reception = ledger, ward, reception
        self._clock, self._rng = clock, rng
        self._waiting: deque[Suspect] = deque()
        self._work = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self, suspects: Iterable[Suspect]) -> None:
        """They wait here until it is their turn."""
        self._waiting.extend(suspects)
        self._work.set()

    def give_back(self) -> list[EntryRef]:
        """Those that still wait, to be handed back; once `run` has ended."""
        left = [suspect.ref for suspect in self._waiting]
        self._waiting.clear()
        return left

    async def run(self) -> None:
        """See to them until cancelled. One that it is at stays first in the line until that is done."""
        failures = 0
        while True:
            if not self._waiting:
                self._work.clear()
                await self._work.wait()
            try:
                await self._see_to_some()
                failures = 0
            except RedisError:  # the intake reports it
                failures += 1
                await self._wire.close()
                await sleep(self._clock, delay_s(failures, self._rng.random()))

    async def _see_to_some(self) -> None:
        some = list(islice(self._waiting, BATCH))
        looks = await asyncio.gather(*(self._ledger.ask(self._question(one)) for one in some))
        seen_to = False
        for suspect, look in zip(some, looks, strict=True):
            if await self._see_to(suspect, look):
                seen_to = True
            else:
                self._waiting.remove(suspect)
                self._waiting.append(suspect)
        if not seen_to:
            await sleep(self._clock, AGAIN_S)

    async def _see_to(self, suspect: Suspect, look: Verdict | None) -> bool:
        """False: another process is at it, or was until it died a moment ago."""
        match look:
            case Clear(prior):
                deaths = len(deaths_among(prior))
            case Busy():
                return False
            case _:  # its outcome is on record
                await self._read(suspect)
                return True
        treatment = treat(suspect.deliveries, deaths, max_deliveries=self._rules.max_deliveries)
        if treatment is Treatment.READ:
            await self._read(suspect)
            return True
        async with self._marked(suspect) as marked:
            if marked and treatment is Treatment.REHEARSE:
                await self._rehearse(suspect)
            elif marked:
                await self._refuse(suspect, prior, deaths)
        return marked

    # -- treatments ----------------------------------------------------------------------------------

    async def _read(self, suspect: Suspect) -> None:
        """Each of its deliveries is accounted for, or its outcome is on record."""
        found = await self._fetch(suspect)
        self._waiting.remove(suspect)
        if isinstance(found, Delivery):
            self._ward.deliver([found])
        elif found is not None:
            self._ward.refuse(found)

    async def _rehearse(self, suspect: Suspect) -> None:
        found = await self._fetch(suspect)
        received = await self._ward.rehearse(found) if isinstance(found, Delivery) else found
        self._waiting.remove(suspect)
        if isinstance(received, Accepted):
            self._ward.take([received])
        elif received is not None:
            await asyncio.wait((self._ward.refuse(received),))

    async def _refuse(self, suspect: Suspect, prior: Sequence[PriorAttempt], deaths: int) -> None:
        """A job that has killed one process more than it may did so while it was refused: it is not even read."""
        legible = deaths <= self._rules.max_deliveries
        found = await self._words(suspect, self._rules.max_job_bytes if legible else 0)
        self._waiting.remove(suspect)
        if found is None:
            return
        refused = self._reception.refuse_for_good(
            found[0], over_the_limit(deaths), deaths=deaths, prior=prior, legible=legible
        )
        envelope = refused.envelope
        if envelope.id != suspect.ref.entry_id:  # the id is free for another push
            end = JobEnd(ref=suspect.ref, outcome=None, tenant=envelope.tenant or "", client_id=envelope.id)
            self._ledger.tell(Landing(ends=(end,)))
        await asyncio.wait((self._ward.refuse(refused),))

    async def _fetch(self, suspect: Suspect) -> Delivery | Refused | None:
        """The entry, if it is small enough to be read and still ours; no larger one comes into this process."""
        found = await self._words(suspect, self._rules.max_job_bytes)
        if found is None:
            return None
        delivery, size = found
        if size > self._rules.max_job_bytes:
            return self._reception.refuse_unread(delivery, size)
        self._held.weigh(suspect.ref, size)
        return delivery

    async def _words(self, suspect: Suspect, most_bytes: int) -> tuple[Delivery, int] | None:
        """The entry and its size. What has more bytes is cut, field by field. None: it is not ours any more."""
        ref = suspect.ref
        args = (
            self._rules.group,
            self._consumer,
            ref.entry_id,
            most_bytes,
            TRUNCATED_FIELD_BYTES,
            MOST_WORDS,
        )
        found = await self._wire.run(FETCH, (ref.stream,), args)
        if not found:
            self._held.release(ref)
            return None
        size, words = found
        return Delivery(ref, suspect.lane, words, redelivered=True), size

    # -- marks ---------------------------------------------------------------------------------------

    def _question(self, suspect: Suspect, want: Want | None = None) -> Ask:
        """What is on record of it; with `want` it is marked."""
        return Ask(
            ref=suspect.ref,
            key=_mark(suspect.ref),
            cache_key=None,
            digest="",
            redelivered=True,
            want=want,
        )

    @asynccontextmanager
    async def _marked(self, suspect: Suspect) -> AsyncIterator[bool]:
        """While the block runs it is on record that this process is at the job. False: another one is."""
        want = Want(self._ledger.next_attempt_id(), NO_MODEL, NO_MODEL, 0, ())
        unmark = partial(self._unmark, suspect.ref, want)
        verdict = await self._ledger.ask(self._question(suspect, want), orphaned=unmark)
        try:
            yield isinstance(verdict, Granted)
        finally:
            unmark(verdict)

    def _unmark(self, ref: EntryRef, want: Want, verdict: Verdict | None) -> None:
        if isinstance(verdict, Granted):
            end = settled(want, "void", cost_nano=0, latency_ms=0.0)
            self._ledger.tell(Landing(settled=end, release_key=_mark(ref)))


def _mark(ref: EntryRef) -> str:
    """In the place of a flight's key, which has no colon in front."""
    return f":{ref.stream}:{ref.entry_id}"
