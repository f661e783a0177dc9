"""What the ledger has said is on record is there after a power cut, on a disk that lies about nothing."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import apsw
import pytest

from tests.daemon.power import VFS, Disk
from tests.daemon.test_ledger import ask, landing
from tests.deep import deep
from theo_daemon.ledger.records import Ask, Granted
from theo_daemon.ledger.sqlite import SqliteLedger, checkpoints, schema
from theo_daemon.ledger.sqlite.schema import open_ledger

JOBS = 40
EVENTS = 300  # writes and syncs of them all, roughly
BOUND, COST = 100, 40  # nano-dollars of each call


class Told:
    """What the ledger had confirmed by the time the power went."""

    def __init__(self) -> None:
        self.claimed: set[str] = set()
        self.landed: set[str] = set()


async def work(ledger: SqliteLedger, disk: Disk, told: Told) -> None:
    """Jobs side by side, and then one after another."""

    async def one(asked: Ask) -> None:
        assert await ledger.ask(asked) == Granted()
        if not disk.is_off:
            told.claimed.add(asked.ref.entry_id)
        await ledger.land(landing(asked))
        if not disk.is_off:
            told.landed.add(asked.ref.entry_id)

    asks = [ask(ledger, number, f"k{number}") for number in range(JOBS)]
    await asyncio.gather(*map(one, asks[: JOBS // 2]))
    for asked in asks[JOBS // 2 :]:
        await one(asked)


async def cut_power(path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> Told:
    """At a moment drawn from the seed; afterwards the files are as they may be found."""
    rng = random.Random(seed)
    disk, told = Disk(rng.randrange(20, EVENTS), rng), Told()

    class Powered(apsw.Connection):
        def __init__(self, filename: str, *, flags: int) -> None:
            super().__init__(filename, flags=flags, vfs=VFS)

    with monkeypatch.context() as patched:
        patched.setattr(schema.apsw, "Connection", Powered)
        patched.setattr(checkpoints, "PAGES", 8)  # so that some happen
        async with SqliteLedger(path) as ledger:
            await work(ledger, disk, told)
    assert disk.is_off
    disk.restore()
    disk.unregister()
    path.with_name(f"{path.name}-shm").unlink(missing_ok=True)
    return told


async def opened_again(path: Path) -> tuple[dict[str, tuple[str, int]], tuple[int, int]]:
    """Each attempt's state and cost by its entry, and what is spent and held."""
    async with SqliteLedger(path):
        pass
    db = open_ledger(path, read_only=True)
    ((integrity,),) = db.execute("PRAGMA integrity_check").fetchall()
    assert integrity == "ok"
    attempts: dict[str, Any] = {
        entry: (state, cost)
        for entry, state, cost in db.execute("SELECT entry_id, state, coalesce(cost_nano, 0) FROM attempts")
    }
    ((spent, held),) = db.execute(
        "SELECT coalesce(sum(spent_nano), 0), coalesce(sum(held_nano), 0) FROM spend"
    )
    db.close()
    return attempts, (spent, held)


@pytest.mark.parametrize("seed", range(deep(12)))
async def test_what_was_confirmed_is_there_and_the_sums_are_right(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.db"
    told = await cut_power(path, seed, monkeypatch)
    attempts, (spent, held) = await opened_again(path)
    assert told.claimed <= attempts.keys()
    assert {attempts[entry] for entry in told.landed} <= {("ok", COST)}
    assert spent == sum(cost for _, cost in attempts.values())
    assert held == BOUND * sum(state == "sent" for state, _ in attempts.values())
