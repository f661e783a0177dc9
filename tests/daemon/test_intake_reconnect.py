from __future__ import annotations

import random
from typing import Any, cast

from redis.exceptions import ConnectionError as RedisConnectionError

from tests.doubles import RecordedEvents, running
from theo_daemon.held import HeldEntries, Room
from theo_daemon.intake import IntakeRules, StreamIntake
from theo_daemon.keys import Keys
from theo_daemon.wire import Wire
from theo_workers.clock import FakeClock


class DeadWire:
    """A server that is away."""

    def __init__(self) -> None:
        self.tries = 0

    async def ask_all(self, commands: Any) -> Any:
        self.tries += 1
        raise RedisConnectionError("refused")

    async def close(self) -> None:
        pass


async def test_tries_to_reconnect_at_a_bounded_rate_and_reports_the_loss_once() -> None:
    clock, wire, events = FakeClock(), DeadWire(), RecordedEvents()
    intake = StreamIntake(
        wire=cast("Wire", wire),
        keys=Keys(),
        rules=IntakeRules(group="g", lanes={"default": 1}),
        consumer="me",
        held=HeldEntries(),
        room=lambda: Room(1, 1),
        events=events,
        clock=clock,
        rng=random.Random(1),
    )
    async with running(intake.run(lambda _: None)):
        await clock.advance(600)
        assert 600 / 5 <= wire.tries <= 600 / 2.5 + 10
        assert not intake.connected
    assert events.names == ["redis_lost"]
