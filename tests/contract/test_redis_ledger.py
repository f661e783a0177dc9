"""The ledger in Redis when Redis or the connection fails: nothing is granted or booked twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.contract.asks import ask, landing, money, sent
from tests.contract.ledgers import LEASE_S
from tests.contract.redis_ledgers import opened, told_by
from tests.contract.topologies import PREFIX, Cluster, Server, client_of, move_slot
from tests.doubles import until
from theo_daemon.embedded_valkey import EmbeddedValkey
from theo_daemon.ledger.condition import Recovered, Troubled, Unrecorded
from theo_daemon.ledger.records import (
    CallLost,
    Granted,
)
from theo_daemon.ledger.redis import RedisLedger
from theo_daemon.wire import Wire
from theo_workers.errors import LedgerError


@pytest.fixture
async def ledger(valkey: EmbeddedValkey, prefix: str) -> AsyncIterator[RedisLedger]:
    async with opened(valkey.url, prefix) as ledger:
        yield ledger


@pytest.fixture
async def peer(ledger: RedisLedger, valkey: EmbeddedValkey, prefix: str) -> AsyncIterator[RedisLedger]:
    async with opened(valkey.url, prefix, "peer") as peer:
        yield peer


class LosesAnswers:
    """A connection that goes after the server has done what it was asked, the first so many times."""

    def __init__(self, wire: Wire, times: int) -> None:
        self._wire, self.left = wire, times

    async def run(self, *words: Any) -> Any:
        reply = await self._wire.run(*words)
        if self.left:
            self.left -= 1
            await self._wire.close()
            raise RedisConnectionError("gone")
        return reply

    async def close(self) -> None:
        await self._wire.close()


# -- answers that are lost -------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 3])
async def test_a_batch_whose_answer_is_lost_is_done_once(ledger: RedisLedger, times: int) -> None:
    told = told_by(ledger)
    ledger._commits.wire = LosesAnswers(ledger._commits.wire, times)  # type: ignore[assignment]
    asked = ask(ledger, holding=True)
    assert await ledger.ask(asked) == Granted()
    assert money(ledger) == (0, 100)
    ledger._commits.wire.left = times  # type: ignore[attr-defined]
    await ledger.land(landing(asked))
    assert money(ledger) == (40, 0)
    with ledger.transaction() as books:
        assert books.latency()["fast"].calls == 1
    assert [type(one) for one in told] == ([] if times == 1 else [Troubled, Recovered] * 2)


async def test_news_whose_message_was_lost_are_told_all_the_same(
    ledger: RedisLedger, peer: RedisLedger
) -> None:
    told: list[object] = []
    peer.on_news(told.append)
    await sent(ledger)
    await ledger._lease.stop()
    peer._commits.wire = LosesAnswers(peer._commits.wire, 1)  # type: ignore[assignment]
    await until(lambda: told)
    assert [type(one) for one in told] == [CallLost]
    assert money(peer) == (100, 0)


async def test_connections_that_are_cut_all_the_time_lose_and_double_nothing(
    ledger: RedisLedger, valkey: EmbeddedValkey
) -> None:
    client = client_of(valkey.port)
    stop = asyncio.Event()

    async def cut() -> None:
        while not stop.is_set():
            for one in client.client_list():
                if one["name"] == "one":
                    client.execute_command("CLIENT", "KILL", "ID", one["id"])
            await asyncio.sleep(0.02)

    async def life(number: int) -> None:
        asked = ask(ledger, number, f"k{number}")
        assert await ledger.ask(asked) == Granted()
        await asyncio.sleep(0.005 * (number % 7))
        await ledger.land(landing(asked))

    cutting = asyncio.create_task(cut())
    for start in range(0, 120, 20):
        await asyncio.gather(*(life(number) for number in range(start, start + 20)))
    stop.set()
    await cutting
    client.close()
    assert money(ledger) == (120 * 40, 0)
    assert not ledger.crashed.done()


async def test_a_server_that_forgot_the_script_is_given_it_again(
    ledger: RedisLedger, valkey: EmbeddedValkey
) -> None:
    asked = await sent(ledger)
    client = client_of(valkey.port)
    client.script_flush()
    client.close()
    await ledger.land(landing(asked))
    assert money(ledger) == (40, 0)


# -- a server in trouble ---------------------------------------------------------------------------------


async def test_out_of_memory_claims_and_landings_wait_and_nobody_dies_of_it(
    own_valkey: EmbeddedValkey,
) -> None:
    client = client_of(own_valkey.port)
    async with opened(own_valkey.url) as ledger, opened(own_valkey.url, name="peer") as peer:
        told, dead = told_by(ledger), []
        peer.on_death(dead.append)
        asked = await sent(ledger)
        client.config_set("maxmemory", 1)
        landed, claim = ledger.land(landing(asked)), ledger.ask(ask(ledger, 2, "k2"))
        await until(lambda: told)
        assert told == [Troubled("Redis does not record it: OOM")]
        assert ledger.trouble is not None
        await asyncio.sleep(2 * LEASE_S)
        assert not landed.done()
        assert not claim.done()
        client.config_set("maxmemory", 0)
        assert await asyncio.wait_for(claim, 10) == Granted()
        await landed
        assert money(ledger) == (40, 100)
        await until(lambda: len(told) == 2)
        assert isinstance(told[1], Recovered)
        assert (dead, ledger.crashed.done()) == ([], False)
    client.close()


async def test_a_replica_takes_nothing_and_a_primary_again_takes_what_waits(
    own_valkey: EmbeddedValkey,
) -> None:
    client = client_of(own_valkey.port)
    async with opened(own_valkey.url, lease_s=30) as ledger:
        asked = await sent(ledger)
        client.replicaof("127.0.0.1", 1)
        landed = ledger.land(landing(asked))
        await until(lambda: ledger.trouble is not None)
        # Of the landing, or of the lease's renewal, if its turn comes first.
        assert str(ledger.trouble).endswith(": READONLY")
        client.replicaof("NO", "ONE")
        await asyncio.wait_for(landed, 10)
        assert money(ledger) == (40, 0)
    client.close()


async def test_a_server_killed_and_away_for_longer_than_a_lease_comes_back_to_living_owners(
    tmp_path: Any,
) -> None:
    with Server(tmp_path / "server", options=("--appendfsync", "always")) as server:
        async with opened(server.url) as ledger, opened(server.url, name="peer") as peer:
            dead: list[str] = []
            peer.on_death(dead.append)
            ledger.on_death(dead.append)
            asked = await sent(ledger)
            server.kill()
            landed, claim = ledger.land(landing(asked)), peer.ask(ask(peer, 2, "k2"))
            await until(lambda: ledger.trouble is not None and peer.trouble is not None)
            await asyncio.sleep(2 * LEASE_S)
            server.start()
            assert await asyncio.wait_for(claim, 10) == Granted()
            await asyncio.wait_for(landed, 10)
            assert money(ledger) == (40, 100)
            await asyncio.sleep(LEASE_S)
            assert dead == []
            await until(lambda: ledger.trouble is None and peer.trouble is None)
            assert not ledger.crashed.done()
            assert not peer.crashed.done()


async def test_calls_that_could_not_be_recorded_by_the_end_are_told(
    own_valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("theo_daemon.ledger.redis.batches.STOP_S", 0.2)
    ledger = await RedisLedger(own_valkey.url).__aenter__()
    told = told_by(ledger)
    asks = [await sent(ledger, number, f"k{number}") for number in range(3)]
    own_valkey.kill()
    for asked in asks[:2]:
        ledger.tell(landing(asked))
    with pytest.raises(LedgerError, match="2 ended calls could not be recorded"):
        await ledger.__aexit__(None, None, None)
    assert isinstance(told[-1], Unrecorded)
    assert told[-1].calls == 2


async def test_a_process_that_died_while_the_server_was_away_is_noticed_after_it(tmp_path: Any) -> None:
    with Server(tmp_path / "server", options=("--appendfsync", "always")) as server:
        async with opened(server.url) as ledger, opened(server.url, name="peer") as peer:
            dead: list[str] = []
            peer.on_death(dead.append)
            await sent(ledger)
            await ledger._lease.stop()
            server.kill()
            await asyncio.sleep(2 * LEASE_S)
            server.start()
            await until(lambda: dead)
            assert dead == ["one"]
            assert money(peer) == (100, 0)


async def test_a_server_that_lost_its_data_ends_the_process(own_valkey: EmbeddedValkey) -> None:
    client = client_of(own_valkey.port)
    async with opened(own_valkey.url) as ledger:
        client.flushall()
        claim = ledger.ask(ask(ledger))
        await until(ledger.crashed.done)
        with pytest.raises(LedgerError, match="or Redis lost its data"):
            ledger.crashed.result()
        assert not claim.done()
    client.close()


async def test_a_foreign_key_in_the_ledger_s_place_ends_the_process_with_the_reason(
    own_valkey: EmbeddedValkey,
) -> None:
    client = client_of(own_valkey.port)
    async with opened(own_valkey.url) as ledger:
        client.set("theo:ledger:flights", "not a hash")
        claim = ledger.ask(ask(ledger))
        await until(ledger.crashed.done)
        with pytest.raises(LedgerError, match=r"WRONGTYPE.*holds something else"):
            ledger.crashed.result()
        assert not claim.done()
        assert client.hget("theo:ledger:spend", "0 model:fast") is None
    client.close()


async def test_a_recorder_that_fails_in_an_unforeseen_way_ends_the_process(
    valkey: EmbeddedValkey, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("theo_daemon.ledger.redis.packing.Packer.pack", broken)
    ledger = await RedisLedger(valkey.url, prefix=prefix).__aenter__()
    ledger.ask(ask(ledger))
    with pytest.raises(LedgerError, match="recorder ended: ZeroDivisionError") as crash:
        await asyncio.wait_for(ledger.crashed, 5)
    await ledger.__aexit__(LedgerError, crash.value, None)


async def test_a_user_who_may_not_run_what_it_needs_is_told_so(own_valkey: EmbeddedValkey) -> None:
    client = client_of(own_valkey.port)
    client.execute_command("ACL", "SETUSER", "poor", "on", ">x", "~*", "+@all", "-zadd")
    url = own_valkey.url.replace("redis://", "redis://poor:x@")
    with pytest.raises(LedgerError, match=r"cannot be opened: .*zadd"):
        await RedisLedger(url).__aenter__()
    client.close()


# -- a cluster -------------------------------------------------------------------------------------------


async def test_while_its_slot_moves_a_batch_is_done_wholly_or_not_at_all(tmp_path: Any) -> None:
    with Cluster(tmp_path).running() as cluster:
        async with opened(cluster.url, PREFIX, lease_s=30) as ledger:
            asked = [await sent(ledger, n, f"k{n}") for n in range(5)]
            old = cluster.primary
            new = next(one for one in cluster.servers[:3] if one is not old)
            _begin_to_move(cluster, old, new)
            moved = old.client.execute_command("CLUSTER", "GETKEYSINSLOT", cluster.slot, 3)
            old.client.execute_command("MIGRATE", "127.0.0.1", new.port, "", 0, 5000, "KEYS", *moved)
            landed = [ledger.land(landing(one)) for one in asked]
            claim = ledger.ask(ask(ledger, 9, "k9"))
            await until(lambda: ledger.trouble is not None)
            assert not any(future.done() for future in (*landed, claim))
            await asyncio.to_thread(move_slot, cluster, old)
            assert await asyncio.wait_for(claim, 15) == Granted()
            await asyncio.gather(*landed)
            assert money(ledger) == (5 * 40, 100)
            assert not ledger.crashed.done()


def _begin_to_move(cluster: Cluster, old: Server, new: Server) -> None:
    ids = [str(one.client.execute_command("CLUSTER", "MYID")) for one in (old, new)]
    new.client.execute_command("CLUSTER", "SETSLOT", cluster.slot, "IMPORTING", ids[0])
    old.client.execute_command("CLUSTER", "SETSLOT", cluster.slot, "MIGRATING", ids[1])
