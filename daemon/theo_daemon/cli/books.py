"""What the ledger says, put beside what is configured."""

from __future__ import annotations

import time

from msgspec import Struct

from theo_daemon.cli.which_ledger import open_books
from theo_daemon.config import Config, ModelConfig
from theo_daemon.ledger.figures import MODEL_SCOPE, Balance, ModelLatency
from theo_daemon.ledger.unknown_calls import UnknownCall
from theo_daemon.money import to_usd
from theo_daemon.spend_window import window_of


class Budget(Struct, frozen=True, kw_only=True):
    """One model's money, in USD. `spent` and `held` are of the current window, `spent_ever` is of all time.

    `ceiling` None: there is none; `left` then is None, too. `resets_at_ms` None: never.
    """

    name: str
    spent: float
    held: float
    spent_ever: float
    ceiling: float | None = None
    left: float | None = None
    window: str | None = None
    resets_at_ms: int | None = None


def read_budgets(config: Config) -> list[Budget]:
    """Every configured model, and those of the past that are on record. Raises LedgerError."""
    with open_books(config) as books:
        rows = {(row.scope, row.window_start_ms): row for row in books.balances()}
    now_ms = int(time.time() * 1000)
    models = {model.name: model for model in config.models}
    scopes = {scope for scope, start in rows if start == 0 and scope.startswith(MODEL_SCOPE)}
    past = sorted({scope.removeprefix(MODEL_SCOPE) for scope in scopes} - models.keys())
    return [_budget(name, models.get(name), rows, now_ms) for name in (*models, *past)]


def read_latency(config: Config) -> dict[str, ModelLatency]:
    """By model. Raises LedgerError."""
    with open_books(config) as books:
        return books.latency()


def read_unknown_calls(config: Config, *, since_ms: int, model: str | None, limit: int) -> list[UnknownCall]:
    """The newest first. Raises LedgerError."""
    with open_books(config) as books:
        return books.unknown_calls(since_ms=since_ms, model=model, limit=limit)


def budget_row(model: ModelConfig) -> tuple[str, int]:
    """Scope and window start (Unix ms) of what counts against a model's ceiling now."""
    span = window_of(model.routing.spend_window, int(time.time() * 1000))
    return f"{MODEL_SCOPE}{model.name}", span.start_ms


def _budget(
    name: str, model: ModelConfig | None, rows: dict[tuple[str, int], Balance], now_ms: int
) -> Budget:
    scope = f"{MODEL_SCOPE}{name}"
    ever = rows.get((scope, 0))
    spent_ever = 0.0 if ever is None else to_usd(ever.spent_nano)
    if model is None:
        held = 0.0 if ever is None else to_usd(ever.held_nano)
        return Budget(name=name, spent=spent_ever, held=held, spent_ever=spent_ever)
    routing = model.routing
    span = window_of(routing.spend_window, now_ms)
    row = rows.get((scope, span.start_ms))
    spent = 0.0 if row is None else to_usd(row.spent_nano)
    held = 0.0 if row is None else to_usd(row.held_nano)
    ceiling = routing.spend_ceiling
    return Budget(
        name=name,
        spent=spent,
        held=held,
        spent_ever=spent_ever,
        ceiling=ceiling,
        left=None if ceiling is None else max(0.0, round(ceiling - spent - held, 9)),
        window=str(routing.spend_window),
        resets_at_ms=span.reset_ms,
    )
