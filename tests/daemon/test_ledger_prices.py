"""Each attempt is on record with the price that it was made at; older ledgers learn to keep it."""

from __future__ import annotations

import json
from pathlib import Path

from theo_daemon.job import EntryRef
from theo_daemon.ledger.records import Ask, Granted, Scope, Want
from theo_daemon.ledger.sqlite.ledger import SqliteLedger
from theo_daemon.ledger.sqlite.schema import open_ledger
from theo_workers.prices import Price, Rates, Tier, flat, snapshot


def prices(path: Path) -> list[tuple[object, ...]]:
    db = open_ledger(path, read_only=True)
    try:
        return db.execute("SELECT price FROM attempts ORDER BY id").fetchall()
    finally:
        db.close()


async def claimed(ledger: SqliteLedger, number: int, price: str | None) -> None:
    want = Want(ledger.next_attempt_id(), "fast", "openai", 1, (Scope("model:fast", 0),), price=price)
    asked = Ask(
        ref=EntryRef("theo:jobs", f"{number}-0"), key=f"k{number}", cache_key=None, digest="d", want=want
    )
    assert await ledger.ask(asked) == Granted()


async def test_an_attempt_keeps_the_price_of_its_moment(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    cheap = snapshot(flat(150_000_000, 600_000_000, source="table"))
    async with SqliteLedger(path) as ledger:
        await claimed(ledger, 1, cheap)
        await claimed(ledger, 2, None)
    assert prices(path) == [(cheap,), (None,)]
    assert json.loads(cheap) == {"source": "table", "input": 0.15, "output": 0.6}


def test_a_snapshot_says_what_differs() -> None:
    rates = Rates(
        input=3_000_000_000,
        output=15_000_000_000,
        cached_input=300_000_000,
        cache_write=3_750_000_000,
        cache_write_at_most=6_000_000_000,
        reasoning=15_000_000_000,
    )
    dear = Tier(above=200_000, rates=flat(6_000_000_000, 22_500_000_000).rates)
    assert json.loads(snapshot(Price(rates=rates, tiers=(dear,), per_call=5_000_000, source="table"))) == {
        "source": "table",
        "input": 3.0,
        "output": 15.0,
        "cached_input": 0.3,
        "cache_write": 3.75,
        "cache_write_at_most": 6.0,
        "tiers": [{"above": 200_000, "input": 6.0, "output": 22.5}],
        "per_call": 0.005,
    }
