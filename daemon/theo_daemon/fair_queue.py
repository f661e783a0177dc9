"""Who starts next: lanes by weight, tenants of a lane in turn, each tenant's jobs in order. Pure.

Tenants take turns as in deficit round robin (Shreedhar and Varghese, 1995) with a quantum of one start. A job's cost is
one start, whatever its size: what tenants compete for here is the next free slot, the promise to them is counted in
starts (ten jobs of a quiet tenant are among the next forty), and what a job costs in tokens and money is bounded by
`tpm` and by budgets. With a cost in tokens a quiet tenant's long prompts would wait for hundreds of short ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Mapping
from heapq import heappop, heappush, heapreplace
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT", bound=Hashable)

# Turns that a tenant of which little waits here may have at once where other processes serve the rest.
BURST = 10
REGAINED_EVERY = 8  # starts: so often it gets one of them back
LITTLE = 4  # times less than what a tenant of the lane has waiting on average
REMEMBERED = 1_024  # tenants that have used some of their burst


class FairQueue(Generic[ItemT]):
    """Jobs that wait for a slot.

    Lanes share the starts by weight (smooth weighted round robin, as nginx chooses upstreams), so that no
    lane starves; within a lane, tenants take turns. Jobs wait apart by route, since a saturated model must
    not hold up the jobs of another; a tenant's turn is the same on all routes, so many routes win it no more starts.

    Turns are for the fleet. Where several processes serve a loud tenant, one that has a few jobs in this process alone
    would get its turns in one of them only; so these few go first, a burst at the most.
    """

    def __init__(self, weights: Mapping[str, int]) -> None:
        self.peers = 0
        self._weights = weights
        self._credit = dict.fromkeys(weights, 0)
        self._lanes: dict[str, _Lane[ItemT]] = {lane: _Lane() for lane in weights}
        self._place: dict[ItemT, tuple[str, str, str]] = {}

    def heed_peers(self, count: int) -> None:
        """So many other processes serve these lanes now."""
        self.peers = count

    def __len__(self) -> int:
        return len(self._place)

    def __contains__(self, item: ItemT) -> bool:
        return item in self._place

    def routes(self) -> list[str]:
        """Routes that somebody waits for, each once."""
        return list(dict.fromkeys(route for lane in self._lanes.values() for route in lane.routes))

    def push(self, item: ItemT, *, lane: str, route: str, tenant: str) -> None:
        """Append to the tenant's own line."""
        self._lanes[lane].push(item, route, tenant)
        self._place[item] = (lane, route, tenant)

    def discard(self, item: ItemT) -> None:
        """Take a job out of the line, if it stands there."""
        place = self._place.pop(item, None)
        if place is not None:
            lane, route, tenant = place
            self._lanes[lane].discard(item, route, tenant)

    def pop(self, can_start: Callable[[str], bool]) -> ItemT | None:
        """The next job whose route can start one now; None when there is none."""
        can: dict[str, bool] = {}
        startable: dict[str, tuple[str, str]] = {}
        total = 0
        for lane, waiting in self._lanes.items():
            if not waiting.routes:
                continue
            for route in waiting.routes:
                if route not in can:
                    can[route] = can_start(route)
            if (turn := waiting.next_turn(can)) is not None:
                startable[lane] = turn
                self._credit[lane] += self._weights[lane]
                total += self._weights[lane]
        if not startable:
            return None
        lane = max(startable, key=self._credit.__getitem__)
        self._credit[lane] -= total
        item = self._lanes[lane].take(*startable[lane], shared=self.peers > 0)
        del self._place[item]
        return item

    def waiting_on(self, route: str) -> list[ItemT]:
        """Everybody who waits for `route`, in no particular order."""
        return [item for item, (_, name, _) in self._place.items() if name == route]


