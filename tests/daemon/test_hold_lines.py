"""Waiting for what calls in flight hold: one at a time, in order, and nobody for ever."""

from __future__ import annotations

import asyncio
import random
from typing import Any, cast

from tests.fakes import VirtualClock, settle
from theo_daemon.flight import Flight
from theo_daemon.hold_lines import IN_A_ROW, TRY_S, HoldLines
from theo_daemon.ledger.records import Scope

ACME, OTHER = Scope("tenant=acme@total", 0, 100), Scope("tenant=other@total", 0, 100)
LONGEST_S = 0.15


class Lines:
    """Flights in lines, and those of them that may try."""

    def __init__(self, *, peers: int = 0) -> None:
        self.clock = VirtualClock()
        self.of = HoldLines(self.clock, random.Random(1), peers=lambda: peers)
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.flights: dict[str, Flight] = {}

    async def wait(self, name: str, scope: Scope = ACME) -> None:
        flight = self.flights.setdefault(name, cast("Any", object()))
        self.tasks[name] = asyncio.ensure_future(self.of.wait(flight, scope))
        await settle()

    @property
    def let_go(self) -> str:
        return "".join(
            sorted(name for name, task in self.tasks.items() if task.done() and not task.cancelled())
        )

    async def over(self, name: str) -> None:
        self.of.over(self.flights[name])
        await settle()

    async def cancel(self, name: str) -> None:
        self.tasks[name].cancel()
        await settle()

    def empty(self) -> bool:
        return not self.of._lines and not self.of._trying


async def test_the_first_tries_after_a_moment_and_the_next_when_it_got_through() -> None:
    lines = Lines()
    for name in "abc":
        await lines.wait(name)
    assert lines.let_go == ""
    await lines.clock.advance(LONGEST_S)
    assert lines.let_go == "a"
    await lines.over("a")
    assert lines.let_go == "ab"
    await lines.over("b")
    await lines.over("c")
    assert lines.let_go == "abc"
    assert lines.empty()


async def test_who_tried_in_vain_stays_first_and_the_others_wait_behind_it() -> None:
    lines = Lines()
    for name in "ab":
        await lines.wait(name)
    for _ in range(5):
        await lines.clock.advance(LONGEST_S)
        assert lines.let_go == "a"
        await lines.wait("a")
        assert lines.let_go == ""
    await lines.clock.advance(LONGEST_S)
    await lines.over("a")
    assert lines.let_go == "ab"


async def test_what_a_call_of_this_process_gives_back_is_tried_for_at_once() -> None:
    lines = Lines()
    for name in "ab":
        await lines.wait(name)
    await lines.wait("x", OTHER)
    lines.of.freed((ACME,))
    await settle()
    assert lines.let_go == "a"
    lines.of.freed((ACME,))
    await settle()
    assert lines.let_go == "a"


async def test_who_has_taken_room_several_times_in_a_row_leaves_its_peers_a_turn() -> None:
    lines = Lines(peers=1)
    names = "abcdefghijkl"[: IN_A_ROW + 3]
    for name in names:
        await lines.wait(name)
    await lines.clock.advance(LONGEST_S)
    for name in names[:IN_A_ROW]:
        await lines.over(name)
    assert lines.let_go == names[:IN_A_ROW]
    lines.of.freed([ACME])
    await lines.clock.advance(LONGEST_S - 0.01)
    assert lines.let_go == names[:IN_A_ROW], "what is given back meanwhile is theirs"
    await lines.clock.advance(0.02)
    assert lines.let_go == names[: IN_A_ROW + 1]
    await lines.over(names[IN_A_ROW])
    assert lines.let_go == names[: IN_A_ROW + 2], "and goes on at once"


async def test_without_peers_nobody_is_left_a_turn() -> None:
    lines = Lines()
    names = "abcdefghijkl"[: IN_A_ROW + 3]
    for name in names:
        await lines.wait(name)
    await lines.clock.advance(LONGEST_S)
    for name in names:
        await lines.over(name)
    assert lines.let_go == names
    assert lines.empty()


async def test_one_that_does_not_come_through_keeps_the_others_only_for_a_moment() -> None:
    lines = Lines()
    for name in "abc":
        await lines.wait(name)
    await lines.clock.advance(LONGEST_S + TRY_S)
    assert lines.let_go == "ab"
    await lines.over("a")
    assert lines.let_go == "abc"
    await lines.over("b")
    await lines.over("c")
    assert lines.empty()


async def test_who_gives_up_leaves_its_place_and_its_turn_to_the_next() -> None:
    lines = Lines()
    for name in "abcd":
        await lines.wait(name)
    await lines.cancel("b")
    lines.of.freed((ACME,))
    lines.tasks["a"].cancel()  # between being let go and going
    await settle()
    assert lines.let_go == "c"
    await lines.over("c")
    assert lines.let_go == "cd"
    await lines.over("d")
    await lines.over("d")
    assert lines.empty()


async def test_a_line_that_everybody_left_is_forgotten() -> None:
    lines = Lines()
    await lines.wait("a")
    await lines.cancel("a")
    assert lines.empty()
    await lines.clock.advance(1)
    assert lines.empty()


async def test_another_budget_in_the_way_is_another_line() -> None:
    lines = Lines()
    for name in "ab":
        await lines.wait(name)
    await lines.clock.advance(LONGEST_S)
    await lines.wait("a", OTHER)
    assert lines.let_go == "b"
    await lines.clock.advance(LONGEST_S)
    assert lines.let_go == "ab"
