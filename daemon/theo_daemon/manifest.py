"""The jobs of this process that have no published reply yet, by entry and by client id."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from theo_daemon.flight import Ticket
from theo_daemon.job import EntryRef
from theo_daemon.ports import Holds


class Manifest:
    """Every ticket from boarding until its reply is out or its entry is handed back."""

    def __init__(self, holds: Holds) -> None:
        self._holds = holds
        self._tickets: dict[EntryRef, Ticket] = {}
        self._ids: dict[tuple[str, str], Ticket] = {}
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._tickets)

    def __contains__(self, ref: EntryRef) -> bool:
        return ref in self._tickets

    def __iter__(self) -> Iterator[Ticket]:
        return iter(self._tickets.values())

    def find(self, ref: EntryRef) -> Ticket | None:
        """The ticket of this entry."""
        return self._tickets.get(ref)

    def add(self, ticket: Ticket) -> Ticket | None:
        """Take it on. Returns the ticket of this process that holds the same client id already, if any.

        One that has ended, though its reply is not out yet, holds nothing: the ledger says what is remembered.
        """
        if not self._tickets:
            self._empty.clear()
        self._tickets[ticket.ref] = ticket
        client_id = ticket.job.client_id
        if client_id is None:
            return None
        name = (ticket.job.tenant, client_id)
        first = self._ids.get(name)
        if first is not None and not first.ended:
            return first
        self._ids[name] = ticket
        return None

    def remove(self, ticket: Ticket) -> None:
        """It is done with, and so is its entry. Idempotent."""
        if self._tickets.pop(ticket.ref, None) is None:
            return
        ticket.ended = True
        if ticket.job.client_id is not None:
            name = (ticket.job.tenant, ticket.job.client_id)
            if self._ids.get(name) is ticket:
                del self._ids[name]
        self._holds.release(ticket.ref)
        if not self._tickets:
            self._empty.set()

    async def empty(self) -> None:
        """Wait until nothing is held."""
        await self._empty.wait()
