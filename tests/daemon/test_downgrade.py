"""Under pressure the cheaper candidates are left to choose from, as long as one of them is free."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theo_daemon.downgrade import Option, prefer_cheaper


def option(model: str, cost: float, *, strained: bool = True, free: bool = True) -> Option:
    return Option(model=model, cost=cost, strained=strained, free=free)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        pytest.param([option("a", 5), option("b", 2), option("c", 9)], ("b",), id="the cheapest serves"),
        pytest.param([option("a", 2), option("b", 2), option("c", 9)], ("a", "b"), id="equals share"),
        pytest.param(
            [option("a", 5, strained=False), option("b", 2, strained=False)], ("a", "b"), id="no pressure"
        ),
        pytest.param(
            [option("dear", 5), option("b", 2, strained=False), option("c", 9, strained=False)],
            ("b", "c"),
            id="only the strained one stands back",
        ),
        pytest.param(
            [option("cheap", 1), option("b", 2, strained=False)], ("cheap", "b"), id="for a cheaper one only"
        ),
        pytest.param([option("a", 5), option("b", 2, free=False)], ("a",), id="the cheaper one is busy"),
        pytest.param(
            [option("a", 5, free=False), option("b", 2, free=False)], ("a", "b"), id="nobody is free"
        ),
        pytest.param([option("a", math.inf), option("b", 2)], ("b",), id="an unknown price comes last"),
        pytest.param([option("a", math.inf), option("b", math.inf)], ("a", "b"), id="all prices unknown"),
        pytest.param([option("a", 0.0), option("b", 0.0)], ("a", "b"), id="all free of charge"),
    ],
)
def test_prefer_cheaper(options: list[Option], kept: tuple[str, ...]) -> None:
    assert prefer_cheaper(options) == kept


OPTIONS = st.lists(
    st.builds(Option, model=st.just(""), cost=st.integers(0, 3), strained=st.booleans(), free=st.booleans()),
    min_size=1,
).map(lambda found: [Option(str(n), one.cost, one.strained, one.free) for n, one in enumerate(found)])


@given(OPTIONS)
def test_somebody_is_always_left_and_is_free_if_anybody_is(options: list[Option]) -> None:
    kept = prefer_cheaper(options)
    by_name = {one.model: one for one in options}
    assert kept
    if any(one.free for one in options):
        assert all(by_name[name].free for name in kept)
        cheapest = min((one for one in options if one.free), key=lambda one: one.cost)
        assert cheapest.model in kept
