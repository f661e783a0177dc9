"""A Redis that lost what it had acknowledged, as after a failover to a replica that was behind."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis

from tests.contract.asks import ask, landing, money, sent
from tests.contract.redis_ledgers import opened, told_by
from tests.doubles import until
from theo_daemon.embedded_valkey import EmbeddedValkey
from theo_daemon.ledger.condition import Restored
from theo_daemon.ledger.records import (
    Busy,
    Hit,
    IdBusy,
    Replay,
)
from theo_daemon.ledger.redis import journal
from theo_daemon.ledger.shared import PauseAsked
from theo_workers.errors import LedgerError


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
