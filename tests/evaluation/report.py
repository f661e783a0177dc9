"""The table: what a feature is worth in each scenario, beside plain weighted choice."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import median

from msgspec import Struct

from tests.evaluation.features import BASELINE
from tests.evaluation.world import Run

HEAD = ("scenario", "feature", "answered", "p95", "p99", "cost of 1,000 jobs", "calls per job", "verdict")
PERCENT, FASTER, CHEAPER = 0.1, 0.05, 0.03  # smaller differences than these are no gain and no loss
_NAMES = ("answers", "p95", "cost")


class Figures(Struct, frozen=True, kw_only=True):
    """One run in three numbers, and how many calls they took."""

    answered: float  # per cent
    p95_s: float  # of the answered
    p99_s: float  # for information: the verdict is by the others
    cost_usd: float  # of 1,000 jobs
    calls: float  # per job


def figures(run: Run) -> Figures:
    ordered = sorted(run.latencies_s)
    return Figures(
        answered=100 * len(ordered) / run.jobs,
        p95_s=_quantile(ordered, 0.95),
        p99_s=_quantile(ordered, 0.99),
        cost_usd=1_000 * run.cost_usd / run.jobs,
        calls=run.calls / run.jobs,
    )


def table(runs: Sequence[Run]) -> str:
    """Markdown: medians over the seeds, the whole range in brackets."""
    rows = [HEAD, tuple("---" for _ in HEAD)]
    for scenario in dict.fromkeys(run.scenario for run in runs):
        found = {
            name: [run for run in runs if (run.scenario, run.feature) == (scenario, name)]
            for name in dict.fromkeys(run.feature for run in runs)
        }
        for name, ofit in found.items():
            if ofit:
                rows.append(_row(scenario, name, ofit, found.get(BASELINE, [])))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(scenario: str, feature: str, runs: Sequence[Run], base: Sequence[Run]) -> tuple[str, ...]:
    all_of_it = [figures(run) for run in runs]
    return (
        scenario,
        feature,
        f"{_spread((one.answered for one in all_of_it), 2)} %",
        f"{_spread((one.p95_s for one in all_of_it), 2)} s",
        f"{median(one.p99_s for one in all_of_it):.1f} s",
        f"{_spread((one.cost_usd for one in all_of_it), 2)} USD",
        f"{median(one.calls for one in all_of_it):.3f}",
        "" if feature == BASELINE else verdict(runs, base),
    )


def verdict(runs: Sequence[Run], base: Sequence[Run]) -> str:
    """What is better or worse than plain weighted choice in the median of the seeds, and in most of them."""
    theirs = {run.seed: figures(run) for run in base}
    pairs = [(figures(run), theirs[run.seed]) for run in runs if run.seed in theirs]
    if not pairs:
        return ""
    gains = {
        "answers": [(mine.answered - other.answered) / PERCENT for mine, other in pairs],
        "p95": [(1 - mine.p95_s / other.p95_s) / FASTER for mine, other in pairs],
        "cost": [(1 - mine.cost_usd / other.cost_usd) / CHEAPER for mine, other in pairs],
    }
    better = [name for name in _NAMES if median(gains[name]) >= 1]
    worse = [name for name in _NAMES if median(gains[name]) <= -1]
    words = [f"better {', '.join(better)}"] if better else []
    words += [f"worse {', '.join(worse)}"] if worse else []
    return "; ".join(words) or "no gain here"


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[math.ceil(share * len(ordered)) - 1] if ordered else math.inf


def _spread(values: Iterable[float], digits: int) -> str:
    numbers = sorted(values)
    return f"{median(numbers):,.{digits}f} ({numbers[0]:,.{digits}f}..{numbers[-1]:,.{digits}f})"
