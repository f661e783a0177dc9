"""What the ledger says, put beside what is configured."""

from __future__ import annotations

import time
from collections.abc import Iterable

from msgspec import Struct, structs

from theo_daemon.budget_names import MODEL_SCOPE
from theo_daemon.budget_use import CeilingUse, ScopeUse, use_of
from theo_daemon.budgets import Budgets
from theo_daemon.cli.which_ledger import open_books
from theo_daemon.config import Config
from theo_daemon.ledger.figures import Balance, ModelLatency
from theo_daemon.ledger.unknown_calls import UnknownCall
from theo_daemon.money import to_usd


class Budget(Struct, frozen=True, kw_only=True):
    """What is spent and held against one ceiling in the window that runs now, in USD.

    `name` is that of the model whose ceiling it is, else that of the scope: `tenant=acme@1d`. `ceiling` None: there
    is none; `left` then is None, too. `resets_at_ms` None: never. `spent_ever`, of all time, is told of models only.
    """

    name: str
    spent: float
    held: float
    spent_ever: float | None = None
    ceiling: float | None = None
    left: float | None = None
    window: str | None = None
    resets_at_ms: int | None = None


def read_uses(config: Config) -> list[CeilingUse]:
    """Every ceiling and how far it is used. Raises LedgerError."""
    return _uses(config, _rows(config))


def read_models(config: Config) -> list[Budget]:
    """Every configured model, and those of the past that are on record. Raises LedgerError."""
    rows = _rows(config)
    ever = {
        row.scope.removeprefix(MODEL_SCOPE): row
        for row in rows
        if row.window_start_ms == 0 and row.scope.startswith(MODEL_SCOPE)
    }
    own = {use.ceiling.selectors["model"]: use for use in _uses(config, rows) if use.ceiling.own}
    models = {model.name: str(model.routing.spend_window) for model in config.models}
    return [
        _of_model(name, models.get(name), ever.get(name), own.get(name))
        for name in (*models, *sorted(ever.keys() - models.keys()))
    ]


def budgets_of(use: CeilingUse) -> list[Budget]:
    """Its scopes for people, the most used first."""
    return [_budget(use, scope) for scope in use.scopes]


def read_latency(config: Config) -> dict[str, ModelLatency]:
    """By model. Raises LedgerError."""
    with open_books(config) as books:
        return books.latency()


def read_unknown_calls(config: Config, *, since_ms: int, model: str | None, limit: int) -> list[UnknownCall]:
    """The newest first. Raises LedgerError."""
    with open_books(config) as books:
        return books.unknown_calls(since_ms=since_ms, model=model, limit=limit)


def _rows(config: Config) -> list[Balance]:
    with open_books(config) as books:
        return books.balances(running_at_ms=_now_ms())


def _uses(config: Config, rows: Iterable[Balance]) -> list[CeilingUse]:
    return use_of(Budgets(config).ceilings(), rows, _now_ms())


def _budget(use: CeilingUse, scope: ScopeUse) -> Budget:
    ceiling = use.ceiling
    left_nano = max(0, ceiling.ceiling_nano - scope.spent_nano - scope.held_nano)
    return Budget(
        name=ceiling.selectors["model"] if ceiling.own else scope.scope,
        spent=to_usd(scope.spent_nano),
        held=to_usd(scope.held_nano),
        ceiling=to_usd(ceiling.ceiling_nano),
        left=to_usd(left_nano),
        window=str(ceiling.window),
        resets_at_ms=scope.reset_ms,
    )


def _of_model(name: str, window: str | None, ever: Balance | None, own: CeilingUse | None) -> Budget:
    spent_ever = 0.0 if ever is None else to_usd(ever.spent_nano)
    if own is not None:
        (budget,) = budgets_of(own)
        return structs.replace(budget, spent_ever=spent_ever)
    held = 0.0 if ever is None else to_usd(ever.held_nano)
    return Budget(name=name, spent=spent_ever, held=held, spent_ever=spent_ever, window=window)


def _now_ms() -> int:
    return int(time.time() * 1000)
