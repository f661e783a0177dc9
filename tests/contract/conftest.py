"""Two processes at the job streams of a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.contract.test_leases import GROUP, LANES, Process
from theo_daemon.keys import Keys
from theo_daemon.redis_link import RedisLink
from theo_daemon.wire import Wire


@pytest.fixture
async def groups(wire: Wire, keys: Keys) -> None:
    await wire.ask_all([("XGROUP", "CREATE", keys.jobs(lane), GROUP, "0", "MKSTREAM") for lane in LANES])


@pytest.fixture
async def me(link: RedisLink, keys: Keys, groups: None) -> AsyncIterator[Process]:
    process = Process(link, keys, "me", adopt_after_s=60.0)
    yield process
    await process.close()


@pytest.fixture
async def peer(link: RedisLink, keys: Keys, groups: None) -> AsyncIterator[Process]:
    process = Process(link, keys, "peer")
    yield process
    await process.close()
