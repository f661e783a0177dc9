"""What the ledger in Redis keeps, under which names, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.contract.asks import ask, landing, sent
from tests.contract.redis_ledgers import opened
from tests.contract.topologies import Server, client_of
from theo_daemon.embedded_valkey import EmbeddedValkey
from theo_daemon.job import EntryRef
from theo_daemon.ledger.records import (
    Ask,
    Granted,
    JobEnd,
    Landing,
    Replay,
    Scope,
    Want,
)
from theo_daemon.ledger.redis import RedisLedger
from theo_daemon.ledger.redis.keys import LedgerKeys
from theo_daemon.ledger.redis.scripts import PRUNE
from theo_daemon.ledger.shared import FailureCounted
from theo_daemon.wire import Wire
from theo_workers.errors import LedgerError


@pytest.fixture
async def ledger(valkey: EmbeddedValkey, prefix: str) -> AsyncIterator[RedisLedger]:
    async with opened(valkey.url, prefix) as ledger:
        yield ledger


async def test_what_is_remembered_of_jobs_expires_by_itself(
    valkey: EmbeddedValkey, prefix: str, redis: Any
) -> None:
    async with opened(valkey.url, prefix, id_ttl_s=100_000) as ledger:
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
        assert 99_990_000 < lasts["id"] <= 100_000_000
        assert 86_390_000 < lasts["outcome"] <= 86_400_000
        assert all(110_000 < lasts[kind] <= 120_000 for kind in ("answer", "answers"))
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


async def test_failures_that_open_nothing_wake_no_other_process(ledger: RedisLedger, redis: Any) -> None:
    for number, expected in ((1, None), (2, None), (3, "1")):
        asked = await sent(ledger, number)
        ledger.change(FailureCounted("fast", 0, threshold=3, until_ms=2**50))
        await ledger.land(landing(asked, state="failed", cache=None))
        assert await redis.hget(ledger._keys.base, "changed") == expected


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
