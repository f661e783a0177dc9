"""The ledger in Redis when Redis, the connection or the process itself fails: nothing is granted or booked twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import redis
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.contract.ledgers import LEASE_S
from tests.contract.test_ledger_contract import ask, landing, money, sent
from tests.contract.topologies import PREFIX, Cluster, Server, client_of, move_slot
from tests.doubles import until
from theo_daemon.embedded_valkey import EmbeddedValkey
from theo_daemon.job import EntryRef
from theo_daemon.ledger.condition import Recovered, Restored, Tidings, Troubled
from theo_daemon.ledger.records import (
    Ask,
    Busy,
    CallLost,
    Granted,
    Hit,
    IdBusy,
    JobEnd,
    Landing,
    Replay,
    Scope,
    Want,
)
from theo_daemon.ledger.redis import RedisLedger, journal
from theo_daemon.ledger.redis.keys import LedgerKeys
from theo_daemon.ledger.redis.scripts import PRUNE
from theo_daemon.ledger.shared import PauseAsked
from theo_daemon.wire import Wire
from theo_workers.errors import LedgerError


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@asynccontextmanager
async def opened(
    url: str, prefix: str = "theo", name: str = "one", **more: Any
) -> AsyncIterator[RedisLedger]:
    async with RedisLedger(url, prefix=prefix, name=name, **{"lease_s": LEASE_S, **more}) as ledger:
        yield ledger


@pytest.fixture
async def ledger(stack: AsyncExitStack, valkey: EmbeddedValkey, prefix: str) -> RedisLedger:
    return await stack.enter_async_context(opened(valkey.url, prefix))


@pytest.fixture
async def peer(
    stack: AsyncExitStack, ledger: RedisLedger, valkey: EmbeddedValkey, prefix: str
) -> RedisLedger:
    return await stack.enter_async_context(opened(valkey.url, prefix, "peer"))


def told_by(ledger: RedisLedger) -> list[Tidings]:
    told: list[Tidings] = []
    ledger.on_tidings(told.append)
    return told


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
        assert ledger.trouble == "Redis does not record it: READONLY"
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


async def test_a_user_who_may_not_run_what_it_needs_is_told_so(own_valkey: EmbeddedValkey) -> None:
    client = client_of(own_valkey.port)
    client.execute_command("ACL", "SETUSER", "poor", "on", ">x", "~*", "+@all", "-zadd")
    url = own_valkey.url.replace("redis://", "redis://poor:x@")
    with pytest.raises(LedgerError, match=r"cannot be opened: .*zadd"):
        await RedisLedger(url).__aenter__()
    client.close()


# -- a server that lost what it had acknowledged ---------------------------------------------------------


class Rollback:
    """The ledger's keys as they were, to be put back: as a replica that was behind has them."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._kept = {key: client.dump(key) for key in client.keys("theo:ledger*")}

    def __call__(self) -> None:
        self._client.delete(*self._client.keys("theo:ledger*"))
        for key, value in self._kept.items():
            self._client.restore(key, 0, value)


@pytest.fixture
def raw(own_valkey: EmbeddedValkey) -> Any:
    client = redis.Redis(port=own_valkey.port)
    yield client
    client.close()


async def test_what_redis_lost_of_the_last_seconds_it_is_told_again(
    own_valkey: EmbeddedValkey, raw: Any
) -> None:
    async with opened(own_valkey.url) as ledger:
        told = told_by(ledger)
        first = await sent(ledger)
        rollback = Rollback(raw)
        under_way = await sent(ledger, 2, "k2", ceiling=1_000, client_id="mine")
        await ledger.land(landing(first))
        await ledger.change(PauseAsked("fast", 5))
        done = await sent(ledger, 3, "k3", client_id="done")
        await ledger.land(landing(done))
        assert money(ledger) == (80, 100)
        rollback()
        assert money(ledger) == (0, 100)
        assert await ledger.ask(ask(ledger, 4)) == Hit(b'{"a":1}'), "the answer of the first call"
        assert told == [Restored(5)]
        assert money(ledger) == (80, 100)
        assert await ledger.ask(ask(ledger, 5, "k2")) == Busy()
        assert await ledger.ask(ask(ledger, 6, "k3", client_id="done")) == Replay(b'{"a":1}', own=False)
        assert await ledger.ask(ask(ledger, 7, "k7", client_id="mine", digest="k2")) == IdBusy(under_way.ref)
        assert [one.paused_until_ms for one in (await ledger.standings())[0]] == [5]
        await ledger.land(landing(under_way))
        assert money(ledger) == (120, 0)
        with ledger.transaction() as books:
            assert books.latency()["fast"].calls == 3


