"""`budget`: the ceilings, and how near they are."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from theo_daemon.cli.books import Budget, budget_row, read_budgets
from theo_daemon.cli.console import console, print_json, table, usd
from theo_daemon.cli.options import ConfigFile, Json, RedisUrl, new_app
from theo_daemon.cli.target import find_target
from theo_daemon.cli.which_ledger import place_of, reset_spend

app = new_app()


@app.callback()
def _group() -> None:
    """Show the spend ceilings, or begin a window anew."""


@app.command()
def show(as_json: Json = False, config: ConfigFile = None, redis_url: RedisUrl = None) -> None:
    """Show each ceiling, what is spent and held against it, and when it resets."""
    budgets = [one for one in read_budgets(find_target(config, redis_url).config) if one.ceiling is not None]
    if as_json:
        print_json({"budgets": budgets})
    elif budgets:
        columns = ("model", "ceiling>", "spent>", "held>", "left>", "used>", "window", "resets")
        console().print(table(columns, [_row(one) for one in budgets]))
    else:
        print("no model has a spend_ceiling")


@app.command()
def reset(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL", help="Models; by default, all with a ceiling.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
    config: ConfigFile = None,
    redis_url: RedisUrl = None,
) -> None:
    """Set what is spent in the current window to 0, so that the whole ceiling is there again.

    What calls in flight hold stays held. With the window `total`, `spend` begins at 0 again, too.
    """
    settings = find_target(config, redis_url).config
    models = {model.name: model for model in settings.models}
    for name in names or ():
        if name not in models:
            raise typer.BadParameter(f"no model is named {name!r}; there are {', '.join(models)}")
    chosen = names or [model.name for model in settings.models if model.routing.spend_ceiling is not None]
    if not chosen:
        raise typer.BadParameter("no model has a spend_ceiling; name the models to reset")
    if not yes:
        typer.confirm(
            f"Set the spend of {', '.join(chosen)} to 0 in {place_of(settings)}?", abort=True, err=True
        )
    changed = reset_spend(settings, [budget_row(models[name]) for name in chosen])
    if as_json:
        print_json({"reset": chosen, "changed": changed})
    else:
        print(f"{changed} of {len(chosen)} had spent anything; all are at 0 now")


def _row(one: Budget) -> tuple[object, ...]:
    assert one.ceiling is not None
    used = (one.spent + one.held) / one.ceiling if one.ceiling else 1.0
    resets = (
        "never"
        if one.resets_at_ms is None
        else datetime.fromtimestamp(one.resets_at_ms // 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
    )
    return (
        one.name, usd(one.ceiling), usd(one.spent), usd(one.held), usd(one.left), f"{used:.0%}", one.window, resets,
    )  # fmt: skip
