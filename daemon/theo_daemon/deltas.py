"""Streams an answer's text to every job of its flight, in pieces no more often than every 50 ms."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from theo_daemon.flight import Flight, Ticket
from theo_daemon.job import Word
from theo_daemon.ports import Publisher
from theo_daemon.reply import word
from theo_workers.clock import Clock
from theo_workers.messages import DeltaSink
from theo_workers.texts import Text

EVERY_S = 0.05
MOST_BYTES = 1_048_576  # of one delta, but for a single piece


class DeltaFeed:
    """Each ticket gets the text from the start, `seq` without gaps, whenever it joined."""

    def __init__(self, publisher: Publisher, clock: Clock) -> None:
        self._publisher, self._clock = publisher, clock

    def begin(self, flight: Flight) -> DeltaSink | None:
        """A new attempt starts; where its pieces go, if any job of the flight wants them."""
        flight.attempt_number += 1
        flight.text, flight.sent, flight.streamed, flight.flush = [], 0, False, None
        if not flight.lead.job.stream and not any(ticket.job.stream for ticket in flight.waiters):
            return None

        def take(piece: str) -> None:
            flight.text.append(word(piece))  # those who join later need all of them, and so they are smallest
            if flight.flush is None:
                flight.flush = asyncio.get_running_loop().create_future()
                flight.flush.add_done_callback(lambda rung: None if rung.cancelled() else self._flush(flight))
                self._clock.call_at(self._clock.monotonic() + EVERY_S, flight.flush)

        return take

    def end(self, flight: Flight) -> None:
        """The answer is whole: send what its jobs have not seen of it, and nobody needs its pieces any more."""
        if flight.text:
            self._send_all(flight)
            flight.text, flight.sent, flight.streamed = [], 0, True

    def complete(self, flight: Flight, ticket: Ticket, output: Text) -> None:
        """The same for one job of an answer that was not streamed: it is one delta, as a hit is."""
        if ticket.job.stream and not ticket.ended and not flight.streamed and output:
            begun = bool(flight.text)  # another answer, that did not come to its end
            self._begin(ticket, max(1, flight.attempt_number) + begun)
            self._send(ticket, word(output))

    def _flush(self, flight: Flight) -> None:
        flight.flush = None
        self._send_all(flight)

    def _send_all(self, flight: Flight) -> None:
        flight.text[flight.sent :] = _deltas(flight.text[flight.sent :])
        flight.sent = len(flight.text)
        for ticket in flight.tickets:
            if ticket.job.stream and not ticket.ended:
                self._begin(ticket, flight.attempt_number)
                for delta in flight.text[ticket.deltas :] if ticket.deltas else _deltas(flight.text):
                    self._send(ticket, delta)
                ticket.deltas = flight.sent

    def _begin(self, ticket: Ticket, attempt: int) -> None:
        attempt += ticket.attempts_before
        if ticket.delta_attempt != attempt:
            ticket.delta_attempt, ticket.seq, ticket.deltas = attempt, 0, 0

    def _send(self, ticket: Ticket, delta: Word) -> None:
        self._publisher.delta(ticket.job.envelope, attempt=ticket.delta_attempt, seq=ticket.seq, text=delta)
        ticket.seq += 1


def _deltas(pieces: Sequence[Word]) -> Iterator[Word]:
    """Pieces put together, none too large to be sent."""
    start = size = 0
    for place, piece in enumerate(pieces):
        if size and size + len(piece) > MOST_BYTES:
            yield _joined(pieces[start:place])
            start, size = place, 0
        size += len(piece)
    if size:
        yield _joined(pieces[start:])


def _joined(pieces: Sequence[Word]) -> Word:
    if len(pieces) == 1:
        return pieces[0]
    texts = [piece for piece in pieces if isinstance(piece, str)]
    if len(texts) == len(pieces):
        return "".join(texts)
    return b"".join([piece.encode() if isinstance(piece, str) else piece for piece in pieces])
