"""`ledger`: what the books say beyond money and speed."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from msgspec import structs

from theo_daemon.cli.books import read_unknown_calls
from theo_daemon.cli.console import console, duration, print_json, table, usd
from theo_daemon.cli.options import ConfigFile, Json, RedisUrl, new_app
from theo_daemon.cli.target import find_target
from theo_daemon.ledger.unknown_calls import UnknownCall

_SPAN = re.compile(r"([1-9][0-9]{0,5})([smhd])", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}

app = new_app()


@app.callback()
def _group() -> None:
    """Look into the ledger: calls of which nobody knows whether they were billed."""


@app.command()
def unknown(
    since: Annotated[
        str | None,
        typer.Option(
            "--since", metavar="WHEN", help="Sent in the last 90m, 24h, 7d, or since 2026-01-31T08:00 (UTC)."
        ),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Of this model only.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many, the newest first.")] = 100,
    as_json: Json = False,
    config: ConfigFile = None,
    redis_url: RedisUrl = None,
) -> None:
    """List calls that were sent and whose outcome nobody knows, with what they are charged and what followed.

    `unknown`: the process died before the answer was on record. `maybe`: the connection was reset, timed out or
    brought garbage. Compare the time and the provider's request id with the provider's own log to see what was
    billed. The ledger is only read, beside running daemons.
    """
    since_ms = 0 if since is None else since_when(since, time.time())
    settings = find_target(config, redis_url).config
    calls = read_unknown_calls(settings, since_ms=since_ms, model=model, limit=limit)
    if as_json:
        print_json({"calls": [_document(call) for call in calls]})
        return
    if calls:
        columns = (
            "sent (UTC)",
            "age>",
            "job",
            "id",
            "model",
            "outcome",
            "error",
            "charged>",
            "request id",
            "then",
        )
        console().print(table(columns, [_row(call) for call in calls]))
    charged = sum(call.charged for call in calls)
    more = ", and maybe more: raise --limit" if len(calls) == limit else ""
    print(f"{len(calls)} calls of unknown outcome, charged {usd(charged)}{more}")


def since_when(text: str, now_s: float) -> int:
    """Unix ms of a point in time: so long before `now_s` (Unix seconds), or a date and time of UTC."""
    if (span := _SPAN.fullmatch(text)) is not None:
        return int((now_s - int(span[1]) * _SECONDS[span[2]]) * 1000)
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter("--since: write 90m, 24h or 7d, or a date as 2026-01-31T08:00") from None
    return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)


def _document(call: UnknownCall) -> dict[str, Any]:
    return {**structs.asdict(call), "followed": call.followed}


def _row(call: UnknownCall) -> tuple[object, ...]:
    sent = datetime.fromtimestamp(call.sent_at_ms / 1000, UTC)
    name = call.id if call.tenant is None else f"{call.tenant}/{call.id}"
    return (
        f"{sent:%Y-%m-%d %H:%M:%S}",
        duration(max(0.0, time.time() - call.sent_at_ms / 1000)),
        f"{call.stream} {call.entry_id}",
        name,
        call.model,
        call.outcome,
        call.error_code,
        usd(call.charged),
        call.provider_request_id,
        call.followed,
    )
