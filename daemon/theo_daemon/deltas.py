"""Streams an answer's text to every job of its flight, in pieces no more often than every 50 ms."""

from __future__ import annotations

import asyncio

from theo_daemon.flight import Flight, Ticket
from theo_daemon.ports import Publisher
from theo_workers.clock import Clock
from theo_workers.messages import DeltaSink

EVERY_S = 0.05


class DeltaFeed:
    """Each ticket gets the text from the start, `seq` without gaps, whenever it joined."""

    def __init__(self, publisher: Publisher, clock: Clock) -> None:
        self._publisher, self._clock = publisher, clock

    def begin(self, flight: Flight) -> DeltaSink | None:
        """A new attempt starts; where its pieces go, if any job of the flight wants them."""
        flight.attempt_number += 1
        flight.text, flight.flush = [], None
        if not flight.lead.job.stream and not any(ticket.job.stream for ticket in flight.waiters):
            return None

        def take(piece: str) -> None:
            flight.text.append(piece)
            if flight.flush is None:
                flight.flush = asyncio.get_running_loop().create_future()
                flight.flush.add_done_callback(lambda rung: None if rung.cancelled() else self._flush(flight))
                self._clock.call_at(self._clock.monotonic() + EVERY_S, flight.flush)

        return take

    def complete(self, flight: Flight, ticket: Ticket, output: str) -> None:
        """The answer is whole: send what this job has not seen; a hit is one delta."""
        if ticket.job.stream and not ticket.ended:
            self._send(ticket, max(1, flight.attempt_number), output)

    def _flush(self, flight: Flight) -> None:
        flight.flush = None
        text = "".join(flight.text)
        for ticket in flight.tickets:
            if ticket.job.stream and not ticket.ended:
                self._send(ticket, flight.attempt_number, text)

    def _send(self, ticket: Ticket, attempt: int, text: str) -> None:
        attempt += ticket.attempts_before
        if ticket.delta_attempt != attempt:
            ticket.delta_attempt, ticket.seq, ticket.delta_chars = attempt, 0, 0
        piece = text[ticket.delta_chars :]
        if piece:
            self._publisher.delta(ticket.job.envelope, attempt=attempt, seq=ticket.seq, text=piece)
            ticket.seq += 1
            ticket.delta_chars = len(text)
