"""How many calls at a time: the ramp of a model that comes back, and what it bears."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theo_workers.load import Load
from theo_workers.slots import Slots


@pytest.mark.parametrize(
    ("most", "stages"), [(64, [16, 32, 64]), (10, [3, 5, 10]), (3, [1, 2, 3]), (2, [1, 1, 2]), (1, [1, 1, 1])]
)
def test_a_model_that_comes_back_gets_a_quarter_then_half_then_all(most: int, stages: list[int]) -> None:
    slots = Slots(most, ramp_s=10.0)
    assert slots.now == most
    slots.recover(100.0, 100.0)
    seen = []
    for now in (100.0, 104.9, 105.0, 109.9, 110.0, 500.0):
        slots.tick(now)
        seen.append(slots.now)
    assert seen == [stages[0], stages[0], stages[1], stages[1], stages[2], stages[2]]


def test_without_a_ramp_it_gets_all_at_once() -> None:
    slots = Slots(64)
    slots.recover(100.0, 100.0)
    assert (slots.now, slots.next_change(100.0)) == (64, math.inf)


def test_the_next_change_is_the_next_step_and_after_the_last_there_is_none() -> None:
    slots = Slots(64, ramp_s=10.0)
    slots.recover(100.0, 100.0)
    assert [slots.next_change(now) for now in (100.0, 104.9, 105.0, 109.9)] == [105.0, 105.0, 110.0, 110.0]
    slots.tick(110.0)
    assert slots.next_change(110.0) == math.inf


def test_a_ramp_that_begins_later_holds_the_first_step_until_then() -> None:
    slots = Slots(64, ramp_s=10.0)
    slots.recover(120.0, 100.0)
    assert (slots.now, slots.next_change(100.0)) == (16, 125.0)


def test_a_short_outage_has_a_short_ramp() -> None:
    slots = Slots(64, ramp_s=10.0)
    slots.recover(101.0, 100.0, at_most_s=1.0)
    slots.tick(101.5)
    assert slots.now == 32
    slots.tick(102.0)
    assert slots.now == 64


def test_a_short_outage_cuts_no_long_ramp_short() -> None:
    slots = Slots(64, ramp_s=10.0)
    slots.recover(100.0, 100.0)
    slots.recover(103.0, 102.0, at_most_s=1.0)
    slots.tick(104.5)
    assert slots.now == 16


def test_an_operator_ends_the_ramp() -> None:
    slots = Slots(64, ramp_s=10.0)
    slots.recover(100.0, 100.0)
    slots.fill()
    assert (slots.now, slots.next_change(100.0)) == (64, math.inf)


def test_ramp_and_load_together_leave_the_smaller_number() -> None:
    slots = Slots(40, ramp_s=10.0, load=Load(40, least_slow_ms=1.0))
    slots.overloaded(99.0, 100.0)
    assert slots.now == 28
    slots.recover(100.0, 100.0)
    assert slots.now == 10
    slots.tick(105.0)
    assert slots.now == 20
    slots.tick(110.0)
    assert slots.now == 28


@given(
    st.integers(1, 500),
    st.floats(0.1, 100.0),
    st.lists(st.tuples(st.sampled_from(["wait", "out", "pause"]), st.floats(0.0, 60.0)), max_size=30),
)
def test_there_is_always_a_slot_never_more_than_configured_and_all_of_them_in_the_end(
    most: int, ramp_s: float, happenings: list[tuple[str, float]]
) -> None:
    slots, now, last_out = Slots(most, ramp_s=ramp_s), 1_000.0, 0.0
    for what, seconds in happenings:
        before = slots.now
        match what:
            case "wait":
                now += seconds
                slots.tick(now)
                assert slots.now >= before, "time alone takes no slot away"
            case "out":
                slots.recover(now, now)
                last_out = max(last_out, now)
            case "pause":
                slots.recover(now + seconds, now, at_most_s=seconds)
                last_out = max(last_out, now + seconds)
        assert 1 <= slots.now <= most
        assert slots.next_change(now) > now
    slots.tick(last_out + ramp_s + 1e-6)
    assert slots.now == most
