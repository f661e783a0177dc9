"""What is large is read from the ledger when there is room for it, and nobody but the reader sees a difference."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contract.asks import ask, landing, sent
from tests.contract.redis_ledgers import opened
from tests.contract.topologies import client_of
from theo_daemon.embedded_valkey import EmbeddedValkey
from theo_daemon.job import EntryRef
from theo_daemon.ledger import Ledger
from theo_daemon.ledger.records import Check, Clear, Hit, JobEnd, Landing, Replay
from theo_daemon.ledger.redis.keys import LedgerKeys
from theo_daemon.ledger.sqlite import SqliteLedger
from theo_workers.upstreams.room import STEP_BYTES, Room

LARGE = b'{"output":"' + "汉".encode() * 500_000 + b'"}'
OTHER = LARGE.replace("汉".encode(), b"x")


class Shelf(ABC):
    """One way of keeping texts, and how one of them goes."""

    ledger: Ledger

    @abstractmethod
    async def lose_the_answer(self, key: str) -> None: ...


class FileShelf(Shelf):
    def __init__(self, ledger: SqliteLedger) -> None:
        self.ledger = self._file = ledger

    async def lose_the_answer(self, key: str) -> None:
        await self._file._writer.call(
            lambda db: db.execute("DELETE FROM cache WHERE key = ?", (key,)).fetchall(), writing=True
        )


class RedisShelf(Shelf):
    def __init__(self, ledger: Ledger, port: int, prefix: str) -> None:
        self.ledger, self._port, self._keys = ledger, port, LedgerKeys(prefix)

    async def lose_the_answer(self, key: str) -> None:
        with client_of(self._port) as client:
            assert client.delete(self._keys.answer(key)) == 1


@pytest.fixture(params=["file", "redis"])
async def shelf(
    request: pytest.FixtureRequest, tmp_path: Path, valkey: EmbeddedValkey, prefix: str
) -> AsyncIterator[Shelf]:
    if request.param == "file":
        async with SqliteLedger(tmp_path / "ledger.db") as file:
            yield FileShelf(file)
    else:
        async with opened(valkey.url, prefix, lease_s=30) as redis:
            yield RedisShelf(redis, valkey.port, prefix)


@pytest.fixture
def ledger(shelf: Shelf) -> Ledger:
    return shelf.ledger


async def test_a_large_answer_is_a_hit_like_any_other(ledger: Ledger) -> None:
    await ledger.land(landing(await sent(ledger), answer=LARGE))
    match await ledger.ask(ask(ledger, 2)):
        case Hit(answer=answer, held=held):
            assert answer == LARGE
            assert held is not None
        case other:
            pytest.fail(f"{other}")


async def test_large_outcomes_are_replayed_to_their_entry_and_to_their_id(ledger: Ledger) -> None:
    await ledger.land(landing(await sent(ledger, client_id="mine"), answer=LARGE))
    await ledger.land(Landing(ends=(JobEnd(ref=EntryRef("theo:jobs", "7-0"), outcome=OTHER),)))
    again = await ledger.ask(ask(ledger, 2, client_id="mine"))
    assert isinstance(again, Replay)
    assert (again.outcome, again.own) == (LARGE, False)
    own = await ledger.ask(Check(ref=EntryRef("theo:jobs", "7-0"), digest="", redelivered=True))
    assert isinstance(own, Replay)
    assert (own.outcome, own.own) == (OTHER, True)


async def test_large_answers_take_turns_where_there_is_no_room(ledger: Ledger) -> None:
    ledger.share_room(Room(STEP_BYTES))  # one goes on without room
    for number in range(3):
        await ledger.land(landing(await sent(ledger, number + 1, f"k{number}"), answer=LARGE))
    asked = [ledger.ask(ask(ledger, 9 + number, f"k{number}")) for number in range(3)]
    small = ledger.ask(ask(ledger, 20, "other"))
    first, waiting = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    await small  # nothing that is small waits with them
    assert len(first) == 1
    for _ in range(2):
        verdict = first.pop().result()
        del verdict  # published, and nobody needs it any more
        for future in list(asked):
            if future.done():
                asked.remove(future)
        del future
        first, waiting = await asyncio.wait(waiting, timeout=5, return_when=asyncio.FIRST_COMPLETED)
        assert len(first) == 1


async def test_what_is_gone_before_it_was_read_is_asked_for_anew(shelf: Shelf) -> None:
    ledger = shelf.ledger
    ledger.share_room(room := Room(0))
    await ledger.land(landing(await sent(ledger), answer=LARGE))
    rides = ledger.ask(ask(ledger, 2))
    hit = await rides
    waits = ledger.ask(ask(ledger, 3, want=None))
    await ledger.ask(ask(ledger, 20, "other", want=None))  # by now the one before has its verdict
    assert not waits.done()
    await shelf.lose_the_answer("k")
    del hit, rides
    assert await asyncio.wait_for(waits, 5) == Clear()
    assert room is not None


async def test_who_has_taken_the_room_alone_keeps_it(ledger: Ledger) -> None:
    ledger.share_room(Room(0))
    await ledger.land(landing(await sent(ledger), answer=LARGE))
    hit = await ledger.ask(ask(ledger, 2))
    assert isinstance(hit, Hit)
    assert hit.held is not None
    share = hit.held.take()
    waits = ledger.ask(ask(ledger, 3))
    await ledger.ask(ask(ledger, 20, "other", want=None))
    assert not waits.done()
    del share  # the verdict is still there
    assert isinstance(await asyncio.wait_for(waits, 5), Hit)
    assert hit.held.take() is None


async def test_who_gave_up_waiting_for_a_large_one_keeps_no_room(ledger: Ledger) -> None:
    ledger.share_room(Room(0))
    await ledger.land(landing(await sent(ledger), answer=LARGE))
    hit = await ledger.ask(ask(ledger, 2))
    gave_up = ledger.ask(ask(ledger, 3))
    await ledger.ask(ask(ledger, 20, "other", want=None))  # by now the one before has its verdict
    gave_up.cancel()
    del hit
    assert isinstance(await asyncio.wait_for(ledger.ask(ask(ledger, 4)), 5), Hit)
