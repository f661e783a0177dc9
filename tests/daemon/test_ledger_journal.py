"""What is remembered of batches, for a Redis that has lost them, is bounded, and no batch is too large for it."""

from __future__ import annotations

from theo_daemon.job import EntryRef
from theo_daemon.ledger.records import JobEnd, Landing
from theo_daemon.ledger.redis.journal import KEEP_BYTES, Journal
from theo_workers.clock import FakeClock


def landing(size: int) -> Landing:
    return Landing(ends=(JobEnd(ref=EntryRef("jobs", "1-0"), outcome=b"x" * size),))


def test_a_batch_larger_than_all_that_is_kept_is_forgotten_and_the_next_ones_are_not() -> None:
    journal = Journal(FakeClock())
    journal.add(1, [landing(10)], [None])
    journal.add(2, [landing(KEEP_BYTES + 1)], [None])
    journal.add(3, [landing(20)], [None])
    assert journal.take_since(2) == [[landing(20)]]
    assert journal.take_since(1) is None
