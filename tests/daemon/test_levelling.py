from __future__ import annotations

import pytest

from theo_daemon.levelling import LevelRules, Peer, in_order, may_read

RULES = LevelRules(base=64, step=32, alive_s=3.0, patience_s=0.15)


def peer(held: int, idle_s: float = 0.0) -> Peer:
    return Peer(held=held, idle_s=idle_s)


@pytest.mark.parametrize(
    ("held", "peers", "waited_s", "expected"),
    [
        pytest.param(0, [], 0.0, 64, id="below the base it reads up to the base"),
        pytest.param(60, [peer(0)], 0.0, 4, id="below the base nobody is asked"),
        pytest.param(64, [], 0.0, None, id="alone it reads without limit"),
        pytest.param(900, [peer(0, idle_s=3.0)], 0.0, None, id="a dead peer counts as none"),
        pytest.param(64, [peer(63)], 0.0, 0, id="a live peer with less goes first"),
        pytest.param(64, [peer(64)], 0.0, 32, id="level peers go on step by step"),
        pytest.param(64, [peer(300), peer(64)], 0.0, 32, id="the lightest live peer decides: level"),
        pytest.param(96, [peer(300), peer(64)], 0.0, 0, id="the lightest live peer decides: lighter"),
        pytest.param(96, [peer(300), peer(0, idle_s=9.0)], 0.0, 32, id="the lightest that is alive decides"),
        pytest.param(96, [peer(10)], 0.149, 0, id="waits for a lighter peer"),
        pytest.param(96, [peer(10)], 0.15, 32, id="a lighter peer that takes nothing is full: goes on"),
    ],
)
def test_may_read(held: int, peers: list[Peer], waited_s: float, expected: int | None) -> None:
    assert may_read(held, peers, RULES, waited_s=waited_s) == expected


@pytest.mark.parametrize("backlog", [300, 1_000, 5_000])
@pytest.mark.parametrize("processes", [2, 3, 5])
def test_idle_processes_end_with_equal_parts_of_a_backlog(backlog: int, processes: int) -> None:
    held = [0] * processes
    while backlog:
        for me in range(processes):
            peers = [peer(count) for other, count in enumerate(held) if other != me]
            taken = min(backlog, may_read(held[me], peers, RULES, waited_s=0.0) or 0)
            held[me] += taken
            backlog -= taken
    assert max(held) - min(held) <= RULES.base


@pytest.mark.parametrize(
    ("free", "at_rest", "most", "early", "count", "soon"),
    [
        pytest.param(1024, 0, 1024, 0, 512, True, id="half of an empty process, in case all of it must wait"),
        pytest.param(824, 0, 1024, 0, 512, True, id="jobs that run do not count"),
        pytest.param(600, 424, 1024, 0, 88, True, id="up to half may wait"),
        pytest.param(512, 512, 1024, 0, 0, True, id="half of it waits"),
        pytest.param(10, 100, 1024, 0, 10, False, id="nearly full of jobs that run"),
        pytest.param(0, 100, 1024, 0, 0, False, id="full"),
        pytest.param(10, 100, 1024, 7, 3, False, id="what is taken early has its place first"),
        pytest.param(0, 600, 1024, 5, -88, True, id="more wait than may, as their calls have failed"),
        pytest.param(1, 0, 1, 0, 1, False, id="a process for one job"),
        pytest.param(3, 0, 3, 0, 2, True, id="the odd one is read in order"),
    ],
)
def test_in_order(free: int, at_rest: int, most: int, early: int, count: int, soon: bool) -> None:
    assert in_order(free, at_rest, most=most, early=early) == (count, soon)
