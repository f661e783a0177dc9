from __future__ import annotations

from typing import Any, cast

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.doubles import running
from theo_daemon.redis_clock import REFRESH_S, RedisClock
from theo_daemon.wire import Wire
from theo_workers.clock import FakeClock

SERVER_S = 1_800_000_000.0


class TimeServer:
    """Answers TIME by a clock of its own, after half of `round_trip_s` each way."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock, self.round_trip_s, self.ahead_s, self.up = clock, 0.0, 0.0, True
        self.role, self.left = b"master", 0

    async def close(self) -> None:
        self.left += 1

    async def ask(self, *words: str) -> list[bytes]:
        if words == ("ROLE",):
            return [self.role]
        if not self.up:
            raise RedisConnectionError("gone")
        await self.clock.advance(self.round_trip_s / 2)
        now = SERVER_S + self.clock.monotonic() + self.ahead_s
        await self.clock.advance(self.round_trip_s / 2)
        return [b"%d" % int(now), b"%d" % round(now % 1 * 1e6)]


def build() -> tuple[FakeClock, TimeServer, RedisClock]:
    clock = FakeClock(monotonic=0.0)
    server = TimeServer(clock)
    return clock, server, RedisClock(cast("Wire", server), clock)


def server_ms(clock: FakeClock, server: TimeServer) -> float:
    return (SERVER_S + clock.monotonic() + server.ahead_s) * 1000


@pytest.mark.parametrize("round_trip_s", [0.0, 0.05])
async def test_follows_the_server_and_not_the_local_wall_clock(round_trip_s: float) -> None:
    clock, server, redis_clock = build()
    server.round_trip_s = round_trip_s
    await redis_clock.sync()
    await clock.advance(60)
    assert redis_clock.now_ms() == pytest.approx(server_ms(clock, server), abs=2)


async def test_before_the_first_answer_it_is_the_wall_clock() -> None:
    clock, _, redis_clock = build()
    assert redis_clock.now_ms() == int(clock.wall() * 1000)


async def test_keeps_the_last_offset_while_the_server_is_away() -> None:
    clock, server, redis_clock = build()
    await redis_clock.sync()
    server.up = False
    with pytest.raises(RedisConnectionError):
        await redis_clock.sync()
    await clock.advance(10)
    assert redis_clock.now_ms() == pytest.approx(server_ms(clock, server), abs=2)


async def test_a_slow_answer_is_mistrusted_at_first_and_believed_in_the_end() -> None:
    _clock, server, redis_clock = build()
    server.round_trip_s = 0.002
    await redis_clock.sync()
    server.round_trip_s, server.ahead_s = 1.0, 30.0
    before: Any = redis_clock.error_s
    await redis_clock.sync()
    assert redis_clock.error_s == 2 * before
    for _ in range(10):
        await redis_clock.sync()
    assert redis_clock.error_s == 0.5


async def test_a_server_that_became_a_replica_is_left() -> None:
    clock, server, redis_clock = build()
    async with running(redis_clock.run()):
        await clock.advance(3 * REFRESH_S)
        assert server.left == 0
        server.role = b"slave"
        await clock.advance(REFRESH_S)
        assert server.left == 1
