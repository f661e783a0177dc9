"""What a log event and a metric are, whatever their names."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from msgspec import Struct

Level = Literal["debug", "info", "warning", "error"]


class LogEvent(Struct, frozen=True):
    """One thing that happened, as the `event` field of a log line."""

    name: str
    level: Level
    meaning: str


class Kind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Metric(Struct, frozen=True):
    """One family of series. `unit` is UCUM as OpenTelemetry has it; `buckets` are upper bounds."""

    name: str
    kind: Kind
    unit: str
    labels: tuple[str, ...]
    meaning: str
    buckets: tuple[float, ...] = ()

    @property
    def prometheus_name(self) -> str:
        """By OpenTelemetry's own rule: dots to underscores, the unit, `_total` for counters."""
        suffix = {"s": "_seconds", "By": "_bytes", "USD": "_usd"}.get(self.unit, "")
        return self.name.replace(".", "_") + suffix + ("_total" if self.kind is Kind.COUNTER else "")
