"""`schema`: the contract as machines read it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from theo_daemon.cli.options import ConfigFile, RedisUrl, new_app
from theo_daemon.cli.target import find_target
from theo_daemon.event_names import EVENTS
from theo_daemon.schema import asyncapi, entry_schemas
from theo_workers.errors import RouterError

app = new_app()


@app.command()
def schema(
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FOLDER",
            help="Write asyncapi.json there, and a JSON Schema for each kind of entry.",
        ),
    ] = None,
    config: ConfigFile = None,
    redis_url: RedisUrl = None,
) -> None:
    """Print the streams and their entries as an AsyncAPI 3 document, JSON."""
    document = _text(asyncapi(find_target(config, redis_url).config.redis.prefix, events=EVENTS))
    if out is None:
        sys.stdout.write(document)
        return
    files = {f"schemas/{name}.json": _text(entry) for name, entry in entry_schemas(EVENTS).items()}
    try:
        (out / "schemas").mkdir(parents=True, exist_ok=True)
        for name, text in {"asyncapi.json": document, **files}.items():
            (out / name).write_text(text, "utf-8")
    except OSError as error:
        raise RouterError(f"{error.filename} cannot be written: {error.strerror}") from error


def _text(document: dict[str, Any]) -> str:
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"
