"""`latency`: how fast the models answer."""

from __future__ import annotations

from msgspec import structs

from theo_daemon.cli.books import read_latency
from theo_daemon.cli.console import console, print_json, table
from theo_daemon.cli.options import ConfigFile, Json, RedisUrl, new_app
from theo_daemon.cli.target import find_target

app = new_app()


@app.command()
def latency(as_json: Json = False, config: ConfigFile = None, redis_url: RedisUrl = None) -> None:
    """Show how fast each model has answered, and how many tokens went in and out."""
    found = read_latency(find_target(config, redis_url).config)
    if as_json:
        print_json({"models": [{"name": name, **structs.asdict(one)} for name, one in found.items()]})
        return
    columns = ("model", "answers>", "mean ms>", "last ms>", "prompt tokens>", "completion tokens>")
    rows = [
        (
            name,
            one.calls,
            f"{one.mean_ms:.1f}",
            None if one.last_ms is None else f"{one.last_ms:.1f}",
            one.prompt_tokens,
            one.completion_tokens,
        )
        for name, one in found.items()
    ]
    console().print(table(columns, rows))
