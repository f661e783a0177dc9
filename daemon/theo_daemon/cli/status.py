"""`status`: how the router is, from Redis, the ledger and a daemon on this host."""

from __future__ import annotations

import asyncio
from typing import Any

from msgspec import structs
from rich.text import Text

from theo_daemon.budget_names import EACH
from theo_daemon.budget_use import CeilingUse
from theo_daemon.cli.books import Budget, budgets_of, read_latency, read_models, read_uses
from theo_daemon.cli.console import console, duration, print_json, table, usd
from theo_daemon.cli.daemon_status import ask_daemon
from theo_daemon.cli.options import ConfigFile, Json, RedisUrl, new_app
from theo_daemon.cli.queues import Queues, look
from theo_daemon.cli.target import Target, find_target
from theo_daemon.ledger.figures import ModelLatency
from theo_daemon.money import to_usd
from theo_daemon.redis_link import redacted
from theo_daemon.telemetry.status import JobTotals, ModelStatus, Status
from theo_workers.errors import LedgerError

_HEALTH = (
    *("state", "breaker", "retry_in_s", "throttle", "passed_over", "running", "slots", "concurrency"),
    *("total_successes", "total_failures", "consecutive_failures", "last_success_at", "last_failure_at"),
    *("latency_ms", "latency_p50_ms", "latency_p95_ms", "latency_p99_ms"),
    *("ttft_p50_ms", "ttft_p95_ms", "tokens_per_s", "region", "why"),
)
MOST_USED = 5  # scopes of one budget
_COLOURS = {"closed": "green", "half_open": "yellow", "paused": "yellow", "open": "red"}

app = new_app()


@app.command()
def status(as_json: Json = False, config: ConfigFile = None, redis_url: RedisUrl = None) -> None:
    """Show what waits and runs, who works on it, and how the models are.

    Lanes and consumers are those of all processes, as Redis has them; spend and latency are the ledger's. Breakers,
    health and hit rates are as one process on this host knows them, asked over its status port, if there is one.
    """
    target = find_target(config, redis_url)
    queues = asyncio.run(_look(target))
    daemon, about = ask_daemon(target)
    try:
        money, latency = read_models(target.config), read_latency(target.config)
        uses, trouble = [use for use in read_uses(target.config) if not use.ceiling.own], None
    except LedgerError as error:
        money, latency, uses, trouble = [], {}, [], str(error)
    models = _models(target, daemon, money, latency)
    if as_json:
        document = _document(target, queues, daemon, models, [about] if daemon is None else [], trouble)
        print_json({**document, "budgets": [_budget(use) for use in uses]})
    else:
        _show(target, queues, daemon, models, uses, about, trouble)


async def _look(target: Target) -> Queues:
    async with target.wire() as wire:
        return await look(wire, target)


def _models(
    target: Target, daemon: Status | None, budgets: list[Budget], latency: dict[str, ModelLatency]
) -> list[dict[str, Any]]:
    """One record per model: the configuration's, the daemon's and the ledger's knowledge of it."""
    money = {budget.name: budget for budget in budgets}
    live = {} if daemon is None else {model.name: model for model in daemon.models}
    configured: dict[str, tuple[str, str]] = {
        model.name: (model.provider, model.model) for model in target.config.models
    }
    configured |= {model.name: (model.provider, model.model) for model in live.values()}
    return [
        {
            "name": name,
            "provider": provider,
            "model": model,
            **_health(live.get(name)),
            **_spend(live.get(name), money.get(name)),
            "answers": latency[name].calls if name in latency else 0,
            "mean_latency_ms": latency[name].mean_ms if name in latency else None,
        }
        for name, (provider, model) in configured.items()
    ]


def _health(live: ModelStatus | None) -> dict[str, Any]:
    """None: no daemon could be asked."""
    return {name: None if live is None else getattr(live, name) for name in _HEALTH}


def _spend(live: ModelStatus | None, budget: Budget | None) -> dict[str, Any]:
    if budget is not None:
        return {
            "spent_usd": budget.spent,
            "held_usd": budget.held,
            "ceiling_usd": budget.ceiling,
            "window": budget.window,
        }
    names = ("spent_usd", "held_usd", "ceiling_usd", "window")
    return {name: None if live is None else getattr(live, name) for name in names}


def _budget(use: CeilingUse) -> dict[str, Any]:
    """One of [[budgets]]: its figures in the window that runs, and those of its most used scopes."""
    return {
        "name": use.ceiling.name,
        "ceiling_usd": to_usd(use.ceiling.ceiling_nano),
        "spent_usd": to_usd(use.spent_nano),
        "held_usd": to_usd(use.held_nano),
        "used": round(use.ratio, 4),
        "downgrading": use.downgrading,
        "scopes": len(use.scopes),
        "most_used": budgets_of(use)[:MOST_USED],
    }


