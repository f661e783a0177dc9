"""`cancel`: end one job."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from theo_daemon.cli.console import print_json
from theo_daemon.cli.options import ConfigFile, Json, RedisUrl, new_app
from theo_daemon.cli.orders import give_order
from theo_daemon.cli.target import find_target

app = new_app()


@app.command()
def cancel(
    job: Annotated[str, typer.Argument(metavar="ID", help="The job's own `id`, or its entry id.")],
    tenant: Annotated[str | None, typer.Option("--tenant", help="Only jobs of this tenant.")] = None,
    as_json: Json = False,
    config: ConfigFile = None,
    redis_url: RedisUrl = None,
) -> None:
    """Cancel the jobs of this id that are pushed by now, waiting or running.

    Each one's final reply is then `cancelled`, at the latest when it is read. A job that has its reply keeps it.
    """
    target = find_target(config, redis_url)
    entry_id = asyncio.run(give_order(target, cmd="cancel", id=job, tenant=tenant))
    if as_json:
        print_json({"command": entry_id, "id": job, "tenant": tenant})
    else:
        print(f"told all processes to cancel {job}; a job that is not finished gets the reply `cancelled`")
