"""Checks of `doctor` on what hosts share: the ledger in Redis, the pin of a ledger, the budgets of all processes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from redis.exceptions import NoPermissionError

from theo_daemon.cli.checks import Finding
from theo_daemon.cli.target import Target
from theo_daemon.ledger.redis.keys import LedgerKeys
from theo_daemon.ledger.redis.scripts import SCHEMA
from theo_daemon.ledger_pin import differences, plan_of, plans_in_use
from theo_daemon.wire import Wire

_LOST = "what was spent, remembered ids and calls in flight are forgotten with it"


async def check_shared(wire: Wire, target: Target, info: Mapping[str, str]) -> list[Finding]:
    """`info` is of `checks.facts_of`. Raises redis.exceptions.RedisError."""
    try:
        return await _check(wire, target, info)
    except NoPermissionError as error:
        base = LedgerKeys(target.config.redis.prefix).base
        told = f"this login may not look at {base}: {error}"
        return [Finding("warn", "ledger", told, "what hosts share cannot be checked with it")]


async def _check(wire: Wire, target: Target, info: Mapping[str, str]) -> list[Finding]:
    plans = await plans_in_use(wire, target.keys)
    found = [check_plans(plan_of(target.config), plans)] if target.config.models else []
    if isinstance(target.config.ledger.url, Path):
        return found + await _pinned(wire, target)
    return [await _ledger(wire, target), _persistence(info), *found]


def check_plans(here: Mapping[str, str], plans: Mapping[str, Mapping[str, str]]) -> Finding:
    """Do all processes have the same ceilings, and are they those of the configuration at hand?"""
    differing = [one for process, plan in plans.items() for one in differences(process, here, plan)]
    if differing:
        one = differing[0]
        more = f", and {len(differing) - 1} more" if len(differing) > 1 else ""
        told = f"{one.scope}: {one.here} here, {one.there} in {one.process}{more}"
        return Finding(
            "warn", "budgets", told, "the higher ceiling of two holds; restart what has the old configuration"
        )
    return Finding("ok", "budgets", f"the same ceilings in {len(plans)} running processes")


async def _ledger(wire: Wire, target: Target) -> Finding:
    keys = LedgerKeys(target.config.redis.prefix)
    uuid, schema = await wire.ask("HMGET", keys.base, "uuid", "schema")
    owners = await wire.ask("HLEN", keys.owners)
    if uuid is None:
        return Finding("ok", "ledger", f"{keys.base} of this Redis (serve will create it)")
    if int(schema) > SCHEMA:
        newer = f"{keys.base} was written by a newer theo-router (schema {int(schema)})"
        return Finding("fail", "ledger", newer, "serve would not start: upgrade this installation")
    return Finding(
        "ok", "ledger", f"{keys.base} of this Redis, schema {int(schema)}, {owners} processes keep it"
    )


def _persistence(info: Mapping[str, str]) -> Finding:
    """What a restart of Redis does to the books; about jobs and replies the check of Redis itself tells."""
    if info.get("aof_enabled") == "0":
        return Finding(
            "fail", "ledger's disk", "Redis runs with appendonly no", f"after a restart of Redis {_LOST}"
        )
    if info.get("appendfsync") == "everysec":
        cut = (
            "a power cut forgets up to a second of spending: a ceiling may be passed by what was spent in it"
        )
        return Finding("ok", "ledger's disk", "appendonly yes, appendfsync everysec", cut)
    return Finding("ok", "ledger's disk", f"appendonly yes, appendfsync {info.get('appendfsync', 'unknown')}")


async def _pinned(wire: Wire, target: Target) -> list[Finding]:
    """Are these streams those of a ledger elsewhere?"""
    uuid, host, place = await wire.ask("HMGET", target.keys.ledger_pin, "uuid", "host", "place")
    if uuid is None:
        return []
    told = f"{(place or b'').decode()} on {(host or b'').decode()}, uuid {uuid.decode()}"
    return [Finding("ok", "ledger of these streams", told)]
