"""`doctor`: what would break a promise, looked for before it does."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import typer
from rich.text import Text

from theo_daemon.cli.checks import (
    Finding,
    check_clock,
    check_ledger,
    check_persistence,
    check_role,
    check_room,
    facts_of,
)
from theo_daemon.cli.console import console, print_json, table
from theo_daemon.cli.daemon_status import ask_daemon
from theo_daemon.cli.options import ConfigFile, Json, RedisUrl, new_app
from theo_daemon.cli.permissions import check_permissions
from theo_daemon.cli.queues import look
from theo_daemon.cli.server_checks import check_replicas, check_transport, check_troubles, check_version
from theo_daemon.cli.shared_checks import check_shared
from theo_daemon.cli.target import Target, find_target
from theo_daemon.config_file import load_config
from theo_daemon.config_parse import Overrides
from theo_daemon.server_check import ServerUnsuitable, check_server
from theo_workers.errors import ConfigError, RouterError

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}

app = new_app()


@app.command()
def doctor(as_json: Json = False, config: ConfigFile = None, redis_url: RedisUrl = None) -> None:
    """Look for what would break a promise, and say which one.

    Exit status 1 when something is red.
    """
    target = find_target(config, redis_url)
    findings = [*_configuration(target, redis_url), *asyncio.run(_redis(target))]
    if isinstance(path := target.config.ledger.url, Path):
        findings += [check_ledger(path), *check_room(path)]
    findings.append(_daemon(target))
    failed = any(finding.state == "fail" for finding in findings)
    if as_json:
        print_json({"ok": not failed, "findings": findings})
    else:
        rows = [
            (Text(one.state, style=_COLOURS[one.state]), one.what, one.found, one.promise or "")
            for one in findings
        ]
        console().print(table(("", "checked", "found", "what that breaks"), rows))
    if failed:
        raise typer.Exit(1)


def _configuration(target: Target, redis_url: str | None) -> list[Finding]:
    """Read again as `serve` would read it, credentials included."""
    source = target.config.source
    if source is None:
        return [
            Finding("warn", "configuration", "no file: defaults", "serve needs one, with at least one model")
        ]
    try:
        config = load_config(source, overrides=Overrides(redis_url=redis_url))
    except ConfigError as error:
        return [Finding("fail", "configuration", str(error), "serve would not start in this environment")]
    found = [Finding("ok", "configuration", f"{source}, {len(config.models)} models")]
    return found + [Finding("warn", "configuration", warning) for warning in config.warnings]


async def _redis(target: Target) -> list[Finding]:
    link = target.link()
    try:
        facts = await check_server(link)
    except ServerUnsuitable as error:
        return [Finding("fail", "redis", str(error), "jobs and replies can be lost")]
    except RouterError as error:
        return [Finding("fail", "redis", str(error), "nothing can be read or answered")]
    found = [Finding("ok", "redis", f"{link.shown}, maxmemory-policy noeviction")]
    if facts.warnings:
        found = [Finding("warn", "redis", f"{link.shown}, {warning}") for warning in facts.warnings]
    permissions: list[Finding] = []
    try:
        async with target.wire() as wire:
            permissions = await check_permissions(
                wire,
                target.keys,
                list(target.config.ingress.lanes),
                ledger=not isinstance(target.config.ledger.url, Path),
            )
            asked = time.time()
            seconds, micros = await wire.ask("TIME")
            answered = time.time()
            info, *settings = await wire.ask_all(
                [("INFO",), ("CONFIG", "GET", "save"), ("CONFIG", "GET", "appendfsync")]
            )
            queues = await look(wire, target)
            said = facts_of(info, *settings)
            shared = await check_shared(wire, target, said)
    except RouterError as error:
        return [
            *found,
            *permissions,
            Finding("fail", "streams", str(error), "these keys cannot be used as streams of jobs"),
        ]
    offset_s = int(seconds) + int(micros) / 1e6 - (asked + answered) / 2
    readers = len(queues.consumers)
    streams = (
        f"{queues.depth} jobs, {queues.in_flight} in flight, {queues.dead} dead letters, {readers} readers"
    )
    url = _url(target)
    return [
        *found,
        check_version(said),
        check_transport(url),
        *permissions,
        check_role(said),
        *check_replicas(said, url),
        check_persistence(said),
        *check_troubles(said),
        check_clock(offset_s),
        Finding("warn", "streams", streams, "jobs wait, and no process reads them")
        if queues.depth and not readers
        else Finding("ok", "streams", streams),
        *shared,
    ]


def _url(target: Target) -> str:
    assert target.config.redis.url is not None  # Redis has just answered
    return target.config.redis.url.reveal()


def _daemon(target: Target) -> Finding:
    status, about = ask_daemon(target)
    if status is None:
        return Finding("warn", "daemon", about, "its breakers and health cannot be shown here")
    if status.not_ready is not None:
        return Finding("fail", "daemon", f"{about}: {status.not_ready}", "jobs are not read")
    return Finding("ok", "daemon", f"{about}, version {status.version}")
