"""How far the ceilings are used, read from the ledger from time to time: for /status and the gauges of /metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from theo_daemon.budget_use import CeilingUse, use_of
from theo_daemon.budgets import Budgets, Ceiling
from theo_daemon.config import Config
from theo_daemon.ledger.port import Books
from theo_daemon.money import to_usd
from theo_daemon.telemetry import names
from theo_daemon.telemetry.facade import Telemetry
from theo_daemon.telemetry.signals import Metric
from theo_daemon.telemetry.status import BudgetStatus, ScopeStatus
from theo_workers.clock import Clock, sleep
from theo_workers.errors import LedgerError

LOOK_EVERY_S = 5.0
SHARE = 0.02  # of the time is spent looking, at most: there may be very many tenants
MOST_USED = 5

_FIGURES: Mapping[Metric, Callable[[CeilingUse], float]] = {
    names.BUDGET_SPENT: lambda use: to_usd(use.spent_nano),
    names.BUDGET_HELD: lambda use: to_usd(use.held_nano),
    names.BUDGET_CEILING: lambda use: to_usd(use.ceiling.ceiling_nano),
    names.BUDGET_USED: lambda use: use.ratio,
    names.BUDGET_SCOPES: lambda use: len(use.scopes),
}


class BudgetGauges:
    """Every ceiling's use, a few seconds old."""

    def __init__(self, config: Config, ledger: Books, clock: Clock) -> None:
        self._ceilings: Sequence[Ceiling] = tuple(Budgets(config).ceilings())
        self._ledger, self._clock = ledger, clock
        self._uses: dict[str, CeilingUse] = {}

    async def run(self) -> None:
        """Look until cancelled; without a ceiling there is nothing to look at."""
        while self._ceilings:
            began = self._clock.monotonic()
            try:
                self._uses = {use.ceiling.name: use for use in await asyncio.to_thread(self._read)}
            except LedgerError:  # it tells of itself; what is not known is not shown
                self._uses = {}
            took = self._clock.monotonic() - began
            await sleep(self._clock, max(LOOK_EVERY_S, took / SHARE))

    def observe(self, telemetry: Telemetry) -> None:
        """Register a gauge of each kind for every ceiling. The labels are names of the configuration."""
        for ceiling in self._ceilings:
            for metric, figure in _FIGURES.items():
                telemetry.gauge(metric, {"budget": ceiling.name}, partial(self._figure, ceiling.name, figure))

    def status(self) -> tuple[BudgetStatus, ...]:
        """Of `[[budgets]]`; the models' own ceilings are told with the models."""
        return tuple(_status(use) for use in self._uses.values() if not use.ceiling.own)

    def _figure(self, name: str, figure: Callable[[CeilingUse], float]) -> float | None:
        use = self._uses.get(name)
        return None if use is None else figure(use)

    def _read(self) -> list[CeilingUse]:
        now_ms = int(self._clock.wall() * 1000)
        with self._ledger.transaction() as books:
            rows = books.balances(running_at_ms=now_ms)
        return use_of(self._ceilings, rows, now_ms)


def _status(use: CeilingUse) -> BudgetStatus:
    return BudgetStatus(
        name=use.ceiling.name,
        ceiling_usd=to_usd(use.ceiling.ceiling_nano),
        window=str(use.ceiling.window),
        spent_usd=to_usd(use.spent_nano),
        held_usd=to_usd(use.held_nano),
        used=round(use.ratio, 4),
        downgrading=use.downgrading,
        scopes=len(use.scopes),
        most_used=tuple(
            ScopeStatus(
                name=scope.scope,
                spent_usd=to_usd(scope.spent_nano),
                held_usd=to_usd(scope.held_nano),
                used=round(use.ratio_of(scope), 4),
                resets_at=None if scope.reset_ms is None else scope.reset_ms / 1000,
            )
            for scope in use.scopes[:MOST_USED]
        ),
    )
