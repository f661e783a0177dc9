"""What is too old goes, nothing else does, and the writer is never held for long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from theo_daemon.job import EntryRef
from theo_daemon.ledger.records import Ask, Clear
from theo_daemon.ledger.sqlite import SqliteLedger
from theo_daemon.ledger.sqlite.pruning import LOOKED_AT, ROWS, Keep, Pruner
from theo_daemon.ledger.sqlite.schema import open_ledger

DAY_MS = 86_400_000
NOW_MS = 1_800_000_000_000
KEEP = Keep(attempts_s=30 * 86_400, ids_s=86_400)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[apsw.Connection]:
    db = open_ledger(tmp_path / "ledger.db")
    db.execute("PRAGMA synchronous = OFF")  # of the test alone
    yield db
    db.close()


def add_ids(db: apsw.Connection, count: int, at_ms: int, outcome: str = "o") -> None:
    rows = (("t", f"{at_ms}-{n}", "d", "s", f"{at_ms + n}-0", outcome, at_ms) for n in range(count))
    db.executemany("INSERT INTO ids VALUES(?, ?, ?, ?, ?, ?, ?)", rows)


def add_answers(db: apsw.Connection, count: int, fresh_until_ms: int, answer: str = "a") -> None:
    rows = ((f"{fresh_until_ms}-{n}", "m", answer, NOW_MS, fresh_until_ms) for n in range(count))
    db.executemany(
        "INSERT INTO cache(key, model, answer, created_at, fresh_until) VALUES(?, ?, ?, ?, ?)", rows
    )


def add_outcomes(db: apsw.Connection, count: int, at_ms: int) -> None:
    db.executemany(
        "INSERT INTO outcomes VALUES(?, ?, ?, ?)", (("s", f"{at_ms}-{n}", "o", at_ms) for n in range(count))
    )


def add_owner(db: apsw.Connection, owner: int, started_ms: int, buried_ms: int | None = None) -> None:
    db.execute("INSERT INTO owners VALUES(?, ?, ?, ?, ?)", (owner, f"o{owner}", 1, started_ms, buried_ms))


def add_attempts(
    db: apsw.Connection, owner: int, count: int, at_ms: int, *, first: int = 0, state: str = "ok"
) -> None:
    insert = (
        "INSERT INTO attempts(id, stream, entry_id, key, owner, model, provider, state, scopes, started_at)"
        " VALUES(?, 's', '1-0', 'k', ?, 'm', 'p', ?, '', ?)"
    )
    db.executemany(insert, ((owner << 40 | n, owner, state, at_ms) for n in range(first, first + count)))


def count(db: apsw.Connection, table: str) -> int:
    ((number,),) = db.execute(f"SELECT count(*) FROM {table}").fetchall()
    return int(number)


def run(db: apsw.Connection, pruner: Pruner | None = None) -> int:
    """Prune to the end; the number of batches."""
    pruner = pruner or Pruner(KEEP)
    batches = 1
    while pruner.prune(db, NOW_MS):
        batches += 1
        assert batches < 10_000
    return batches


def test_what_is_too_old_goes_and_the_rest_stays(db: apsw.Connection) -> None:
    add_ids(db, 250, NOW_MS - DAY_MS - 1)
    add_ids(db, 50, NOW_MS - DAY_MS + 60_000)
    add_outcomes(db, 250, NOW_MS - DAY_MS - 1)  # they wait a day for a Redis that is away: they were paid for
    add_outcomes(db, 50, NOW_MS - DAY_MS + 60_000)
    add_answers(db, 250, NOW_MS - 61_000)
    add_answers(db, 50, NOW_MS - 59_000)
    add_owner(db, 1, NOW_MS - 40 * DAY_MS)
    add_attempts(db, 1, 250, NOW_MS - 31 * DAY_MS)
    add_attempts(db, 1, 50, NOW_MS - 29 * DAY_MS, first=250)
    assert run(db) <= 300 // LOOKED_AT + 1
    assert {table: count(db, table) for table in ("ids", "outcomes", "cache", "attempts")} == dict.fromkeys(
        ("ids", "outcomes", "cache", "attempts"), 50
    )


def test_attempts_of_every_process_are_pruned_while_the_first_one_lives(db: apsw.Connection) -> None:
    """Their numbers begin with their owner's: the oldest process has the lowest, also of its newest."""
    for owner in (1, 2, 3):
        add_owner(db, owner, NOW_MS - 40 * DAY_MS)
    add_attempts(db, 1, 1_000, NOW_MS - DAY_MS)
    add_attempts(db, 2, 1_000, NOW_MS - 31 * DAY_MS)
    add_attempts(db, 3, 1_000, NOW_MS - 31 * DAY_MS)
    run(db)
    assert db.execute("SELECT owner, count(*) FROM attempts GROUP BY owner").fetchall() == [(1, 1_000)]


