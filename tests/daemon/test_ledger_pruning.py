"""What the ledger deletes of its own accord, and what it must not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fakes import MemoryBooks
from theo_daemon.ledger.sqlite.pruning import Keep, prune

DAY_MS = 86_400_000
NOW_MS = 1_700_000_000_000
KEEP = Keep(attempts_s=30 * 86_400, ids_s=86_400)


@pytest.fixture
def books() -> Iterator[MemoryBooks]:
    books = MemoryBooks()
    yield books
    books.close()


@pytest.mark.parametrize(("age_ms", "left"), [(2 * 3_600_000, 1), (DAY_MS - 1_000, 1), (DAY_MS + 1_000, 0)])
def test_an_outcome_waits_a_day_for_a_redis_that_is_away(books: MemoryBooks, age_ms: int, left: int) -> None:
    """It was paid for, and its entry is still pending: without it the job would run, and be paid for, again."""
    books.db.execute("INSERT INTO outcomes VALUES ('theo:jobs', '1-0', '{}', ?)", (NOW_MS - age_ms,))
    prune(books.db, now_ms=NOW_MS, keep=KEEP)
    assert books.rows("SELECT count(*) FROM outcomes") == [(left,)]
