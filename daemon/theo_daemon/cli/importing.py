"""`import`: the configuration of another router becomes ours."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from theo_daemon.cli.console import say, visible
from theo_daemon.cli.options import ConfigFile, RedisUrl, new_app
from theo_daemon.litellm import Imported, convert
from theo_daemon.litellm.yaml_text import MAX_BYTES, read_yaml
from theo_workers.errors import ConfigError

app = new_app()


@app.callback()
def _group() -> None:
    """Turn the configuration of another router into one of this."""


@app.command()
def litellm(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The YAML file of a LiteLLM proxy.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="Write there, unless it exists. Default: standard output."
        ),
    ] = None,
    config: ConfigFile = None,  # noqa: ARG001 - every command has it; nothing is read from there
    redis_url: RedisUrl = None,  # noqa: ARG001
) -> None:
    """Turn the configuration of a LiteLLM proxy into one of this router.

    What has no equivalent is said on standard error, and as comments in the file that is made; nothing is guessed. Keys
    that stand literally in FILE are not copied: each becomes an environment variable to set.
    """
    try:
        with file.open("rb") as source:
            data = source.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from None
    imported = convert(read_yaml(data, str(file)), source=file.name, env=os.environ)
    _put(imported, out)
    _tell(imported)


def _put(imported: Imported, out: Path | None) -> None:
    if out is None:
        sys.stdout.write(imported.toml)
        return
    try:
        with out.open("x", encoding="utf-8") as target:
            target.write(imported.toml)
    except FileExistsError:
        raise ConfigError(f"{out} exists already: name another file, or remove it first") from None
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error.strerror}") from None


def _tell(imported: Imported) -> None:
    for title, lines in (
        ("not taken over", [str(note) for note in imported.left_out]),
        ("not as it was", [str(note) for note in imported.notes if note.lost]),
        ("good to know", [str(note) for note in imported.notes if not note.lost]),
        ("set in the environment", [f"{name} ({what})" for name, what in imported.wanted.items()]),
    ):
        for line in lines:
            say(f"{title}: {visible(line)}")
    say(f"{imported.models} models; the result passes check-config once the environment is set")
