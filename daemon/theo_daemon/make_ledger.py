"""Which ledger is kept, by the configuration, and by whose clock."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from msgspec import Struct
from redis.exceptions import RedisError

from theo_daemon.background import running
from theo_daemon.budgets import Budgets
from theo_daemon.config import Config
from theo_daemon.ledger.port import Ledger
from theo_daemon.ledger.redis import RedisLedger
from theo_daemon.ledger.sqlite import SqliteLedger
from theo_daemon.money import to_usd
from theo_daemon.redis_clock import CommonClock, RedisClock
from theo_daemon.redis_link import RedisLink
from theo_workers.clock import Clock
from theo_workers.errors import ConfigError

LARGEST_CEILING_NANO: Final = 2**53  # scripts in Redis count in doubles


class Bookkeeping(Struct, frozen=True):
    """A ledger that is not open yet, and the clock for all that meets it: its wall is that of the books."""

    ledger: Ledger
    clock: Clock


@asynccontextmanager
async def bookkeeping(
    config: Config, *, url: str | None, name: str | None = None, clock: Clock, rng: random.Random
) -> AsyncIterator[Bookkeeping]:
    """`url` is that of Redis, `name` the process's, unique to its boot. Raises ConfigError or RedisUnreachable."""
    keep_days, id_ttl_s = config.ledger.keep_days, config.ingress.id_ttl_s
    if isinstance(config.ledger.url, Path):
        path = config.ledger.url
        yield Bookkeeping(
            SqliteLedger(path, name=name, clock=clock, keep_days=keep_days, id_ttl_s=id_ttl_s), clock
        )
        return
    if url is None:
        raise ConfigError('[ledger] url: "redis" needs an address: set [redis] url, or THEO_REDIS_URL')
    _check_ceilings(config)
    prefix = config.redis.prefix
    link = RedisLink(url, prefix=prefix)
    wire = link.wire()
    time = RedisClock(wire, clock)
    try:
        await _first_sync(time, link)
        common = CommonClock(clock, time)
        ledger = RedisLedger(
            url, prefix=prefix, name=name, clock=common, rng=rng, lease_s=config.ingress.lease_s,
            keep_days=keep_days, id_ttl_s=id_ttl_s,
        )  # fmt: skip
        async with running(time.run()), running(link.watch(clock)):
            yield Bookkeeping(ledger, common)
    finally:
        await wire.close()


async def _first_sync(time: RedisClock, link: RedisLink) -> None:
    try:
        await time.sync()
    except RedisError as error:
        raise link.unreachable(error) from error


def _check_ceilings(config: Config) -> None:
    for one in Budgets(config).ceilings():
        if one.ceiling_nano > LARGEST_CEILING_NANO:
            where = f"[[models]] {one.selectors['model']}: routing" if one.own else f"[[budgets]] {one.name}"
            raise ConfigError(
                f"{where}.spend_ceiling: the ledger in Redis counts exactly up to {to_usd(LARGEST_CEILING_NANO):.0f} "
                "USD; leave the ceiling out, or use a ledger in SQLite"
            )
