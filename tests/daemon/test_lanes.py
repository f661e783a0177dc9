from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from theo_daemon.lanes import LaneShares

WEIGHTS = {"high": 6, "default": 3, "low": 1}


@given(st.lists(st.integers(1, 300), min_size=1, max_size=50))
def test_gives_away_exactly_the_room(rooms: list[int]) -> None:
    shares = LaneShares(WEIGHTS)
    for room in rooms:
        assert sum(shares.divide(room).values()) == room


@given(st.lists(st.integers(1, 30), min_size=1, max_size=200))
def test_every_lane_keeps_within_one_turn_of_its_share(rooms: list[int]) -> None:
    shares, given_out = LaneShares(WEIGHTS), Counter[str]()
    for room in rooms:
        given_out.update(shares.divide(room))
        for lane, weight in WEIGHTS.items():
            assert abs(given_out[lane] - given_out.total() * weight / 10) <= 1


def test_no_lane_starves_when_there_is_room_for_one_at_a_time() -> None:
    shares = LaneShares(WEIGHTS)
    turns = [lane for _ in range(10) for lane in shares.divide(1)]
    assert Counter(turns) == WEIGHTS


def test_an_empty_lane_is_asked_for_one_and_the_others_share_the_rest() -> None:
    shares = LaneShares(WEIGHTS)
    for lane in ("high", "low"):
        shares.found(lane, asked=10, got=0)
    assert shares.divide(100) == {"high": 1, "low": 1, "default": 98}


def test_a_lane_that_had_what_it_was_asked_for_gets_its_share_again() -> None:
    shares = LaneShares(WEIGHTS)
    shares.found("high", asked=60, got=59)
    shares.found("high", asked=1, got=1)
    assert shares.divide(100) == {"high": 60, "default": 30, "low": 10}


@given(st.sets(st.sampled_from(list(WEIGHTS))), st.lists(st.integers(1, 100), min_size=1, max_size=20))
def test_the_room_is_given_away_whatever_is_empty(dry: set[str], rooms: list[int]) -> None:
    shares = LaneShares(WEIGHTS)
    for lane in dry:
        shares.found(lane, asked=1, got=0)
    for room in rooms:
        assert sum(shares.divide(room).values()) == room


def test_with_little_room_an_empty_lane_keeps_its_turns() -> None:
    shares = LaneShares(WEIGHTS)
    shares.found("high", asked=1, got=0)
    turns = Counter(lane for _ in range(10) for lane in shares.divide(1))
    assert turns == WEIGHTS
