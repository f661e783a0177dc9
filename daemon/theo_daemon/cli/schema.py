"""`schema`: the contract as machines read it."""

from __future__ import annotations

import sys

import msgspec

from theo_daemon.cli.options import ConfigFile, RedisUrl, new_app
from theo_daemon.cli.target import find_target
from theo_daemon.event_names import EVENTS
from theo_daemon.schema import asyncapi

app = new_app()


@app.command()
def schema(config: ConfigFile = None, redis_url: RedisUrl = None) -> None:
    """Print the streams and their entries as an AsyncAPI 3 document, JSON."""
    prefix = find_target(config, redis_url).config.redis.prefix
    document = msgspec.json.encode(asyncapi(prefix, events=EVENTS))
    sys.stdout.write(msgspec.json.format(document, indent=2).decode() + "\n")
