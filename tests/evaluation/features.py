"""What is compared: plain weighted choice, and each routing feature switched on by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from theo_daemon.config import RoutingConfig


class Feature(Struct, frozen=True, kw_only=True):
    """One way to configure the router. `routing` is laid over `[routing]`."""

    name: str
    routing: Mapping[str, Any] = {}
    weights_by_hand: bool = False

    @property
    def missing(self) -> list[str]:
        """Keys that this router does not know: the feature cannot be judged yet."""
        return [key for key in self.routing if key not in RoutingConfig.__struct_fields__]


BASELINE = "weighted"

FEATURES = (
    Feature(name=BASELINE),
    Feature(name="weights by hand", weights_by_hand=True),
    Feature(name="predictive", routing={"strategy": "predictive"}),
    Feature(name="regions", routing={"regions": ("eu", "us")}),
    Feature(name="adaptive threshold", routing={"circuit_breaker_adaptive": "history"}),
    Feature(name="throttling", routing={"circuit_breaker_adaptive": "throttle"}),
    Feature(name="adaptive breaker", routing={"circuit_breaker_adaptive": True}),
    Feature(name="downgrading", routing={"downgrade_ratio": 0.5}),
    Feature(name="hedging", routing={"hedge_after_ms": 3_000.0, "hedge_max_cost": 0.02}),
)
