"""The choice among candidates."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theo_daemon.routing import LATE, SLOW, Candidate, choose


def named(
    name: str, weight: float = 1.0, *, load: int = 0, flaws: int = 0, usual_ms: float = 0.0
) -> Candidate:
    return Candidate(name, weight, load, flaws, usual_ms)


def shares(*candidates: Candidate, draws: int = 4_000) -> Counter[str | None]:
    rng = random.Random(1)
    return Counter(choose(candidates, rng.random()) for _ in range(draws))


def test_shares_follow_the_weights() -> None:
    assert 2_850 < shares(named("a", 3.0), named("b"))["a"] < 3_150


@pytest.mark.parametrize(
    ("candidates", "chosen"),
    [
        ([], None),
        ([named("a", flaws=LATE | SLOW)], "a"),
        ([named("a", flaws=SLOW), named("b")], "b"),
        ([named("a", 0.0), named("b")], "b"),
        ([named("a", 0.0)], "a"),
        # a threshold weighs more than a weight of 0, a deadline more than a threshold
        ([named("a", 0.0), named("b", flaws=SLOW)], "a"),
        ([named("a", flaws=LATE), named("b", 0.0, flaws=SLOW)], "b"),
        # nobody is likely to make the deadline: the fastest may
        ([named("a", 9.0, flaws=LATE, usual_ms=900), named("b", 1.0, flaws=LATE, usual_ms=800)], "b"),
        ([named("a", flaws=LATE, usual_ms=900), named("b", flaws=LATE | SLOW, usual_ms=800)], "a"),
        # equal weights: the less loaded
        ([named("a", load=3), named("b", load=2)], "b"),
        ([named("a", 0.0, load=3), named("b", 0.0, load=2)], "b"),
    ],
)
@pytest.mark.parametrize("draw", [0.0, 0.5, 0.999999999])
def test_only_the_best_are_drawn_from(candidates: list[Candidate], chosen: str | None, draw: float) -> None:
    assert choose(candidates, draw) == chosen


def test_load_decides_among_equal_weights_only_and_unequal_ones_keep_their_shares() -> None:
    counts = shares(named("a", 2.0, load=7), named("b", load=1), named("c", load=0))
    assert 1_850 < counts["a"] < 2_150
    assert (counts["b"], counts["c"]) == (0, 4_000 - counts["a"])


def test_the_least_loaded_share_alike() -> None:
    counts = shares(named("busy", load=5), named("b"), named("c"), named("d"), draws=6_000)
    assert counts["busy"] == 0
    assert all(1_850 < counts[name] < 2_150 for name in "bcd")


@given(
    st.lists(
        st.builds(
            Candidate,
            st.sampled_from("abcdef"),
            st.floats(0, 1e12),
            st.integers(0, 8),
            st.sampled_from([0, SLOW, LATE, SLOW | LATE]),
            st.floats(0, 1e9),
        ),
        max_size=6,
    ),
    st.floats(0, 1, exclude_max=True),
)
def test_somebody_is_chosen_whenever_there_is_somebody(candidates: list[Candidate], draw: float) -> None:
    chosen = choose(candidates, draw)
    assert chosen in {one.model for one in candidates} if candidates else chosen is None
    unflawed = {one.model for one in candidates if not one.flaws}
    assert not unflawed or chosen in unflawed
