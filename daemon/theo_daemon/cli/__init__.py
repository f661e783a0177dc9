"""The command line. A command's module is imported when that command runs, so that `--help` answers at once."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from theo_daemon import __version__
from theo_daemon.cli.commands import CommandTable

PROGRAM = "theo-router"

app = typer.Typer(
    cls=CommandTable,
    name=PROGRAM,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_version),
    ] = False,
) -> None:
    """A durable router for language-model jobs: Redis streams in, the best available model, one reply out."""


def main() -> None:
    """The console script. Exit status 0, 1 (failed) or 2 (usage, configuration)."""
    try:
        app(prog_name=PROGRAM)
    except BrokenPipeError:  # `theo-router dead ls | head`
        sys.stderr.close()
        sys.exit(1)
