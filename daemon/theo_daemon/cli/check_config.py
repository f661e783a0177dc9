"""`check-config`: everything wrong with a configuration file at once, or what it means."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from theo_daemon.addresses import redacted_redis_url
from theo_daemon.cli.console import console, print_json, say, table, usd
from theo_daemon.cli.options import ConfigFile, Json, RedisUrl, new_app
from theo_daemon.config import Config, ModelConfig
from theo_daemon.config_file import ConfigNotFound, load_config
from theo_daemon.config_parse import Overrides
from theo_workers.errors import ConfigError

app = new_app()


@app.command()
def check_config(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="The file to check; by default, the one in use.")
    ] = None,
    config: ConfigFile = None,
    redis_url: RedisUrl = None,
    as_json: Json = False,
) -> None:
    """Check a configuration file and show what it means.

    Exit status 1 when `serve` would refuse it. Every problem is listed, with table, key and what is allowed.
    """
    try:
        settings = load_config(file or config, overrides=Overrides(redis_url=redis_url))
    except ConfigNotFound:
        raise  # a slip in the command
    except ConfigError as error:
        head, *problems = str(error).split("\n  ")
        if as_json:
            print_json({"ok": False, "problems": problems or [head]})
        else:
            say(f"theo-router: {error}")
        raise typer.Exit(1) from None
    if as_json:
        print_json(_summary(settings))
    else:
        _show(settings)


def _summary(settings: Config) -> dict[str, Any]:
    return {
        "ok": True,
        "file": str(settings.source),
        "warnings": settings.warnings,
        "redis": {"url": _redis(settings), "prefix": settings.redis.prefix},
        "lanes": settings.ingress.lanes,
        "ledger": str(settings.ledger.url),
        "default": settings.routing.default,
        "models": [
            {
                "name": model.name,
                "provider": model.provider,
                "model": model.model,
                "base_url": model.base_url,
                "concurrency": model.concurrency,
                "weight": model.routing.weight,
                "spend_ceiling": model.routing.spend_ceiling,
                "spend_window": str(model.routing.spend_window),
            }
            for model in settings.models
        ],
        "groups": settings.groups,
        "workflows": {name: workflow.model for name, workflow in settings.workflows.items()},
        "http": settings.telemetry.http,
    }


def _show(settings: Config) -> None:
    out = console()
    out.print(f"OK  {settings.source}", markup=False)
    lanes = ", ".join(f"{lane} {share}" for lane, share in settings.ingress.lanes.items())
    facts = {
        "redis": f"{_redis(settings) or 'no address: set THEO_REDIS_URL'}, prefix {settings.redis.prefix}",
        "lanes": lanes,
        "ledger": settings.ledger.url,
        "default": settings.routing.default,
        "http": settings.telemetry.http or "off",
    }
    out.print(table(("", ""), facts.items()))
    columns = ("model", "provider", "its name there", "concurrency>", "weight>", "ceiling>", "endpoint")
    out.print(table(columns, [_row(model) for model in settings.models]))
    routes = [("group", name, ", ".join(members)) for name, members in settings.groups.items()]
    routes += [("workflow", name, workflow.model) for name, workflow in settings.workflows.items()]
    if routes:
        out.print(table(("", "", "served by"), routes))
    for warning in settings.warnings:
        out.print(f"warning: {warning}", style="yellow", markup=False)


def _row(model: ModelConfig) -> tuple[object, ...]:
    ceiling, window = usd(model.routing.spend_ceiling), model.routing.spend_window
    return (
        model.name,
        model.provider,
        model.model,
        model.concurrency,
        f"{model.routing.weight:g}",
        None if ceiling is None else f"{ceiling} per {window}" if str(window) != "total" else ceiling,
        model.base_url,
    )


def _redis(settings: Config) -> str | None:
    return None if settings.redis.url is None else redacted_redis_url(settings.redis.url)
