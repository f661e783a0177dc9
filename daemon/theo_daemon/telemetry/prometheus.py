"""Metrics as Prometheus reads them: text exposition format 0.0.4."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import accumulate

from theo_daemon.telemetry.metrics import Distribution, Family
from theo_daemon.telemetry.signals import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_LABEL_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def render_prometheus(families: Iterable[Family]) -> bytes:
    """The families as one scrape."""
    lines: list[str] = []
    for metric, samples in families:
        name = metric.prometheus_name
        lines.append(f"# HELP {name} {_escape_help(metric.meaning)}")
        lines.append(f"# TYPE {name} {metric.kind.value}")
        for labels, value in samples:
            pairs = [_pair(key, text) for key, text in zip(metric.labels, labels, strict=True)]
            if isinstance(value, Distribution):
                lines.extend(_histogram(metric, name, pairs, value))
            else:
                lines.append(f"{name}{_braces(pairs)} {_number(value)}")
    return ("\n".join(lines) + "\n").encode("utf-8", "replace")


def _histogram(metric: Metric, name: str, pairs: list[str], value: Distribution) -> Iterable[str]:
    bounds = [*map(_number, metric.buckets), "+Inf"]
    for bound, count in zip(bounds, accumulate(value.counts), strict=True):
        yield f"{name}_bucket{_braces([*pairs, _pair('le', bound)])} {count}"
    yield f"{name}_sum{_braces(pairs)} {_number(value.total)}"
    yield f"{name}_count{_braces(pairs)} {sum(value.counts)}"


def _braces(pairs: list[str]) -> str:
    return "{" + ",".join(pairs) + "}" if pairs else ""


def _pair(key: str, text: str) -> str:
    return f'{key.replace(".", "_")}="{text.translate(_LABEL_ESCAPES)}"'


def _escape_help(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return "NaN" if math.isnan(value) else repr(value)
