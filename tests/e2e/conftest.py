"""A provider, and a fleet of `serve` processes over the shared server, ended after each test."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis as redis_client

from tests.e2e import redis_cli
from tests.e2e.births import Births
from tests.e2e.commands import Background, Shell
from tests.e2e.processes import Fleet
from tests.e2e.provider import Provider
from theo_daemon.embedded_valkey import EmbeddedValkey, free_port


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


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory, valkey: EmbeddedValkey) -> Iterator[Shell]:
    """With a daemon running, for the tests that leave it as it was."""
    shell = Shell(tmp_path_factory.mktemp("cli"), valkey.url, f"t{uuid.uuid4().hex[:12]}", http=free_port())
    with Background(shell, "serve") as daemon:
        daemon.wait_for("process_started")
        yield shell


@pytest.fixture
def quiet(tmp_path: Path, valkey: EmbeddedValkey, prefix: str) -> Shell:
    """Without a daemon."""
    return Shell(tmp_path, valkey.url, prefix, http=free_port())


@pytest.fixture
def client(valkey: EmbeddedValkey) -> Iterator[redis_client.Redis]:
    with redis_client.Redis.from_url(valkey.url, decode_responses=True) as client:
        yield client
