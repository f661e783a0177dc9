"""Owners of the ledger in Redis and their leases: who is taken for dead, and what it may still do then."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.contract.asks import ask, landing, money, sent
from tests.contract.ledgers import LEASE_S
from tests.contract.redis_ledgers import opened
from tests.doubles import until
from theo_daemon.embedded_valkey import EmbeddedValkey
from theo_daemon.ledger.records import (
    Busy,
    Granted,
    Hit,
)
from theo_daemon.ledger.redis import RedisLedger
from theo_workers.errors import LedgerError


@pytest.fixture
async def ledger(valkey: EmbeddedValkey, prefix: str) -> AsyncIterator[RedisLedger]:
    async with opened(valkey.url, prefix) as ledger:
        yield ledger


@pytest.fixture
async def peer(ledger: RedisLedger, valkey: EmbeddedValkey, prefix: str) -> AsyncIterator[RedisLedger]:
    async with opened(valkey.url, prefix, "peer") as peer:
        yield peer


async def test_the_buried_neither_claim_nor_land_nor_free_a_key(
    ledger: RedisLedger, peer: RedisLedger
) -> None:
    dead: list[str] = []
    peer.on_death(dead.append)
    asked = await sent(ledger)
    await ledger._lease.stop()
    await until(lambda: dead)
    again = await sent(peer)  # the same flight key: it was free
    claim = ledger.ask(ask(ledger, 3, "k3"))
    ledger.tell(landing(asked, answer=b'"stale"'))
    await until(ledger.crashed.done)
    assert not claim.done()
    assert await peer.ask(ask(peer, 4)) == Busy(), "the key is the new owner's still"
    await peer.land(landing(again, answer=b'"right"'))
    assert await peer.ask(ask(peer, 5)) == Hit(b'"right"')
    assert money(peer) == (80, 0), "what the dead knew of its call replaced what was charged for it"


async def test_a_grant_that_arrives_after_the_lease_ran_out_is_held_until_that_is_known(
    ledger: RedisLedger, peer: RedisLedger
) -> None:
    dead: list[str] = []
    peer.on_death(dead.append)
    await ledger._lease.stop()
    ledger._lease._until = 0.0  # as after a long stop of the process
    claim = ledger.ask(ask(ledger))
    await until(lambda: dead)
    await asyncio.sleep(0.2)
    assert not claim.done(), "it must not be sent: it is booked as lost"
    assert money(peer) == (100, 0)
    ledger._lease._lose(LedgerError("buried"))
    await asyncio.sleep(0.05)
    assert not claim.done()


async def test_a_grant_that_was_held_is_given_when_the_next_beat_shows_the_process_alive(
    ledger: RedisLedger,
) -> None:
    ledger._lease._until = 0.0
    assert await asyncio.wait_for(ledger.ask(ask(ledger)), 2 * LEASE_S) == Granted()


async def test_a_clock_that_is_set_back_keeps_no_dead_process_alive(
    ledger: RedisLedger, peer: RedisLedger, redis: Any, prefix: str
) -> None:
    """As after a failover to a host whose clock is an hour slow: all times on record are ahead of it."""
    dead: list[str] = []
    peer.on_death(dead.append)
    await sent(ledger)
    await ledger._lease.stop()
    base, hour = f"{prefix}:ledger", 3_600_000
    async with redis.pipeline(transaction=True) as at_once:
        at_once.hincrby(base, "beat", hour)
        for owner in (ledger.owner, peer.owner):
            at_once.zincrby(f"{base}:leases", hour, owner)
        await at_once.execute()
    await asyncio.wait_for(until(lambda: dead), 3 * LEASE_S)
    assert dead == ["one"]
    assert money(peer) == (100, 0)
    leases = await redis.zrange(f"{base}:leases", 0, -1, withscores=True)
    assert [score < (time.time() + 2 * LEASE_S) * 1000 for _, score in leases] == [True]


async def test_a_stalled_event_loop_keeps_its_lease(ledger: RedisLedger, peer: RedisLedger) -> None:
    dead: list[str] = []
    ledger.on_death(dead.append)
    peer.on_death(dead.append)
    asked = await sent(ledger)
    time.sleep(2 * LEASE_S)
    await asyncio.sleep(0.3)
    assert dead == []
    await ledger.land(landing(asked))
    assert money(peer) == (40, 0)


async def test_owners_are_numbered_and_never_twice(valkey: EmbeddedValkey, prefix: str) -> None:
    owners = []
    for _ in range(3):
        async with opened(valkey.url, prefix) as ledger:
            owners.append(ledger.owner)
    assert owners == sorted(set(owners))


async def test_a_clean_end_with_calls_open_lets_them_be_booked_at_once(
    valkey: EmbeddedValkey, prefix: str
) -> None:
    async with opened(valkey.url, prefix, "peer", lease_s=10) as peer:
        dead: list[str] = []
        peer.on_death(dead.append)
        async with opened(valkey.url, prefix, lease_s=10) as ledger:
            await sent(ledger)
        began = time.monotonic()
        await until(lambda: dead)
        assert time.monotonic() - began < 5, "with the next beat, long before the lease"
        assert money(peer) == (100, 0)


async def test_a_clean_end_leaves_nothing_of_its_owner(ledger: RedisLedger, redis: Any, prefix: str) -> None:
    await ledger.land(landing(await sent(ledger)))
    owner = ledger.owner
    await ledger.__aexit__(None, None, None)
    assert await redis.exists(f"{prefix}:ledger:owner:{owner}", f"{prefix}:ledger:open:{owner}") == 0
    assert await redis.hlen(f"{prefix}:ledger:owners") == await redis.zcard(f"{prefix}:ledger:leases") == 0
