"""`model`: take a model out of use, put it back, forget its failures."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from theo_daemon.cli.console import print_json
from theo_daemon.cli.options import ConfigFile, Json, RedisUrl, new_app
from theo_daemon.cli.orders import give_order
from theo_daemon.cli.target import find_target

Name = Annotated[str, typer.Argument(metavar="NAME", help="A configured model.")]

app = new_app()


@app.callback()
def _group() -> None:
    """Take a model out of use, put it back, or forget its failures; in all processes, also in later ones."""


@app.command()
def enable(name: Name, as_json: Json = False, config: ConfigFile = None, redis_url: RedisUrl = None) -> None:
    """Put a model back into use."""
    _order("enable", name, as_json, config, redis_url)


@app.command()
def disable(name: Name, as_json: Json = False, config: ConfigFile = None, redis_url: RedisUrl = None) -> None:
    """Start no more calls of a model; those under way finish."""
    _order("disable", name, as_json, config, redis_url)


@app.command()
def reset(name: Name, as_json: Json = False, config: ConfigFile = None, redis_url: RedisUrl = None) -> None:
    """Close a model's breaker and end its pauses."""
    _order("reset", name, as_json, config, redis_url)


def _order(command: str, name: str, as_json: bool, config: Path | None, redis_url: str | None) -> None:
    target = find_target(config, redis_url)
    known = [model.name for model in target.config.models]
    if known and name not in known:
        raise typer.BadParameter(f"no model is named {name!r}; there are {', '.join(known)}")
    entry_id = asyncio.run(give_order(target, cmd=command, model=name))
    if as_json:
        print_json({"command": entry_id, "cmd": command, "model": name})
    else:
        print(f"told all processes to {command} {name}")
