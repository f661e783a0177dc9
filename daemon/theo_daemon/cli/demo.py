"""`demo`: see it work."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from theo_daemon.cli.console import console
from theo_daemon.cli.options import ConfigFile, RedisUrl, new_app
from theo_daemon.cli.target import find_target
from theo_daemon.demo.run import DemoOptions, run_demo

app = new_app()


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running until Ctrl-C.")] = False,
    scripted: Annotated[
        bool, typer.Option("--scripted", help="Do without the real model: a script answers.")
    ] = False,
    config: ConfigFile = None,
    redis_url: RedisUrl = None,
) -> None:
    """Answer a dozen jobs with a private Redis and a small real model, then stop everything.

    Exit status 0 only if every job got its one reply. With --redis-url, THEO_REDIS_URL or --config that Redis is
    used, under a key prefix of the demo's own, which is deleted at the end.
    """
    url = None
    if redis_url or config or os.environ.get("THEO_REDIS_URL"):
        address = find_target(config, redis_url).config.redis.url
        url = None if address is None else address.reveal()
    options = DemoOptions(keep=keep, scripted=scripted, redis_url=url, program=_program())
    raise typer.Exit(run_demo(options, console()))


def _program() -> str:
    """How this command was called, to be typed again."""
    called = Path(sys.argv[0]).absolute()  # make calls it by a relative path
    if called.name == "__main__.py":
        return f"{shlex.quote(sys.executable)} -m theo_daemon"
    here = Path.cwd()
    return shlex.quote(str(called.relative_to(here)) if called.is_relative_to(here) else called.name)
