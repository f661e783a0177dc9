"""A provider, and a fleet of `serve` processes over the shared server, ended after each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import redis_cli
from tests.e2e.births import Births
from tests.e2e.processes import Fleet
from tests.e2e.provider import Provider
from theo_daemon.embedded_valkey import EmbeddedValkey


@pytest.fixture(scope="session", autouse=True)
def a_shell_with_redis_cli(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What users are told to type is typed: where the machine has no redis-cli, ours stands in for it."""
    redis_cli.install(tmp_path_factory.mktemp("bin"))


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as provider:
        yield provider


@pytest.fixture(scope="session")
def births() -> Iterator[Births]:
    with Births() as births:
        yield births


@pytest.fixture
def fleet(
    valkey: EmbeddedValkey, tmp_path: Path, prefix: str, provider: Provider, births: Births
) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, valkey.url, prefix, provider)
    fleet.births = births
    yield fleet
    fleet.close()


@pytest.fixture
def own_fleet(
    own_valkey: EmbeddedValkey, tmp_path: Path, provider: Provider, births: Births
) -> Iterator[Fleet]:
    """Over a server of its own, to be killed, filled up or emptied; with the default prefix."""
    fleet = Fleet(tmp_path, own_valkey.url, "theo", provider)
    fleet.births = births
    yield fleet
    fleet.close()
