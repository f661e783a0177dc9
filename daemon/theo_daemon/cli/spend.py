"""`spend`: what the models have cost."""

from __future__ import annotations

from theo_daemon.cli.books import read_models
from theo_daemon.cli.console import console, print_json, table, usd
from theo_daemon.cli.options import ConfigFile, Json, RedisUrl, new_app
from theo_daemon.cli.target import find_target

app = new_app()


@app.command()
def spend(as_json: Json = False, config: ConfigFile = None, redis_url: RedisUrl = None) -> None:
    """Show what each model has cost, what calls in flight hold, and what is left to its ceiling."""
    budgets = read_models(find_target(config, redis_url).config)
    total = sum(budget.spent_ever or 0.0 for budget in budgets)
    if as_json:
        print_json({"total": round(total, 9), "models": budgets})
        return
    columns = ("model", "spent>", "held>", "this window>", "ceiling>", "left>", "window")
    rows = [
        (
            one.name,
            usd(one.spent_ever),
            usd(one.held),
            usd(one.spent),
            usd(one.ceiling),
            usd(one.left),
            one.window,
        )
        for one in budgets
    ]
    console().print(table(columns, [*rows, ("all", usd(total), *[""] * 5)]))