async def test_a_loss_is_noticed_though_nothing_more_is_recorded(
    own_valkey: EmbeddedValkey, raw: Any
) -> None:
    async with opened(own_valkey.url) as ledger:
        asked = await sent(ledger)
        rollback = Rollback(raw)
        await ledger.land(landing(asked))
        rollback()
        await until(lambda: raw.hlen("theo:ledger:flights") == 0)
        assert money(ledger) == (40, 0)


async def test_what_is_told_again_may_be_lost_again(own_valkey: EmbeddedValkey, raw: Any) -> None:
    async with opened(own_valkey.url) as ledger:
        asked = await sent(ledger)
        rollback = Rollback(raw)
        await ledger.land(landing(asked))
        for number in range(3):
            rollback()
            await ledger.ask(ask(ledger, 9, f"n{number}", want=None, client_id=f"n{number}"))
            assert money(ledger) == (40, 0)


async def test_a_loss_of_more_than_is_remembered_ends_the_process(
    own_valkey: EmbeddedValkey, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "KEEP_S", 0.05)
    async with opened(own_valkey.url) as ledger:
        asked = await sent(ledger)
        rollback = Rollback(raw)
        await ledger.land(landing(asked))
        await asyncio.sleep(0.1)
        await sent(ledger, 2, "k2")
        rollback()
        claim = ledger.ask(ask(ledger, 3, "k3"))
        await until(ledger.crashed.done)
        with pytest.raises(LedgerError, match="has lost more of the ledger than the last seconds"):
            ledger.crashed.result()
        assert not claim.done()


# -- owners and their leases -----------------------------------------------------------------------------


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


async def test_owners_are_numbered_and_never_twice(
    stack: AsyncExitStack, valkey: EmbeddedValkey, prefix: str
) -> None:
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


# -- what is kept, and for how long ----------------------------------------------------------------------


async def test_what_is_remembered_of_jobs_expires_by_itself(
    valkey: EmbeddedValkey, prefix: str, redis: Any
) -> None:
    async with opened(valkey.url, prefix, id_ttl_s=5_000) as ledger:
        asked = await sent(ledger, client_id="mine")
        await ledger.land(landing(asked))
        await ledger.land(landing(await sent(ledger, 2, "k2")))
        await ledger.land(landing(await sent(ledger, 3, "k3"), state="failed", cache=None))
        failed = ask(ledger, 4, "k4")
        assert isinstance(await ledger.ask(failed), Granted)
        unended = Landing(settled=landing(failed, state="failed", cache=None).settled)
        await ledger.land(unended)
        lasts = {}
        for key in await redis.keys(f"{prefix}:ledger:*"):
            kind = key.removeprefix(f"{prefix}:ledger:").partition(":")[0]
            lasts[kind] = await redis.pttl(key)
        assert 4_990_000 < lasts["id"] <= 5_000_000
        assert 3_590_000 < lasts["outcome"] <= 3_600_000
        assert 110_000 < lasts["answer"] <= lasts["answers"] <= 120_000
        assert 29.9 < lasts["prior"] / 86_400_000 <= 30
        forever = {kind for kind, pttl in lasts.items() if pttl == -1}
        assert forever == {
            "owners", "leases", "owner", "open", "flights", "spend", "windows", "models", "latency", "failures"
        }  # fmt: skip


async def test_a_remembered_id_does_not_live_longer_for_being_answered(
    valkey: EmbeddedValkey, prefix: str, redis: Any
) -> None:
    async with opened(valkey.url, prefix, id_ttl_s=2) as ledger:
        asked = await sent(ledger, client_id="mine")
        await asyncio.sleep(1)
        await ledger.land(landing(asked))
        assert await ledger.ask(ask(ledger, 2, client_id="mine")) == Replay(b'{"a":1}', own=False)
        await asyncio.sleep(1.2)
        assert isinstance(await ledger.ask(ask(ledger, 3, "other", client_id="mine")), Granted)


