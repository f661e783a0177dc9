"""Some prices hold for a time only, e.g. by hour of the day: they are looked up again when it is over."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from theo_daemon.config import ModelConfig
from theo_daemon.fleet import Fleet
from theo_workers.clock import Clock, sleep
from theo_workers.prices import Price

LONGEST_S = 600.0  # the wall clock may be set while we wait for a moment of it
AGAIN_S = 60.0  # a price that says it is out of date when it is looked up


async def keep_prices(
    fleet: Fleet, look_up: Callable[[ModelConfig], Awaitable[Price | None]], clock: Clock
) -> None:
    """Replace prices as their time comes; returns when none is foreseen to change. Cancel to stop."""
    while (due := _next_change(fleet)) is not None:
        wait_s = due - clock.wall()
        if wait_s > 0:
            await sleep(clock, min(wait_s, LONGEST_S))
            continue
        for member in list(fleet.members()):
            if member.price is not None and member.price.until is not None and member.price.until <= due:
                fleet.reprice(member.config.name, await look_up(member.config))
        following = _next_change(fleet)
        if following is not None and following <= clock.wall():
            await sleep(clock, AGAIN_S)


def _next_change(fleet: Fleet) -> float | None:
    """Unix seconds of the first foreseen change of any price."""
    return min(
        (m.price.until for m in fleet.members() if m.price is not None and m.price.until is not None),
        default=None,
    )