def test_a_call_that_is_under_way_stays_however_old(db: apsw.Connection) -> None:
    add_owner(db, 1, NOW_MS - 40 * DAY_MS)
    add_attempts(db, 1, 1, NOW_MS - 31 * DAY_MS, state="sent")
    run(db)
    assert count(db, "attempts") == 1


def test_names_of_processes_go_with_their_last_attempt_but_never_the_newest(db: apsw.Connection) -> None:
    long_ago = NOW_MS - 35 * DAY_MS
    add_owner(db, 1, long_ago, long_ago)
    add_owner(db, 2, long_ago, long_ago)
    add_attempts(db, 2, 1, NOW_MS - DAY_MS)
    add_owner(db, 3, long_ago)  # alive
    add_owner(db, 4, long_ago, NOW_MS - DAY_MS)  # has died a while ago only
    add_owner(db, 5, long_ago, long_ago)
    run(db)
    assert [row[0] for row in db.execute("SELECT id FROM owners ORDER BY id")] == [2, 3, 4, 5]


def test_answers_that_end_early_go_although_older_ones_stay(db: apsw.Connection) -> None:
    add_answers(db, 3 * LOOKED_AT, NOW_MS + DAY_MS)
    add_answers(db, 10, NOW_MS - DAY_MS)
    pruner = Pruner(KEEP)
    run(db, pruner)
    assert count(db, "cache") == 3 * LOOKED_AT
    add_answers(db, 10, NOW_MS - 2 * DAY_MS)
    run(db, pruner)  # and it begins anew
    assert count(db, "cache") == 3 * LOOKED_AT


def test_windows_of_budgets_that_are_long_over_go_unless_something_is_held(db: apsw.Connection) -> None:
    insert = "INSERT INTO spend(scope, window_start, spent_nano, held_nano, reset_at) VALUES(?, ?, 1, ?, ?)"
    long_ago, lately = NOW_MS - 31 * DAY_MS, NOW_MS - 29 * DAY_MS
    db.executemany(insert, ((f"t{n}", 1, 0, long_ago) for n in range(2_000)))
    db.executemany(insert, [("held", 1, 5, long_ago), ("lately", 1, 0, lately), ("total", 0, 0, None)])
    run(db)
    assert {row[0] for row in db.execute("SELECT scope FROM spend")} == {"held", "lately", "total"}


@pytest.mark.parametrize("age", ["old", "fresh"])
def test_no_batch_of_a_hundred_thousand_rows_holds_the_writer(db: apsw.Connection, age: str) -> None:
    at = NOW_MS - 40 * DAY_MS if age == "old" else NOW_MS
    with db:
        add_ids(db, 100_000, at, "x" * 700)
        add_answers(db, 100_000, at, "y" * 700)
        add_outcomes(db, 20_000, at)
        add_owner(db, 1, at)
        add_attempts(db, 1, 100_000, at)
    pruner, took = Pruner(KEEP), []
    more = True
    while more and len(took) < 300:
        started = time.process_time()
        more = pruner.prune(db, NOW_MS)
        took.append(time.process_time() - started)
    took.sort()
    assert took[len(took) // 2] < 0.01
    assert took[-2] < 0.05  # one may be hit by something else
    gone = 100_000 - count(db, "ids")
    assert gone == (min(300, len(took)) * ROWS if age == "old" else 0)


async def test_claims_go_on_while_a_large_ledger_is_pruned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.db"
    db = open_ledger(path)
    with db:
        add_ids(db, 30_000, 1)
        add_owner(db, 1, 1, 1)
        add_attempts(db, 1, 30_000, 1)
    db.close()
    monkeypatch.setattr("theo_daemon.ledger.sqlite.ledger.PRUNE_EVERY_S", 0.01)
    waits: list[float] = []
    async with SqliteLedger(path) as ledger:
        for number in range(100):
            started = time.monotonic()
            ask: Any = Ask(ref=EntryRef("s", f"{number}-1"), key=f"k{number}", cache_key=None, digest="d")
            assert await ledger.ask(ask) == Clear()
            waits.append(time.monotonic() - started)
            await asyncio.sleep(0.005)
    waits.sort()
    assert waits[90] < 0.1
