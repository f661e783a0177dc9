"""Lanes by weight, tenants in turn, routes apart."""

from __future__ import annotations

from collections import Counter

import pytest
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


def test_many_routes_win_a_tenant_no_more_starts() -> None:
    queue = FairQueue[str](LANES)
    for number in range(100):
        for route in "abcdefgh":
            queue.push(f"loud-{route}{number}", lane="default", route=route, tenant="loud")
        queue.push(f"quiet-{number}", lane="default", route="a", tenant="quiet")
    started = Counter(name.split("-")[0] for name in drain(queue, 100))
    assert started == {"loud": 50, "quiet": 50}


def test_a_tenant_whose_other_route_is_saturated_has_its_turns_where_it_can_start() -> None:
    queue = FairQueue[str](LANES)
    for number in range(50):
        queue.push(f"loud-full{number}", lane="default", route="full", tenant="loud")
        queue.push(f"loud-{number}", lane="default", route="free", tenant="loud")
        queue.push(f"quiet-{number}", lane="default", route="free", tenant="quiet")
    started = [queue.pop(lambda route: route == "free") for _ in range(40)]
    assert Counter(str(name).split("-")[0] for name in started) == {"loud": 20, "quiet": 20}


def test_what_was_not_used_is_not_saved_up() -> None:
    queue = FairQueue[str](LANES)
    for number in range(100):
        queue.push(f"busy-{number}", lane="default", route="r", tenant="busy")
    assert len(drain(queue, 50)) == 50
    for number in range(50):
        queue.push(f"late-{number}", lane="default", route="r", tenant="late")
    assert Counter(name.split("-")[0] for name in drain(queue, 20)) == {"busy": 10, "late": 10}


# -- several processes ------------------------------------------------------------------------------------


def fleet(processes: int, loud: int, quiet: int) -> list[FairQueue[str]]:
    """Each has its part of a loud tenant's jobs; all of the quiet one's came to the first."""
    queues = []
    for number in range(processes):
        queue = FairQueue[str](LANES)
        queue.heed_peers(processes - 1)
        for one in range(loud // processes):
            queue.push(f"loud-{number}-{one}", lane="default", route="r", tenant="loud")
        queues.append(queue)
    for one in range(quiet):
        queues[0].push(f"quiet-{one}", lane="default", route="r", tenant="quiet")
    return queues


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_ten_jobs_in_one_of_several_processes_are_among_the_fleet_s_next_forty(processes: int) -> None:
    queues = fleet(processes, 1_000, 10)
    started = [queue.pop(lambda _: True) for _ in range(40 // processes) for queue in queues]
    assert sum(str(name).startswith("quiet") for name in started) == 10


def test_a_burst_is_for_tenants_of_whom_little_waits_and_comes_back_slowly() -> None:
    (queue,) = fleet(1, 1_000, 10)
    queue.heed_peers(2)
    assert [name.split("-")[0] for name in drain(queue, 10)] == ["loud", *["quiet"] * 9]
    for number in range(40):
        queue.push(f"quiet-{10 + number}", lane="default", route="r", tenant="quiet")
    names = Counter(name.split("-")[0] for name in drain(queue, 64))
    assert 32 <= names["quiet"] <= 32 + 64 // 8, "in turn, but for what comes back of the burst"


def test_with_nearly_as_much_to_do_as_the_others_nobody_has_a_burst() -> None:
    (queue,) = fleet(1, 40, 15)
    queue.heed_peers(2)
    assert Counter(name.split("-")[0] for name in drain(queue, 20)) == {"loud": 10, "quiet": 10}


ARRIVALS = st.lists(st.tuples(st.sampled_from("rst"), st.sampled_from("wxyz")), min_size=1, max_size=80)


@given(ARRIVALS)
def test_no_tenant_has_two_turns_while_another_waits_for_one(arrivals: list[tuple[str, str]]) -> None:
    queue = FairQueue[int](LANES)
    for number, (route, tenant) in enumerate(arrivals):
        queue.push(number, lane="default", route=route, tenant=tenant)
    left = Counter(tenant for _, tenant in arrivals)
    turns: dict[str, Counter[str]] = {
        tenant: Counter() for tenant in left
    }  # of others since its own last one
    while (number := queue.pop(lambda _: True)) is not None:
        tenant = arrivals[number][1]
        left[tenant] -= 1
        turns[tenant] = Counter()
        for other in left:
            if left[other] and other != tenant:
                turns[other][tenant] += 1
                assert turns[other][tenant] <= 1


@given(ARRIVALS, st.lists(st.sets(st.sampled_from("rst")), max_size=120))
def test_somebody_starts_whenever_somebody_can(arrivals: list[tuple[str, str]], free: list[set[str]]) -> None:
    queue = FairQueue[int](LANES)
    for number, (route, tenant) in enumerate(arrivals):
        queue.push(number, lane="default", route=route, tenant=tenant)
    left = Counter(route for route, _ in arrivals)
    for slots in free:
        number = queue.pop(slots.__contains__)
        assert (number is None) is not any(left[route] for route in slots)
        if number is not None:
            left[arrivals[number][0]] -= 1


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
