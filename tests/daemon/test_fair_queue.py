"""Lanes by weight, tenants in turn, routes apart."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from theo_daemon.fair_queue import FairQueue

LANES = {"high": 6, "default": 3, "low": 1}


def drain(queue: FairQueue[str], count: int | None = None) -> list[str]:
    started: list[str] = []
    while (count is None or len(started) < count) and (item := queue.pop(lambda _: True)) is not None:
        started.append(item)
    return started


def test_lanes_share_the_starts_by_weight_when_all_wait() -> None:
    queue = FairQueue[str](LANES)
    for lane in LANES:
        for number in range(100):
            queue.push(f"{lane}-{number}", lane=lane, route="r", tenant="")
    starts = Counter(name.split("-")[0] for name in drain(queue, 100))
    assert starts == {"high": 60, "default": 30, "low": 10}


def test_a_quiet_tenant_behind_a_loud_one_starts_soon() -> None:
    queue = FairQueue[str](LANES)
    for number in range(1_000):
        queue.push(f"loud-{number}", lane="default", route="r", tenant="loud")
    for number in range(10):
        queue.push(f"quiet-{number}", lane="default", route="r", tenant="quiet")
    assert sum(name.startswith("quiet") for name in drain(queue, 20)) == 10


def test_a_saturated_route_holds_up_nobody_else() -> None:
    queue = FairQueue[str](LANES)
    queue.push("stuck", lane="high", route="full", tenant="")
    queue.push("goes", lane="low", route="free", tenant="")
    assert queue.pop(lambda route: route == "free") == "goes"
    assert queue.pop(lambda route: route == "free") is None
    assert queue.pop(lambda route: True) == "stuck"


def test_who_left_the_line_does_not_start() -> None:
    queue = FairQueue[str](LANES)
    queue.push("a", lane="default", route="r", tenant="")
    queue.push("b", lane="default", route="r", tenant="")
    queue.discard("a")
    queue.discard("never-there")
    assert drain(queue) == ["b"]
    assert len(queue) == 0
    assert queue.routes() == []


@given(
    st.lists(
        st.tuples(st.sampled_from(list(LANES)), st.sampled_from("rs"), st.sampled_from("xyz")), max_size=60
    )
)
def test_everybody_starts_once_and_a_tenant_s_jobs_keep_their_order(
    arrivals: list[tuple[str, str, str]],
) -> None:
    queue = FairQueue[int](LANES)
    for number, (lane, route, tenant) in enumerate(arrivals):
        queue.push(number, lane=lane, route=route, tenant=tenant)
    started = []
    while (item := queue.pop(lambda _: True)) is not None:
        started.append(item)
    assert sorted(started) == list(range(len(arrivals)))
    for line in set(arrivals):
        own = [number for number in started if arrivals[number] == line]
        assert own == sorted(own)
