"""A ledger in Redis, for the suites that are about it alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.contract.ledgers import LEASE_S
from theo_daemon.ledger.condition import Tidings
from theo_daemon.ledger.redis import RedisLedger


@asynccontextmanager
async def opened(
    url: str, prefix: str = "theo", name: str = "one", **more: Any
) -> AsyncIterator[RedisLedger]:
    async with RedisLedger(url, prefix=prefix, name=name, **{"lease_s": LEASE_S, **more}) as ledger:
        yield ledger


def told_by(ledger: RedisLedger) -> list[Tidings]:
    told: list[Tidings] = []
    ledger.on_tidings(told.append)
    return told
