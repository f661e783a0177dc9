"""Fixtures for everything that needs a real server."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

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


_REAL_TIME = ("e2e", "chaos", "scenario", "contract", "daemon")


def pytest_runtest_protocol(item: Any, nextitem: Any) -> bool | None:
    """Tests by the wall clock get a second try, told in the report: a busy machine is no defect of the router.

    What fails twice fails.
    """
    if Path(item.fspath).parent.name not in _REAL_TIME:
        return None
    hook = item.ihook
    hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = runtestprotocol(item, nextitem=nextitem, log=False)
    if any(report.failed for report in reports):
        item._initrequest()
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        for report in reports:
            report.sections.append(("Second try", "the first try of this test failed"))
    for report in reports:
        hook.pytest_runtest_logreport(report=report)
    hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True
