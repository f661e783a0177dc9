"""What an operator changes in the books beside daemons that have them open: in a file, and in Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contract.asks import ask, landing
from tests.contract.ledgers import AmendableRig, rigged
from theo_daemon.embedded_valkey import EmbeddedValkey
from theo_daemon.ledger import Ledger
from theo_daemon.ledger.figures import Balance
from theo_daemon.ledger.port import OnId
from theo_daemon.ledger.records import Ask, Conflict, Granted, IdBusy, Scope, Want
from theo_daemon.ledger.sqlite.amend import reset_spend
from theo_workers.errors import LedgerError

HOUR = 3_600_000


@pytest.fixture(params=("file", "redis"))
async def rig(
    request: pytest.FixtureRequest, tmp_path: Path, valkey: EmbeddedValkey, prefix: str
) -> AsyncIterator[AmendableRig]:
    async with rigged(request.param, tmp_path, valkey, prefix) as rig:
        assert isinstance(rig, AmendableRig)
        yield rig


@pytest.fixture
async def ledger(rig: AmendableRig) -> Ledger:
    return await rig.open("first")


def named(ledger: Ledger, number: int, *, digest: str = "d", tenant: str = "t") -> Ask:
    return ask(ledger, number, f"k{number}", digest=digest, tenant=tenant, client_id="a")


def drawing(ledger: Ledger, number: int, *scopes: Scope) -> Ask:
    want = Want(ledger.next_attempt_id(), "fast", "openai", 100, scopes)
    return ask(ledger, number, f"k{number}", want=want)


async def test_a_forgotten_id_may_have_another_payload(rig: AmendableRig, ledger: Ledger) -> None:
    assert isinstance(await ledger.ask(named(ledger, 1)), Granted)
    assert isinstance(await ledger.ask(named(ledger, 2, tenant="other")), Granted)
    assert isinstance(await ledger.ask(named(ledger, 3, digest="e")), Conflict)
    assert await rig.forget_ids([("t", "a"), ("t", "never seen")]) == 1
    assert await rig.forget_ids([]) == 0
    assert isinstance(await ledger.ask(named(ledger, 4, digest="e")), Granted)
    assert isinstance(await ledger.ask(named(ledger, 5, digest="e", tenant="other")), Conflict)


async def test_who_waits_for_an_id_asks_again_once_it_is_forgotten(rig: AmendableRig, ledger: Ledger) -> None:
    peer = await rig.open("peer")
    first = named(peer, 1)
    assert isinstance(await peer.ask(first), Granted)
    assert await ledger.ask(named(ledger, 2)) == IdBusy(first.ref)
    waiting = ledger.wait(OnId("t", "a"))
    await asyncio.sleep(0.3)  # so that it has looked, and only news can wake it
    assert not waiting.done()
    assert await rig.forget_ids([("t", "a")]) == 1
    await asyncio.wait_for(waiting, 2)
    assert isinstance(await ledger.ask(named(ledger, 2)), Granted)


async def test_a_reset_forgives_what_is_spent_in_that_window_and_keeps_what_is_held(
    rig: AmendableRig, ledger: Ledger
) -> None:
    start = rig.now_ms - 1_000
    scopes = (Scope("model:fast", 0), Scope("model:fast@1h", start, 10_000, start + HOUR))
    paid = drawing(ledger, 1, *scopes)
    await ledger.ask(paid)
    await ledger.ask(drawing(ledger, 2, *scopes))
    await ledger.land(landing(paid, cost=70))
    assert await rig.reset_spend([("model:fast@1h", start), ("model:none", 0)]) == 1
    assert await rig.reset_spend([("model:fast@1h", start)]) == 0
    with ledger.transaction() as books:
        assert books.balances() == [
            Balance(scope="model:fast", window_start_ms=0, spent_nano=70, held_nano=100),
            Balance(
                scope="model:fast@1h",
                window_start_ms=start,
                spent_nano=0,
                held_nano=100,
                reset_ms=start + HOUR,
            ),
        ]


async def test_a_window_that_a_clock_began_before_its_time_is_taken_back(
    rig: AmendableRig, ledger: Ledger
) -> None:
    start = rig.now_ms + HOUR
    scope, row = Scope("all@1h", start, 500, start + HOUR), ("all@1h", start)
    paid, open_yet = drawing(ledger, 1, scope), drawing(ledger, 2, scope)
    for asked in (paid, open_yet):
        assert isinstance(await ledger.ask(asked), Granted)
    await ledger.land(landing(paid, cost=70))
    assert await rig.reset_spend([row]) == 1
    with ledger.transaction() as books:  # a call holds something there
        assert [(one.spent_nano, one.held_nano) for one in books.balances()] == [(0, 100)]
    await ledger.land(landing(open_yet, cost=0))
    assert await rig.reset_spend([row]) == 0
    with ledger.transaction() as books:
        assert books.balances() == []


def test_a_file_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"not a database " * 100)
    with pytest.raises(LedgerError):
        reset_spend(path, [], now_ms=1)
    assert path.read_bytes() == b"not a database " * 100
