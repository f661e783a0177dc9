"""Medians with their spread, and the ratio to the loop within each repetition."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

import msgspec

from tests.bench.measure import Figures

BASELINE = "loop"


def spread(values: Iterable[float], digits: int = 0) -> str:
    """`median (min..max)`."""
    numbers = sorted(values)
    return f"{median(numbers):,.{digits}f} ({numbers[0]:,.{digits}f}..{numbers[-1]:,.{digits}f})"


def by_contender(runs: Sequence[Figures]) -> dict[str, list[Figures]]:
    names = dict.fromkeys(run.contender for run in runs)
    return {
        name: sorted((r for r in runs if r.contender == name), key=lambda r: r.repetition) for name in names
    }


def ratios(runs: Sequence[Figures], name: str) -> list[float]:
    """CPU per job of `name` over that of the loop, one for each repetition in which both ran."""
    groups = by_contender(runs)
    pairs = zip(groups.get(name, ()), groups.get(BASELINE, ()), strict=False)
    return [run.cpu_us_per_job / base.cpu_us_per_job for run, base in pairs]


def table(runs: Sequence[Figures], facts: dict[str, Any]) -> str:
    """Facts, a line for each contender, and the ratios."""
    rows = [
        ("contender", "jobs/s", "CPU µs/job", "afterwards", "Redis µs/job", "peak RSS MB", "foreign cores")
    ]
    for name, group in by_contender(runs).items():
        rows.append(
            (
                name,
                spread(r.jobs_per_s for r in group),
                spread(r.cpu_us_per_job for r in group),
                spread(r.aftermath_us_per_job for r in group),
                spread(r.redis_us_per_job for r in group),
                f"{max(r.peak_rss_mb for r in group):.0f}",
                spread((r.foreign_cores for r in group), 2),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [", ".join(f"{key} {value}" for key, value in facts.items()), ""]
    lines += [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    for name in by_contender(runs):
        if name != BASELINE and (found := ratios(runs, name)):
            lines += ["", f"{name} / {BASELINE}: {spread(found, 2)} times the CPU per job"]
    return "\n".join(lines)


def as_json(runs: Sequence[Figures], facts: dict[str, Any]) -> str:
    """One object: facts, every run, and the ratios by contender."""
    names = [name for name in by_contender(runs) if name != BASELINE]
    found = {name: ratios(runs, name) for name in names}
    return msgspec.json.encode({"facts": facts, "runs": runs, "ratios": found}).decode()
