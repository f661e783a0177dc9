"""What is remembered of the jobs that lie ahead, against a stream that is looked at page by page."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from theo_daemon import backlog as module
from theo_daemon.backlog import Backlog, Kind

A, B, C = (Kind(tenant, "", "") for tenant in "abc")


def ident(number: int) -> str:
    return f"1000-{number}"


class Stream:
    """Entries of several kinds; looked at as `scout_scripts.PEEK` does."""

    def __init__(self, kinds: list[Kind]) -> None:
        self.kinds: dict[int, Kind] = dict(enumerate(kinds, 1))
        self.delivered = 0
        self.backlog = Backlog()

    def look(self, wants: Callable[[Kind], int], page: int = 3) -> None:
        skipped = self.backlog.unwanted(wants)
        at = max(int(self.backlog.cursor.partition("-")[2]), self.delivered)
        entries = [number for number in sorted(self.kinds) if number > at][:page]
        found = [
            (ident(number), self.kinds[number]) for number in entries if self.kinds[number] not in skipped
        ]
        to = ident(entries[-1]) if entries else (ident(at) if at else self.backlog.cursor)
        self.backlog.looked(found, to=to, delivered=ident(self.delivered), skipped=skipped)

    def look_through(self, wants: Callable[[Kind], int]) -> None:
        for _ in range(len(self.kinds) + 2):
            self.look(wants)


def everything(_: Kind) -> int:
    return 10


def test_one_pass_finds_every_kind_and_where_its_jobs_are() -> None:
    stream = Stream([A, A, B, A, C, A, B])
    stream.look_through(everything)
    assert stream.backlog.known() == {A: 4, B: 2, C: 1}
    assert stream.backlog.take(B, 5) == [ident(3), ident(7)]
    assert stream.backlog.take(B, 5) == []
    assert stream.backlog.take(Kind("nobody", "", ""), 5) == []


def test_what_has_been_read_is_not_ahead_any_more() -> None:
    stream = Stream([A, B, A, B])
    stream.look_through(everything)
    stream.delivered = 3
    stream.look(everything)
    assert stream.backlog.known() == {B: 1}


def test_a_kind_that_was_passed_over_is_found_again_from_there_once_it_is_wanted() -> None:
    stream = Stream([A, B, A, A, B, A])

    def not_a(kind: Kind) -> int:
        return 0 if kind == A else 1

    stream.look(everything, page=1)
    stream.look_through(not_a)
    assert stream.backlog.take(B, 9) == [ident(2), ident(5)]
    assert stream.backlog.take(A, 9) == [ident(1)]
    stream.look_through(everything)
    assert stream.backlog.take(A, 9) == [ident(3), ident(4), ident(6)]


def test_of_each_kind_a_bounded_number_is_remembered_and_the_rest_found_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LINE", 4)
    stream = Stream([A] * 10 + [B] + [A] * 3)
    stream.look_through(everything)
    assert stream.backlog.known() == {A: 4, B: 1}
    assert stream.backlog.take(A, 9) == [ident(n) for n in (1, 2, 3, 4)]
    stream.look_through(everything)
    assert stream.backlog.take(A, 9) == [ident(n) for n in (5, 6, 7, 8)]


def test_more_kinds_than_can_be_told_apart_wait_for_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KINDS", 2)
    stream = Stream([A, B, C, A])
    stream.look_through(everything)
    assert stream.backlog.known() == {A: 2, B: 1}


class BacklogMachine(RuleBasedStateMachine):
    """Whatever is pushed, read, looked at and taken, in whatever order: nothing wanted stays unfound."""

    @initialize()
    def begin(self) -> None:
        self.stream = Stream([])
        self.pushed = 0

    @rule(kinds=st.lists(st.sampled_from([A, B, C]), min_size=1, max_size=12))
    def push(self, kinds: list[Kind]) -> None:
        for kind in kinds:
            self.pushed += 1
            self.stream.kinds[self.pushed] = kind

    @rule(count=st.integers(1, 8))
    def read_in_order(self, count: int) -> None:
        ahead = [number for number in sorted(self.stream.kinds) if number > self.stream.delivered][:count]
        if ahead:
            self.stream.delivered = ahead[-1]
        for number in ahead:
            del self.stream.kinds[number]

    @rule(wanted=st.sets(st.sampled_from([A, B, C])), page=st.integers(1, 6))
    def look(self, wanted: set[Kind], page: int) -> None:
        self.stream.look(lambda kind: int(kind in wanted), page)

    @rule(kind=st.sampled_from([A, B, C]), count=st.integers(1, 5))
    def take(self, kind: Kind, count: int) -> None:
        for entry_id in self.stream.backlog.take(kind, count):
            number = int(entry_id.partition("-")[2])
            assert self.stream.kinds.pop(number, kind) == kind

    @rule(kind=st.sampled_from([A, B, C]))
    def all_of_a_kind_are_found_by_and_by(self, kind: Kind) -> None:
        for _ in range(2 * len(self.stream.kinds) + 5):
            self.stream.look(lambda one: 100 if one == kind else 0)
            for entry_id in self.stream.backlog.take(kind, 100):
                self.stream.kinds.pop(int(entry_id.partition("-")[2]), None)
        assert kind not in {
            one for number, one in self.stream.kinds.items() if number > self.stream.delivered
        }

    @invariant()
    def the_known_are_ahead_and_in_order(self) -> None:
        for line in self.stream.backlog._lines.values():
            numbers = [int(entry_id.partition("-")[2]) for entry_id in line.ids]
            assert numbers == sorted(set(numbers))


TestBacklog = BacklogMachine.TestCase
TestBacklog.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
