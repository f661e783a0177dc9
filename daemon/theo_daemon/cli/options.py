"""The options that every command has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Configuration file. Default: THEO_CONFIG, ./theo-router.toml, /etc/theo-router/config.toml.",
    ),
]
RedisUrl = Annotated[
    str | None,
    typer.Option("--redis-url", metavar="URL", help="Redis, over THEO_REDIS_URL and the configuration."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]


def new_app() -> typer.Typer:
    """For one command, or one group of commands."""
    return typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        no_args_is_help=False,
        rich_markup_mode="markdown",  # reflows the paragraphs of a docstring
        context_settings={"help_option_names": ["-h", "--help"]},
    )
