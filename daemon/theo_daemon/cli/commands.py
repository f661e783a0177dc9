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
    "check-config": ("check_config", "Check a configuration file and show what it means."),
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
