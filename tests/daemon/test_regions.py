"""When a region is out of order, and when it is back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theo_daemon.regions import ADMITTED, UNTESTED_S, Admitted, Circuit, Evicted, Region, look

WELL, IDLE = 1.0, 31.0  # seconds since the last answer


def circuits(**states: str | float | None) -> list[Circuit]:
    """By model: "open", "half_open", or for a closed one how long ago it answered."""
    return [
        Circuit(name, state, None) if isinstance(state, str) else Circuit(name, "closed", state)  # type: ignore[arg-type]
        for name, state in states.items()
    ]


@pytest.mark.parametrize(
    ("found", "ratio", "evicted"),
    [
        (circuits(a=WELL, b=WELL), 0.5, ""),
        (circuits(a=None, b=None), 0.5, ""),  # nobody was asked yet
        (circuits(a=IDLE, b=IDLE), 0.5, ""),
        # several circuits, and a share of them
        (circuits(a="open", b="open", c=WELL, d=WELL), 0.5, "ab"),
        (circuits(a="open", b="half_open", c=WELL, d=WELL), 0.5, "ab"),
        (circuits(a="open", b="open", c=WELL, d=WELL, e=WELL), 0.5, ""),
        (circuits(a="open", b=WELL), 0.5, ""),  # one model's trouble
        (circuits(a="open", b=WELL), 0.1, ""),
        (circuits(a="open", b="open", c=WELL), 0.7, ""),
        # all that were tried
        (circuits(a="open"), 1.0, "a"),
        (circuits(a="open", b=None, c=IDLE), 1.0, "a"),
        (circuits(a="open", b=IDLE, c=WELL), 1.0, ""),
    ],
)
def test_a_region_is_out_of_order_when_several_circuits_are_open_or_nobody_is_well(
    found: list[Circuit], ratio: float, evicted: str
) -> None:
    region = look(ADMITTED, found, ratio=ratio, now=5.0)
    assert region == (Evicted(frozenset(evicted), 5.0) if evicted else Admitted(frozenset(_broken(found))))


def _broken(found: list[Circuit]) -> set[str]:
    return {one.model for one in found if one.state != "closed"}


def test_a_model_that_rests_does_not_turn_a_known_opening_into_an_eviction() -> None:
    known = look(ADMITTED, circuits(a="open", b=WELL), ratio=0.5, now=0)
    assert look(known, circuits(a="open", b=IDLE), ratio=0.5, now=60) == Admitted(frozenset("a"))
    assert look(known, circuits(a="open", b="open"), ratio=0.5, now=60) == Evicted(frozenset("ab"), 60)


def test_one_good_probe_readmits_the_whole_region_and_what_is_still_open_does_not_evict_it_again() -> None:
    evicted = Evicted(frozenset("ab"), 0)
    readmitted = look(evicted, circuits(a=0.0, b="open", c=None), ratio=0.1, now=60)
    assert readmitted == Admitted(frozenset("b"))
    assert look(readmitted, circuits(a=0.1, b="half_open", c=None), ratio=0.1, now=61) == Admitted(
        frozenset("b")
    )


def test_a_failed_probe_leaves_it_out_and_further_openings_are_counted_in() -> None:
    evicted: Region = Evicted(frozenset("ab"), 0)
    for found in (
        circuits(a="half_open", b="open"),
        circuits(a="open", b="open"),
        circuits(a="open", b="open", c="open"),
    ):
        evicted = look(evicted, found, ratio=0.5, now=60)
    assert evicted == Evicted(frozenset("abc"), 0)


def test_a_region_that_nobody_probes_is_let_in_after_a_while() -> None:
    evicted: Region = Evicted(frozenset("a"), 0)
    waiting = circuits(a="half_open", b=IDLE)
    evicted = look(evicted, waiting, ratio=0.5, now=60)
    evicted = look(evicted, waiting, ratio=0.5, now=60 + UNTESTED_S - 1)
    assert isinstance(evicted, Evicted)
    assert look(evicted, waiting, ratio=0.5, now=60 + UNTESTED_S) == Admitted(frozenset("a"))
    probed = look(evicted, circuits(a="open", b=IDLE), ratio=0.5, now=100)  # the wait begins anew
    assert look(probed, waiting, ratio=0.5, now=60 + UNTESTED_S) == Evicted(
        frozenset("a"), 0, 60 + UNTESTED_S
    )


CIRCUITS = st.lists(
    st.builds(
        Circuit,
        st.sampled_from("abcde"),
        st.sampled_from(["closed", "half_open", "open"]),
        st.none() | st.floats(0, 100),
    ),
    max_size=5,
    unique_by=lambda one: one.model,
)


@given(st.lists(CIRCUITS, max_size=12), st.floats(0.01, 1))
def test_a_region_without_a_broken_circuit_is_never_out(looks: list[list[Circuit]], ratio: float) -> None:
    region: Region = ADMITTED
    for now, found in enumerate(looks):
        region = look(region, found, ratio=ratio, now=now)
        assert isinstance(region, Admitted) or region.circuits == _broken(found) != set()
