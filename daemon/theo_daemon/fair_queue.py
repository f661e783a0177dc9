"""Who starts next: lanes by weight, tenants of a lane in turn, each tenant's jobs in order. Pure."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Mapping
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT", bound=Hashable)


class FairQueue(Generic[ItemT]):
    """Jobs that wait for a slot.

    Lanes share the starts by weight (smooth weighted round robin, as nginx chooses upstreams), so that no
    lane starves; within a lane, tenants take turns. Jobs wait apart by route, since a saturated model must
    not hold up the jobs of another.
    """

    def __init__(self, weights: Mapping[str, int]) -> None:
        self._weights = weights
        self._credit = dict.fromkeys(weights, 0)
        # lane -> route -> tenant -> jobs; both ordered dicts are turned as they are served
        self._waiting: dict[str, OrderedDict[str, OrderedDict[str, deque[ItemT]]]] = {
            lane: OrderedDict() for lane in weights
        }
        self._place: dict[ItemT, tuple[str, str, str]] = {}

    def __len__(self) -> int:
        return len(self._place)

    def __contains__(self, item: ItemT) -> bool:
        return item in self._place

    def routes(self) -> set[str]:
        """Routes that somebody waits for."""
        return {route for lane in self._waiting.values() for route in lane}

    def push(self, item: ItemT, *, lane: str, route: str, tenant: str) -> None:
        """Append to the tenant's own line."""
        tenants = self._waiting[lane].setdefault(route, OrderedDict())
        tenants.setdefault(tenant, deque()).append(item)
        self._place[item] = (lane, route, tenant)

    def discard(self, item: ItemT) -> None:
        """Take a job out of the line, if it stands there."""
        place = self._place.pop(item, None)
        if place is not None:
            lane, route, tenant = place
            self._waiting[lane][route][tenant].remove(item)
            self._tidy(lane, route, tenant)

    def pop(self, can_start: Callable[[str], bool]) -> ItemT | None:
        """The next job whose route can start one now; None when there is none."""
        can: dict[str, bool] = {}
        startable: dict[str, str] = {}
        total = 0
        for lane, routes in self._waiting.items():
            for route in routes:
                if route not in can:
                    can[route] = can_start(route)
                if can[route]:
                    startable[lane] = route
                    self._credit[lane] += self._weights[lane]
                    total += self._weights[lane]
                    break
        if not startable:
            return None
        lane = max(startable, key=self._credit.__getitem__)
        self._credit[lane] -= total
        return self._take(lane, startable[lane])

    def waiting_on(self, route: str) -> list[ItemT]:
        """Everybody who waits for `route`, in no particular order."""
        return [item for item, (_, name, _) in self._place.items() if name == route]

    def _take(self, lane: str, route: str) -> ItemT:
        tenants = self._waiting[lane][route]
        tenant, jobs = next(iter(tenants.items()))
        item = jobs.popleft()
        del self._place[item]
        tenants.move_to_end(tenant)
        self._waiting[lane].move_to_end(route)
        self._tidy(lane, route, tenant)
        return item

    def _tidy(self, lane: str, route: str, tenant: str) -> None:
        tenants = self._waiting[lane][route]
        if not tenants[tenant]:
            del tenants[tenant]
            if not tenants:
                del self._waiting[lane][route]
