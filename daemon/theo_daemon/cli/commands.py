"""Which commands there are, and the group that loads them one at a time."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

# name -> (module under this package, the first line of its help)
COMMANDS: dict[str, tuple[str, str]] = {
    "serve": ("serve", "Run the daemon: read jobs, call models, publish replies."),
    "submit": ("submit", "Push one job, wait for its reply and print it."),
    "cancel": ("cancel", "Cancel the jobs of this id that are pushed by now, waiting or running."),
    "status": ("status", "Show what waits and runs, who works on it, and how the models are."),
    "spend": (
        "spend",
        "Show what each model has cost, what calls in flight hold, and what is left to its ceiling.",
    ),
    "latency": ("latency", "Show how fast each model has answered, and how many tokens went in and out."),
    "dead": ("dead", "Look at dead letters, push their jobs again, or throw them away."),
    "model": (
        "model",
        "Take a model out of use, put it back, or forget its failures; in all processes, also in later ones.",
    ),
    "budget": ("budget", "Show the spend ceilings, or begin a window anew."),
    "ledger": ("ledger", "Look into the ledger: calls of which nobody knows whether they were billed."),
    "import": ("importing", "Turn the configuration of another router into one of this."),
    "check-config": ("check_config", "Check a configuration file and show what it means."),
    "doctor": ("doctor", "Look for what would break a promise, and say which one."),
    "schema": ("schema", "Print the streams and their entries as an AsyncAPI 3 document, JSON."),
    "demo": (
        "demo",
        "Answer a dozen jobs with a private Redis and a small real model, then stop everything.",
    ),
}


class CommandTable(TyperGroup):
    """Lists every command from `COMMANDS`; imports the one that is run."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, (_, summary) in COMMANDS.items():
            self.commands[name] = TyperCommand(name=name, help=summary)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Put the real command in place of its line in the list."""
        if args and args[0] in COMMANDS:
            self.commands[args[0]] = load(args[0])
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command. What it raises on purpose is told in words, without a traceback."""
        from theo_workers.errors import ConfigError, RouterError  # noqa: PLC0415 - not needed for --help

        try:
            return super().invoke(ctx)
        except RouterError as error:
            print(f"theo-router: {error}", file=sys.stderr)
            raise typer.Exit(2 if isinstance(error, ConfigError) else 1) from error


def load(name: str) -> Any:
    """The real command (or group of commands) behind a name."""
    module = importlib.import_module(f"{__package__}.{COMMANDS[name][0]}")
    command = typer.main.get_command(module.app)
    command.name = name
    return command
