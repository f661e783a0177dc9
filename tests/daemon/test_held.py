from __future__ import annotations

import pytest

from theo_daemon.held import HeldEntries, Room
from theo_daemon.job import Delivery, EntryRef


def delivery(entry_id: str, *fields: bytes) -> Delivery:
    return Delivery(EntryRef("theo:jobs", entry_id), "default", list(fields))


def test_an_entry_that_is_held_already_is_not_fresh() -> None:
    held = HeldEntries()
    first, second = delivery("1-0", b"prompt", b"a"), delivery("2-0", b"prompt", b"b")
    assert held.take([first]) == [first]
    assert held.take([first, second, second]) == [second]
    assert len(held) == 2


def test_counts_the_bytes_of_what_it_holds_and_frees_them_once() -> None:
    held = HeldEntries()
    held.take([delivery("1-0", b"prompt", b"abc")])
    assert held.bytes == 9
    held.freed.clear()
    held.release(EntryRef("theo:jobs", "1-0"))
    assert (held.bytes, len(held), held.freed.is_set()) == (0, 0, True)
    held.freed.clear()
    held.release(EntryRef("theo:jobs", "1-0"))
    assert (held.bytes, held.freed.is_set()) == (0, False)


@pytest.mark.parametrize(
    ("holds", "room", "count"),
    [
        (0, Room(10, 10_000), 10),
        (0, Room(10, 500), 1),  # a limit below one entry must not stop a process that holds nothing
        (1, Room(10, 500), 0),
        (1, Room(10, 3_500), 3),
        (1, Room(2, 1_000_000), 2),
        (0, Room(0, 1_000_000), 0),
    ],
)
def test_reads_only_what_fits_even_if_every_entry_is_as_large_as_allowed(
    holds: int, room: Room, count: int
) -> None:
    held = HeldEntries()
    held.take([delivery(f"{number}-0", b"x") for number in range(holds)])
    assert held.fits(room, 1_000) == count


def test_a_renewal_says_nothing_of_what_was_added_while_it_was_under_way() -> None:
    held = HeldEntries()
    held.keep(until=30.0)
    held.renewing()
    held.doubt_from(12.0)
    held.keep(until=40.0)
    assert held.kept_until == 12.0
    held.renewing()  # by now it is renewed, too
    held.keep(until=50.0)
    assert held.kept_until == 50.0


def test_a_renewal_that_failed_leaves_it_for_the_next_one() -> None:
    held = HeldEntries()
    held.keep(until=30.0)
    held.renewing()
    held.doubt_from(12.0)
    held.renewing()
    assert held.kept_until == 12.0
    held.keep(until=50.0)
    assert held.kept_until == 50.0
