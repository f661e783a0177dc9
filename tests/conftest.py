"""Fixtures for everything that needs a real server."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from theo_daemon.embedded_valkey import EmbeddedValkey
from theo_daemon.keys import Keys
from theo_daemon.redis_link import RedisLink
from theo_daemon.wire import Wire


@pytest.fixture(autouse=True)
def light_ballast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Temporary folders are kept for a while: ledgers of this process take no 16 MiB each along."""
    monkeypatch.setattr("theo_daemon.ledger.sqlite.ballast.SIZE", 65_536)


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    """A real server, one per test process; tests keep apart by prefix."""
    with EmbeddedValkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    """A server for this test alone, to be killed, filled up or emptied."""
    with EmbeddedValkey(tmp_path / "own-valkey") as server:
        yield server


@pytest.fixture
def prefix() -> str:
    """A key prefix that no other test uses."""
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture
def keys(prefix: str) -> Keys:
    return Keys(prefix)


@pytest.fixture
def link(valkey: EmbeddedValkey) -> RedisLink:
    return RedisLink(valkey.url)


@pytest.fixture
async def wire(link: RedisLink) -> AsyncIterator[Wire]:
    wire = link.wire()
    yield wire
    await wire.close()


@pytest.fixture
async def redis(link: RedisLink) -> AsyncIterator[Any]:
    """An ordinary client with text replies, to look from outside."""
    client = link.client(decode_responses=True)
    yield client
    await client.aclose()
