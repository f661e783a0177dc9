"""`budget`: the ceilings, and how near they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer

from theo_daemon.budget_use import CeilingUse, ScopeUse
from theo_daemon.cli.books import Budget, budgets_of, read_uses
from theo_daemon.cli.console import console, print_json, table, usd
from theo_daemon.cli.options import ConfigFile, Json, RedisUrl, new_app
from theo_daemon.cli.target import find_target
from theo_daemon.cli.which_ledger import place_of, reset_spend
from theo_daemon.config_table import unknown

SHOWN = 20  # scopes of one budget: with `tenant = "*"` there may be thousands

app = new_app()


@app.callback()
def _group() -> None:
    """Show the spend ceilings, or begin a window anew."""


@app.command()
def show(
    everything: Annotated[
        bool, typer.Option("--all", help=f"All scopes of a budget with a *, not the {SHOWN} most used.")
    ] = False,
    as_json: Json = False,
    config: ConfigFile = None,
    redis_url: RedisUrl = None,
) -> None:
    """Show each ceiling, what is spent and held against it, and when it resets."""
    uses = read_uses(find_target(config, redis_url).config)
    limit = None if everything else SHOWN
    budgets = [budget for use in uses for budget in budgets_of(use)[:limit]]
    more = {use.ceiling.name: len(use.scopes) - limit for use in uses if limit and len(use.scopes) > limit}
    if as_json:
        print_json({"budgets": budgets, "not_shown": more})
        return
    if not uses:
        print("there is no spend_ceiling, neither of a model nor in [[budgets]]")
        return
    columns = ("budget", "ceiling>", "spent>", "held>", "left>", "used>", "window", "resets")
    console().print(table(columns, [_row(one) for one in budgets]))
    for use in uses:
        if not use.scopes:
            print(f"{use.ceiling.name}: nobody has spent anything in this window")
        if use.ceiling.name in more:
            print(f"{use.ceiling.name}: {more[use.ceiling.name]} more; --all shows them")


@app.command()
def reset(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="BUDGET",
            help="Models, or budgets as `budget show` names them, with or without @WINDOW; by default, all.",
        ),
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
    uses = read_uses(settings)
    models = [model.name for model in settings.models]
    chosen = list(_chosen(names, uses, models))
    shown = [name for name, _ in chosen]
    if chosen and not yes:
        typer.confirm(f"Set the spend of {_few(shown)} to 0 in {place_of(settings)}?", abort=True, err=True)
    changed = reset_spend(settings, [row for _, row in chosen])
    if as_json:
        print_json({"reset": shown, "changed": changed})
    else:
        print(f"{changed} of {len(chosen)} had spent anything; all are at 0 now")


def _chosen(
    names: Sequence[str] | None, uses: Sequence[CeilingUse], models: Sequence[str]
) -> Iterator[tuple[str, tuple[str, int]]]:
    """The scopes to reset: each as people call it, and its row (scope, window start). Raises BadParameter."""
    if not uses and not names:
        raise typer.BadParameter("there is no spend_ceiling; name the models to reset")
    for name in names or ("*",):
        found = [
            (budget.name, (scope.scope, scope.window_start_ms))
            for use in uses
            for budget, scope in zip(budgets_of(use), use.scopes, strict=True)
            if name == "*" or name in _names(use, budget, scope)
        ]
        if not found and name in models:  # one without a ceiling
            found = [(name, (f"model:{name}", 0))]
        if not found and name not in {called for use in uses for called in _ceiling_names(use)}:
            there = [*models, *(called for use in uses for called in _ceiling_names(use))]
            raise typer.BadParameter(f"{name!r}: {unknown('budget', name, there)}")
        yield from found


def _names(use: CeilingUse, budget: Budget, scope: ScopeUse) -> set[str]:
    return {budget.name, scope.scope, scope.scope.partition("@")[0], *_ceiling_names(use)}


def _ceiling_names(use: CeilingUse) -> tuple[str, ...]:
    name = use.ceiling.name
    own = (use.ceiling.selectors["model"],) if use.ceiling.own else ()
    return (*own, name, name.partition("@")[0])


def _few(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= SHOWN else f"{len(names)} budgets"


def _row(one: Budget) -> tuple[object, ...]:
    assert one.ceiling is not None
    used = (one.spent + one.held) / one.ceiling if one.ceiling else 1.0
    return (
        one.name, usd(one.ceiling), usd(one.spent), usd(one.held), usd(one.left), f"{used:.0%}", one.window,
        _resets(one),
    )  # fmt: skip


def _resets(one: Budget) -> str:
    if one.resets_at_ms is not None:
        return datetime.fromtimestamp(one.resets_at_ms // 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return "never" if one.window == "total" else "begins with the next call"