def _document(
    target: Target,
    queues: Queues,
    daemon: Status | None,
    models: list[dict[str, Any]],
    notes: list[str],
    trouble: str | None,
) -> dict[str, Any]:
    process = None
    if daemon is not None:
        names = ("version", "consumer", "uptime_s", "not_ready", "in_flight", "waiting")
        process = {name: getattr(daemon, name) for name in names}
    return {
        "redis": target.link().shown,
        "prefix": target.config.redis.prefix,
        "group": target.config.ingress.group,
        "depth": queues.depth,
        "oldest_age_s": queues.oldest_age_s,
        "in_flight": queues.in_flight,
        "dead": queues.dead,
        "lanes": queues.lanes,
        "consumers": queues.consumers,
        "models": models,
        "regions": None if daemon is None else [structs.asdict(one) for one in daemon.regions],
        "jobs": None if daemon is None else {**structs.asdict(daemon.jobs), **_rates(daemon.jobs)},
        "process": process,
        "notes": [*notes, *([trouble] if trouble else [])],
    }


def _rates(jobs: JobTotals) -> dict[str, float | None]:
    """Of all finished jobs; None before the first."""
    total = jobs.ok + jobs.failed
    if not total:
        return {"hit_rate": None, "coalesced_rate": None}
    return {
        "hit_rate": round(jobs.cache_hits / total, 4),
        "coalesced_rate": round(jobs.coalesced / total, 4),
    }


def _show(
    target: Target,
    queues: Queues,
    daemon: Status | None,
    models: list[dict[str, Any]],
    uses: list[CeilingUse],
    about: str,
    trouble: str | None,
) -> None:
    out = console()
    url = target.config.redis.url
    assert url is not None  # Redis has just answered
    shown = redacted(url.reveal())
    out.print(f"Redis {shown}, prefix {target.config.redis.prefix}, {queues.dead} dead letters", markup=False)
    lanes = [(one.lane, one.depth, one.in_flight, duration(one.oldest_age_s)) for one in queues.lanes]
    out.print(table(("lane", "depth>", "in flight>", "oldest>"), lanes))
    out.print()
    if queues.consumers:
        rows = [(one.name, one.in_flight, duration(one.silent_s)) for one in queues.consumers]
        out.print(table(("process", "holds>", "silent for>"), rows))
    else:
        out.print(f"no process reads these lanes as group {target.config.ingress.group}", style="red")
    if models:
        out.print()
        columns = (
            "model",
            "provider",
            "state",
            "running>",
            "failures>",
            "mean ms>",
            "p95 ms>",
            "spent>",
            "held>",
            "ceiling>",
        )
        out.print(table(columns, [_row(one) for one in models]))
    if uses:
        out.print()
        money = ("budget", "spent>", "held>", "ceiling>", "used>", "most used")
        out.print(table(money, [_budget_row(use) for use in uses]))
    for model in () if daemon is None else daemon.models:
        for told in model.why[:1]:
            out.print(
                f"{model.name}: expected {told.latency_ms:.0f} ms, {100 * told.success:.1f} % answered, "
                f"{told.cost_usd:.6f} USD for a prompt of 1 kB, from {told.calls:.0f} calls",
                style="dim",
                markup=False,
            )
    for region in () if daemon is None else daemon.regions:
        if region.evicted_s is not None:
            broken = ", ".join(region.circuits)
            out.print(
                f"region {region.name}: evicted {duration(region.evicted_s)} ago, open circuits: {broken}",
                style="yellow",
                markup=False,
            )
    out.print()
    if daemon is None:
        out.print(f"breakers and hit rates are not known: {about}", style="dim", markup=False)
    else:
        jobs = daemon.jobs
        ready = daemon.not_ready or "ready"
        out.print(
            f"{about}: {ready}, up {duration(daemon.uptime_s)}; {jobs.ok} ok, {jobs.failed} failed, "
            f"{jobs.cache_hits} cache hits, {jobs.coalesced} coalesced",
            markup=False,
        )
    if trouble is not None:
        out.print(trouble, style="dim", markup=False)


def _budget_row(use: CeilingUse) -> tuple[object, ...]:
    many = EACH in use.ceiling.selectors.values()
    most = use.scopes[0].scope if many and use.scopes else None
    return (
        use.ceiling.name,
        usd(to_usd(use.spent_nano)),
        usd(to_usd(use.held_nano)),
        f"{usd(to_usd(use.ceiling.ceiling_nano))}{' each' if many else ''}",
        f"{use.ratio:.0%}{', cheaper models first' if use.downgrading else ''}",
        most if most is None or len(use.scopes) == 1 else f"{most}, of {len(use.scopes)}",
    )


def _row(model: dict[str, Any]) -> tuple[object, ...]:
    state, until = model["state"], model["retry_in_s"]
    shown = None if state is None else Text(state, style=_COLOURS.get(state, "red"))
    if shown is not None and until:
        shown.append(f", again in {duration(until)}")
    if shown is not None and model["throttle"]:
        shown.append(f", {model['throttle']:.0%} passed over", style="yellow")
    running = None if model["running"] is None else f"{model['running']}/{model['slots']}"
    failures = model["total_failures"]
    if failures and model["consecutive_failures"]:
        failures = f"{failures} ({model['consecutive_failures']} in a row)"
    mean = model["mean_latency_ms"]
    return (
        model["name"],
        model["provider"],
        shown,
        running,
        failures,
        None if mean is None else f"{mean:.1f}",
        None if model["latency_p95_ms"] is None else f"{model['latency_p95_ms']:.0f}",
        usd(model["spent_usd"]),
        usd(model["held_usd"]),
        usd(model["ceiling_usd"]),
    )
