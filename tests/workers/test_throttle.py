"""How large a share of a model's calls goes elsewhere: the formula, its window, and what it counts."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theo_workers.breaker import Breaker, Verdict
from theo_workers.throttle import Throttle


def asked(requests: int, accepts: int, *, now: float = 0.0) -> Throttle:
    throttle = Throttle()
    for number in range(requests):
        throttle.ended(accepted=number < accepts, now=now)
    return throttle


@pytest.mark.parametrize(
    ("requests", "accepts", "share"),
    [
        (0, 0, 0.0),
        (1, 1, 0.0),
        (1, 0, 1 / 2),
        (2, 1, 0.0),
        (3, 1, 1 / 4),
        (100, 100, 0.0),
        (100, 51, 0.0),
        (100, 50, 0.0),
        (100, 49, 2 / 101),
        (100, 25, 50 / 101),
        (100, 1, 98 / 101),
        (99, 0, 99 / 100),
    ],
)
def test_the_share_is_the_formula_of_the_book(requests: int, accepts: int, share: float) -> None:
    throttle = asked(requests, accepts)
    assert throttle.share(0.0) == pytest.approx(share)
    assert not throttle.turns_away(0.0, share), "the share is a probability, and the draw is below it or not"
    assert throttle.turns_away(0.0, max(0.0, share - 1e-9)) == (share > 0)


def test_whoever_is_turned_away_is_a_request_that_was_not_accepted() -> None:
    throttle = asked(3, 1)
    assert throttle.turns_away(0.0, 0.0)
    assert throttle.share(0.0) == pytest.approx((4 - 2 * 1) / 5)
    assert throttle.passed_over == 1


def test_with_a_greater_k_more_refusals_are_borne() -> None:
    bold = Throttle(k=4.0)
    for number in range(100):
        bold.ended(accepted=number < 25, now=0.0)
    assert bold.share(0.0) == 0.0


@pytest.mark.parametrize(("after_s", "share"), [(0.0, 3 / 4), (109.9, 3 / 4), (120.0, 0.0), (1e6, 0.0)])
def test_what_is_older_than_two_minutes_is_forgotten(after_s: float, share: float) -> None:
    assert asked(3, 0).share(after_s) == pytest.approx(share)


@given(
    st.lists(
        st.tuples(st.floats(0, 70), st.sampled_from(["accepted", "refused", "asked"]), st.floats(0, 0.999)),
        max_size=120,
    )
)
def test_it_agrees_with_a_list_of_every_request(steps: list[tuple[float, str, float]]) -> None:
    throttle, now = Throttle(), 0.0
    kept: list[tuple[int, bool]] = []
    for pause_s, what, draw in steps:
        now += pause_s
        recent = [accepted for number, accepted in kept if number > int(now / 10) - 12]
        share = max(0.0, (len(recent) - 2 * sum(recent)) / (len(recent) + 1))
        assert throttle.share(now) == pytest.approx(share)
        assert 0 <= throttle.share(now) < 1, "somebody is asked at last, whatever was before"
        if what != "asked":
            throttle.ended(accepted=what == "accepted", now=now)
            kept.append((int(now / 10), what == "accepted"))
        elif throttle.turns_away(now, draw):
            assert draw < share
            kept.append((int(now / 10), False))
        else:
            assert draw >= throttle.share(now)


@pytest.mark.parametrize("capacity", [1.0, 2.5, 4.0])
def test_a_backend_of_fixed_capacity_is_asked_for_about_twice_what_it_takes(capacity: float) -> None:
    """Ten requests a second, of which it takes so many: the book's reason for K = 2."""
    rng, throttle, sent, took, room = random.Random(3), Throttle(), 0, 0, 0.0
    for step in range(9_000):
        now, room = step / 10, min(1.0, room + capacity / 10)
        if throttle.share(now) and throttle.turns_away(now, rng.random()):
            continue
        accepted = room >= 1
        room -= accepted
        throttle.ended(accepted=accepted, now=now)
        if now >= 300:
            sent, took = sent + 1, took + accepted
    assert took > 0.5 * capacity * 600
    assert sent / took == pytest.approx(2.0, abs=0.3)


def test_one_that_took_nothing_is_asked_now_and_then_and_once_well_ever_more() -> None:
    rng, throttle, sent = random.Random(5), Throttle(), [0] * 20  # in each two minutes
    for step in range(20 * 1_200):
        now = step / 10
        if throttle.share(now) and throttle.turns_away(now, rng.random()):
            continue
        throttle.ended(accepted=now >= 480, now=now)
        sent[int(now / 120)] += 1
    assert 1 <= sum(sent[1:4]) <= 12, "of 3,600"
    assert sent[18:] == [1_200, 1_200]
    doubling = [count for count in sent[5:] if 16 < count < 600]
    assert all(later > 1.5 * earlier for earlier, later in itertools.pairwise(doubling))


def test_it_is_told_once_until_nobody_was_turned_away_for_two_minutes() -> None:
    throttle = Throttle()
    assert [throttle.began(now) for now in (0.0, 1.0, 100.0, 219.9, 340.0, 341.0)] == [
        *(True, False, False, False, True, False)
    ]


@pytest.mark.parametrize(
    ("verdict", "share"),
    [
        (Verdict.SUCCESS, 0.0),
        (Verdict.ACCEPTED, 0.0),
        (Verdict.NEUTRAL, 0.0),
        (Verdict.FAILURE, 2 / 3),
        (Verdict.PUSHED_BACK, 2 / 3),
    ],
)
def test_a_breaker_tells_it_of_every_call_that_says_something_of_the_model(
    verdict: Verdict, share: float
) -> None:
    throttle = Throttle()
    breaker = Breaker(throttle=throttle)
    for _ in range(2):
        breaker.settle(breaker.admit(0.0), verdict, 0.0, 0.5)
    assert throttle.share(0.0) == pytest.approx(share)


def test_what_was_before_the_circuit_changed_counts_for_nothing() -> None:
    throttle = Throttle()
    breaker = Breaker(throttle=throttle, timeout_s=1.0)
    early = breaker.admit(0.0)
    for _ in range(3):
        breaker.settle(breaker.admit(0.0), Verdict.FAILURE, 0.0, 0.5)
    breaker.settle(breaker.admit(1.0), Verdict.SUCCESS, 1.0, 0.5)
    breaker.settle(early, Verdict.FAILURE, 1.0, 0.5)
    assert throttle.share(1.0) == 0.0


@pytest.mark.parametrize("wrong", [{"k": 0.5}, {"window_s": 0.0}, {"buckets": 0}])
def test_settings_that_make_no_throttle_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be at least"):
        Throttle(**wrong)  # type: ignore[arg-type]
