from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from tests.doubles import running, until
from theo_daemon.embedded_valkey import EmbeddedValkey
from theo_daemon.event_names import EVENTS
from theo_daemon.events import QUEUE_LENGTH, StreamEvents
from theo_daemon.keys import Keys
from theo_daemon.redis_link import RedisLink
from theo_workers.clock import SystemClock


def events_on(link: RedisLink, keys: Keys, **more: Any) -> StreamEvents:
    return StreamEvents(
        wire=link.wire(), keys=keys, now_ms=lambda: 17, clock=SystemClock(), rng=random.Random(1), **more
    )


async def test_an_event_is_published_with_its_details_as_text(
    link: RedisLink, keys: Keys, redis: Any
) -> None:
    logged: list[Any] = []
    events = events_on(link, keys, log=lambda event, **fields: logged.append((event, fields)))
    events.emit("circuit_opened", model="fast", failures=3, probing=True, until=None, scopes=["a", "b"])
    assert logged[0][0] == "circuit_opened"
    events.stop()
    await asyncio.wait_for(events.run(), 5)
    ((_, fields),) = await redis.xrange(keys.events)
    assert fields == {
        "event": "circuit_opened",
        "at_ms": "17",
        "model": "fast",
        "failures": "3",
        "probing": "1",
        "scopes": '["a", "b"]',
    }


async def test_a_name_that_is_not_documented_is_refused(link: RedisLink, keys: Keys) -> None:
    with pytest.raises(ValueError, match="circuit_exploded"):
        events_on(link, keys).emit("circuit_exploded")


def test_the_contract_s_own_examples_are_documented() -> None:
    assert {
        *("circuit_opened", "circuit_half_open", "circuit_closed", "budget_warning", "budget_exhausted"),
        *("process_joined", "process_left", "lease_lost", "duplicate_suppressed", "model_disabled"),
    } <= EVENTS.keys()
    assert all(EVENTS.values())


async def test_the_stream_is_bounded(link: RedisLink, keys: Keys, redis: Any) -> None:
    events = events_on(link, keys, max_len=100)
    async with running(events.run()):
        for _ in range(5):
            for number in range(200):
                events.emit("circuit_closed", number=number)
            await until(lambda: not events._queue)
    assert await redis.xlen(keys.events) < 300


async def test_while_redis_is_away_the_newest_are_kept_and_the_others_counted(
    own_valkey: EmbeddedValkey, keys: Keys
) -> None:
    own_valkey.kill()
    link = RedisLink(own_valkey.url)
    events = events_on(link, keys)
    for number in range(QUEUE_LENGTH + 50):
        events.emit("circuit_closed", number=number)
    own_valkey.start()
    async with running(events.run()):
        client: Any = link.client(decode_responses=True)

        async def dropped() -> Any:
            return [
                fields
                for _, fields in await client.xrange(keys.events)
                if fields["event"] == "events_dropped"
            ]

        assert int((await until(dropped))[0]["count"]) == 50
        numbers = [fields["number"] for _, fields in await client.xrange(keys.events) if "number" in fields]
        assert numbers == [str(number) for number in range(50, QUEUE_LENGTH + 50)]
        await client.aclose()


async def test_stop_does_not_wait_for_a_server_that_is_away(own_valkey: EmbeddedValkey, keys: Keys) -> None:
    own_valkey.kill()
    events = events_on(RedisLink(own_valkey.url), keys)
    events.emit("process_left")
    events.stop()
    await asyncio.wait_for(events.run(), 5)
