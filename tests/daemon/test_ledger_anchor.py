"""Another copy of SQLite in the same process, as a program has that looks at the ledger with Python's own."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from theo_daemon.job import EntryRef
from theo_daemon.ledger.records import JobEnd, Landing
from theo_daemon.ledger.sqlite import SqliteLedger
from theo_daemon.ledger.sqlite.reading import reading


def looked_at(path: Path) -> list[str]:
    """The ids on record, read the way that anybody would."""
    with closing(sqlite3.connect(path)) as db:
        return [row[0] for row in db.execute("SELECT client_id FROM ids ORDER BY client_id")]


async def record(ledger: SqliteLedger, name: str) -> None:
    end = JobEnd(ref=EntryRef("s", name), outcome=b"{}", digest="d", client_id=name, remember=True)
    await ledger.land(Landing(ends=(end,)))


async def test_looking_at_the_ledger_with_another_sqlite_leaves_it_in_use(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    async with SqliteLedger(path) as ledger:
        await record(ledger, "a")
        wal = path.with_name("ledger.db-wal").stat().st_ino
        for name, seen in (("b", ["a"]), ("c", ["a", "b"])):
            assert looked_at(path) == seen
            await record(ledger, name)
        assert path.with_name("ledger.db-wal").stat().st_ino == wal
        with reading(path) as books:
            assert books.get_all_spend() == {}
    assert looked_at(path) == ["a", "b", "c"]
    assert not path.with_name("ledger.db-wal").exists(), "the last one leaves no WAL"


@pytest.mark.parametrize("first_to_leave", [0, 1])
async def test_of_two_ledgers_over_one_file_the_one_that_stays_is_left_in_use(
    tmp_path: Path, first_to_leave: int
) -> None:
    path = tmp_path / "ledger.db"
    both = [SqliteLedger(path, name="one"), SqliteLedger(path, name="two")]
    for ledger in both:
        await ledger.__aenter__()
    leaving = both.pop(first_to_leave)
    await record(leaving, "a")
    await leaving.__aexit__(None, None, None)
    assert looked_at(path) == ["a"]
    await record(both[0], "b")
    await both[0].__aexit__(None, None, None)
    assert looked_at(path) == ["a", "b"]
    async with SqliteLedger(path, name="three") as ledger:
        assert looked_at(path) == ["a", "b"]
        await record(ledger, "c")
