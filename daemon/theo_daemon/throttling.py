"""Passes candidates over that take less than half of the calls they get, while another one is free."""

from __future__ import annotations

import random
from typing import ClassVar

from theo_workers.breaker import Breaker
from theo_workers.call import Observer
from theo_workers.throttle import Throttle


class Throttling:
    """Of all models of one process. `observer` hears of each model once, until it has taken its calls for a while."""

    event: ClassVar[str] = "model_throttled"

    def __init__(self, throttles: dict[str, Throttle], *, rng: random.Random, observer: Observer) -> None:
        """`throttles` by model; the others are never passed over."""
        self._throttles, self._rng, self._observer = throttles, rng, observer

    def passes_over(self, model: str, now: float) -> bool:
        """Must this candidate, which would be asked now, give way to another? `now` is monotonic seconds."""
        throttle = self._throttles.get(model)
        if throttle is None or not (share := throttle.share(now)):
            return False  # nothing hangs on the dice, so they are left alone
        if not throttle.turns_away(now, self._rng.random()):
            return False
        if throttle.began(now):
            self._observer.on_transition(model, self.event, {"share": round(share, 3)})
        return True


def throttling(breakers: dict[str, Breaker], *, rng: random.Random, observer: Observer) -> Throttling | None:
    """None: no model has a throttle."""
    throttles = {name: one.throttle for name, one in breakers.items() if one.throttle is not None}
    return Throttling(throttles, rng=rng, observer=observer) if throttles else None