async def test_windows_that_are_over_are_dropped_in_time(
    ledger: RedisLedger, wire: Wire, prefix: str
) -> None:
    old, new = Scope("model:fast", 1_000, 500, 2_000), Scope("model:fast", 0)
    want = Want(ledger.next_attempt_id(), "fast", "openai", 100, (old, new))
    asked = ask(ledger, want=want)
    assert isinstance(await ledger.ask(asked), Granted)

    def windows() -> list[int]:
        with ledger.transaction() as books:
            return [row.window_start_ms for row in books.balances()]

    async def prune(now_ms: int) -> int:
        return int(await wire.run(PRUNE, (f"{prefix}:ledger",), (100, 1, str(now_ms))))

    assert (await prune(2_000), windows()) == (0, [0, 1_000])
    assert (await prune(3_000), windows()) == (1, [0, 1_000]), "a call under way holds something there"
    await ledger.land(landing(asked))
    assert (await prune(4_000), windows()) == (0, [0, 1_000]), "it is put off for an hour"
    assert (await prune(4_000_000), windows()) == (1, [0])
    assert await prune(9_000_000) == 0


async def test_nothing_that_a_job_brings_is_part_of_a_key(
    ledger: RedisLedger, redis: Any, prefix: str
) -> None:
    asked = await sent(ledger, client_id="SECRET id\n*", tenant="TENANT")
    await ledger.land(landing(asked))
    await sent(ledger, 2, "k2", client_id="SECRET id\n*", tenant="OTHER")
    keys = await redis.keys(f"{prefix}:*")
    assert sum(":id:" in key for key in keys) >= 2
    assert not [key for key in keys if "SECRET" in key or "TENANT" in key or "OTHER" in key]
    assert LedgerKeys(prefix).id("a", "bc") != LedgerKeys(prefix).id("ab", "c")


async def test_a_flight_that_lands_with_a_thousand_jobs_is_one_batch(ledger: RedisLedger) -> None:
    asked = await sent(ledger)
    ends = tuple(
        JobEnd(
            ref=EntryRef("theo:jobs", f"9-{n}"), outcome=b"{}", digest="k", client_id=f"i{n}" if n % 2 else None,
            remember=True,
        )
        for n in range(1_000)
    )  # fmt: skip
    done = landing(asked)
    await ledger.land(Landing(settled=done.settled, release_key="k", ends=ends))
    looks = [Ask(ref=end.ref, key="k", cache_key=None, digest="k", redelivered=True) for end in ends[::100]]
    assert [await ledger.ask(look) for look in looks] == [Replay(b"{}", own=True)] * 10
    again = ask(ledger, 7, client_id="i1")
    assert await ledger.ask(again) == Replay(b"{}", own=False)


async def test_a_newer_schema_is_left_alone(own_valkey: EmbeddedValkey) -> None:
    client = client_of(own_valkey.port)
    client.hset("theo:ledger", mapping={"schema": 99, "uuid": "u"})
    with pytest.raises(LedgerError, match=r"newer theo-router \(schema 99"):
        await RedisLedger(own_valkey.url).__aenter__()
    assert client.keys("*") == ["theo:ledger"]
    client.close()


async def test_books_that_were_never_kept_cannot_be_read(own_valkey: EmbeddedValkey) -> None:
    ledger = RedisLedger(own_valkey.url)
    with (
        ledger.transaction() as books,
        pytest.raises(LedgerError, match="no daemon has kept its ledger there"),
    ):
        books.spend()
    with (
        ledger.transaction() as books,
        pytest.raises(LedgerError, match="no daemon has kept its ledger there"),
    ):
        books.balances()
    with (
        ledger.transaction() as books,
        pytest.raises(LedgerError, match="no daemon has kept its ledger there"),
    ):
        books.unknown_calls()


async def test_a_server_without_append_only_file_is_warned_of(tmp_path: Any) -> None:
    with Server(tmp_path / "server", options=("--appendonly", "no")) as server:
        async with opened(server.url) as ledger:
            (warning,) = ledger.warnings
            assert "a restart of it forgets what was spent" in warning


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
