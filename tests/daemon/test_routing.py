"""The choice among candidates."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from theo_daemon.routing import Candidate, choose


def test_shares_follow_the_weights() -> None:
    rng = random.Random(1)
    candidates = [Candidate("a", 3.0, free=1), Candidate("b", 1.0, free=1)]
    counts = Counter(choose(candidates, rng.random()) for _ in range(4_000))
    assert 2_850 < counts["a"] < 3_150


@pytest.mark.parametrize(
    ("candidates", "chosen"),
    [
        ([], None),
        ([Candidate("a", 1.0, free=0)], None),
        ([Candidate("a", 1.0, free=0), Candidate("b", 1.0, free=2)], "b"),
        ([Candidate("a", 1.0, free=1, slow=True), Candidate("b", 1.0, free=1)], "b"),
        ([Candidate("a", 1.0, free=1, slow=True), Candidate("b", 1.0, free=0)], "a"),
        ([Candidate("a", 0.0, free=1), Candidate("b", 1.0, free=1)], "b"),
        ([Candidate("a", 0.0, free=1)], "a"),
    ],
)
@pytest.mark.parametrize("draw", [0.0, 0.5, 0.999999999])
def test_only_the_best_available_are_drawn_from(
    candidates: list[Candidate], chosen: str | None, draw: float
) -> None:
    assert choose(candidates, draw) == chosen
