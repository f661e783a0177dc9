"""One raw connection: what it shows, and that no answer ever reaches the wrong caller."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from theo_daemon.embedded_valkey import EmbeddedValkey
from theo_daemon.redis_link import RedisLink
from theo_daemon.wire import Script, Wire


async def test_replies_are_raw_and_error_replies_stand_among_them(wire: Wire, prefix: str) -> None:
    replies = await wire.ask_all(
        [("SET", prefix, b"\x00\xff"), ("NOSUCH",), ("GET", prefix), ("GET", "absent")]
    )
    assert (replies[0], replies[2:]) == (b"OK", [b"\x00\xff", None])
    assert isinstance(replies[1], ResponseError)
    with pytest.raises(ResponseError):
        await wire.ask("NOSUCH")


async def test_callers_take_turns(wire: Wire) -> None:
    answers = await asyncio.gather(*[wire.ask("ECHO", str(number)) for number in range(50)])
    assert answers == [str(number).encode() for number in range(50)]


async def test_after_a_cancelled_call_nobody_gets_its_answer(wire: Wire, prefix: str) -> None:
    for _ in range(20):
        waiting = asyncio.create_task(wire.ask("BLPOP", prefix, 30))
        other = asyncio.create_task(wire.ask("ECHO", "mine"))
        await asyncio.sleep(0)
        waiting.cancel()
        assert await other == b"mine"
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def test_a_cancellation_is_never_lost(wire: Wire) -> None:
    async def ask_for_ever() -> None:
        while True:
            await wire.ask("PING")

    for turns in range(40):
        task = asyncio.create_task(ask_for_ever())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait((task,), timeout=5)
        assert done
        assert task.cancelled()


async def test_a_slow_answer_is_given_up_and_the_connection_with_it(link: RedisLink, prefix: str) -> None:
    wire = link.wire(timeout_s=0.05)
    with pytest.raises(RedisTimeoutError):
        await wire.ask("BLPOP", prefix, 30)
    assert await wire.ask("ECHO", "next") == b"next"
    await wire.close()


async def test_a_server_that_is_away_is_an_error_of_the_library(own_valkey: EmbeddedValkey) -> None:
    wire = RedisLink(own_valkey.url).wire()
    await wire.ask("PING")
    own_valkey.kill()
    for _ in range(3):
        with pytest.raises(RedisConnectionError):
            await wire.ask("PING")
    own_valkey.start()
    assert await wire.ask("PING") == b"PONG"
    await wire.close()


async def test_a_loading_or_password_protected_server_drops_the_connection(
    own_valkey: EmbeddedValkey,
) -> None:
    wire = RedisLink(own_valkey.url).wire()
    await wire.ask("CONFIG", "SET", "requirepass", "s3cret")
    fresh = RedisLink(own_valkey.url).wire()
    with pytest.raises(RedisError, match=r"[Aa]uth"):
        await fresh.ask_all([("PING",), ("PING",)])
    await wire.ask("CONFIG", "SET", "requirepass", "")
    assert await fresh.ask("PING") == b"PONG"
    await wire.close()
    await fresh.close()


@pytest.mark.parametrize("how", ["run", "run_all"])
async def test_a_script_is_loaded_where_it_is_unknown(wire: Wire, prefix: str, how: str) -> None:
    script = Script(f"-- {prefix}\nreturn {{KEYS[1], ARGV[1]}}")

    async def once() -> Any:
        if how == "run":
            return await wire.run(script, ("k",), ("a",))
        return (await wire.run_all(script, [(("k",), ("a",)), (("l",), ("b",))]))[0]

    assert await once() == [b"k", b"a"]
    assert await once() == [b"k", b"a"]
    assert await wire.ask("SCRIPT", "EXISTS", script.sha) == [1]