class _Lane(Generic[ItemT]):
    """One lane: its routes, and when each tenant of theirs last had a turn."""

    def __init__(self) -> None:
        self.routes: dict[str, _Route[ItemT]] = {}
        self._served: dict[str, int] = {}  # by tenant: its last turn
        self._lines: dict[str, int] = {}  # by tenant: on how many routes it waits
        self._turn = 0
        self._waiting = 0
        self._bursts: dict[
            str, tuple[int, int]
        ] = {}  # by tenant: turns left of its burst, and as of which turn

    def push(self, item: ItemT, route: str, tenant: str) -> None:
        lines = self.routes.setdefault(route, _Route())
        if tenant not in lines.jobs:
            self._turn += 1
            lines.open(tenant, self._turn)
            self._lines[tenant] = self._lines.get(tenant, 0) + 1
        lines.jobs[tenant].append(item)
        self._waiting += 1

    def discard(self, item: ItemT, route: str, tenant: str) -> None:
        jobs = self.routes[route].jobs[tenant]
        jobs.remove(item)
        self._waiting -= 1
        if not jobs:
            self._close(route, tenant)

    def next_turn(self, can: Mapping[str, bool]) -> tuple[str, str] | None:
        """Route and tenant: of those whose route can start a job, who has waited longest for a turn."""
        found: tuple[str, str] | None = None
        longest = 0
        for route, lines in self.routes.items():
            if can[route]:
                since, tenant = lines.first(self._served)
                if found is None or since < longest:
                    found, longest = (route, tenant), since
        return found

    def take(self, route: str, tenant: str, *, shared: bool) -> ItemT:
        jobs = self.routes[route].jobs[tenant]
        item = jobs.popleft()
        self._turn += 1
        self._waiting -= 1
        if not (shared and self._goes_on(tenant)):
            self._served[tenant] = self._turn
        if not jobs:
            self._close(route, tenant)
        return item

    def _goes_on(self, tenant: str) -> bool:
        """May it have the next turn, too?"""
        own = sum(len(lines.jobs.get(tenant, ())) for lines in self.routes.values())
        if not own or LITTLE * own * len(self._lines) > self._waiting:
            return False
        left, turn = self._bursts.get(tenant, (BURST, self._turn))
        regained = (self._turn - turn) // REGAINED_EVERY
        left = min(BURST, left + regained)
        if left < 1:
            return False
        if len(self._bursts) >= REMEMBERED:
            self._bursts.pop(next(iter(self._bursts)))  # used longest ago
        self._bursts.pop(tenant, None)
        self._bursts[tenant] = (left - 1, self._turn)
        return True

    def _close(self, route: str, tenant: str) -> None:
        """Nobody stands in this line any more."""
        lines = self.routes[route]
        lines.close(tenant)
        if not lines.jobs:
            del self.routes[route]
        self._lines[tenant] -= 1
        if not self._lines[tenant]:
            del self._lines[tenant]
            self._served.pop(tenant, None)


class _Route(Generic[ItemT]):
    """One route: the jobs of each tenant, and which tenant is next."""

    def __init__(self) -> None:
        self.jobs: dict[str, deque[ItemT]] = {}
        self._since: dict[
            str, int
        ] = {}  # since which turn a tenant waits for its own, as far as is known here
        self._order: list[tuple[int, str]] = []  # a heap of the same, with what was true before among it

    def open(self, tenant: str, since: int) -> None:
        self.jobs[tenant] = deque()
        self._since[tenant] = since
        heappush(self._order, (since, tenant))

    def close(self, tenant: str) -> None:
        del self.jobs[tenant], self._since[tenant]

    def first(self, served: Mapping[str, int]) -> tuple[int, str]:
        """The tenant that has waited longest, and since when: its last turn on any route, or when it came here."""
        while True:
            since, tenant = self._order[0]
            if self._since.get(tenant) != since:
                heappop(self._order)
            elif (last := served.get(tenant, 0)) > since:
                self._since[tenant] = last
                heapreplace(self._order, (last, tenant))
            else:
                return since, tenant
