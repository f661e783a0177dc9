"""What answers flights, put together: their turns, their calls, and what they are held against."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from theo_daemon.attempts import Attempts
from theo_daemon.bookings import AttemptObserver, Bookings
from theo_daemon.claiming import Claiming
from theo_daemon.config import Config
from theo_daemon.deltas import DeltaFeed
from theo_daemon.fair_queue import FairQueue
from theo_daemon.fallbacks import Fallbacks
from theo_daemon.first_push import FirstPush
from theo_daemon.fleet import Fleet
from theo_daemon.flight import Flight
from theo_daemon.generation import Generation, LedgerQuestions
from theo_daemon.hold_lines import HoldLines
from theo_daemon.job import EntryRef
from theo_daemon.ledger.port import Claims
from theo_daemon.measuring import Measuring
from theo_daemon.ports import Holds, Publisher
from theo_daemon.suspicion import alone_from
from theo_daemon.turns import TurnQueue
from theo_workers.clock import Clock


class Engine(NamedTuple):
    """One process's."""

    measuring: Measuring
    lines: FairQueue[Flight]
    hold_lines: HoldLines
    turns: TurnQueue
    generation: Generation


def build_engine(
    config: Config, *, fleet: Fleet, ledger: Claims, publisher: Publisher, holds: Holds, deltas: DeltaFeed,
    observer: AttemptObserver, redis_now_ms: Callable[[], int], lose: Callable[[Sequence[EntryRef]], None],
    clock: Clock, rng: random.Random,
) -> Engine:  # fmt: skip
    """Its parts, each of which knows only those that it needs."""
    routing, on_unknown, max_deliveries = (
        config.routing,
        config.ledger.on_unknown,
        config.ingress.max_deliveries,
    )
    measuring = Measuring(fleet)
    lines: FairQueue[Flight] = FairQueue(config.ingress.lanes)
    hold_lines = HoldLines(clock, rng, peers=lambda: lines.peers)
    questions = LedgerQuestions(
        on_unknown=on_unknown, max_attempts=routing.max_attempts, max_deliveries=max_deliveries
    )
    claiming = Claiming(
        fleet=fleet, ledger=ledger, asking=questions, holds=holds, publisher=publisher, hold_lines=hold_lines,
        redis_now_ms=redis_now_ms, clock=clock,
    )  # fmt: skip
    attempts = Attempts(
        fleet=fleet, ledger=ledger, deltas=deltas, asking=questions, claiming=claiming, routing=routing,
        on_unknown=on_unknown, fallbacks=Fallbacks(config),
        bookings=Bookings(fleet=fleet, observer=observer, clock=clock), hold_lines=hold_lines, lose=lose,
        clock=clock, rng=rng,
    )  # fmt: skip
    turns = TurnQueue(
        lines,
        start=attempts.start,
        look=lambda flight: ledger.ask(questions.ask(flight, None)),
        fleet=fleet,
        routing=routing,
        clock=clock,
        alone_from=alone_from(max_deliveries, routing.max_attempts),
    )
    generation = Generation(
        measuring=measuring, ledger=ledger, turns=turns, attempts=attempts, questions=questions,
        hold_lines=hold_lines, first_push=FirstPush(ledger, publisher, clock), clock=clock,
    )  # fmt: skip
    return Engine(measuring, lines, hold_lines, turns, generation)
