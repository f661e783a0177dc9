"""The ledger that a command works on: a file, or books in Redis."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path

from theo_daemon.cli.target import NO_ADDRESS
from theo_daemon.config import Config
from theo_daemon.job import EntryRef
from theo_daemon.ledger import LedgerTransaction
from theo_daemon.ledger.redis import amend as amend_redis
from theo_daemon.ledger.redis.keys import LedgerKeys
from theo_daemon.ledger.redis.reading import over_a_wire, reading_redis
from theo_daemon.ledger.sqlite import amend as amend_file
from theo_daemon.ledger.sqlite.reading import reading
from theo_daemon.redis_link import RedisLink
from theo_workers.errors import ConfigError


def open_books(config: Config) -> AbstractContextManager[LedgerTransaction]:
    """A reading of the books. Raises LedgerError where there are none, or ConfigError without an address."""
    if isinstance(config.ledger.url, Path):
        return reading(config.ledger.url)
    return reading_redis(_link(config), _keys(config))


def place_of(config: Config) -> str:
    """Where the books are, for people."""
    if isinstance(config.ledger.url, Path):
        return str(config.ledger.url)
    return f"{_keys(config).base} of Redis at {_link(config).shown}"


def reset_spend(config: Config, rows: Iterable[tuple[str, int]]) -> int:
    """See `amend.reset_spend`. Raises LedgerError."""
    if isinstance(config.ledger.url, Path):
        return amend_file.reset_spend(config.ledger.url, rows, now_ms=int(time.time() * 1000))
    return over_a_wire(_link(config), lambda wire: amend_redis.reset_spend(wire, _keys(config), rows))


def forget_ids(config: Config, ids: Iterable[tuple[str, str]]) -> int:
    """See `amend.forget_ids`; before there is a file nothing is remembered. Raises LedgerError."""
    path = config.ledger.url
    if isinstance(path, Path):
        return amend_file.forget_ids(path, ids) if path.exists() else 0
    return over_a_wire(_link(config), lambda wire: amend_redis.forget_ids(wire, _keys(config), ids))


def id_holder(config: Config, tenant: str, client_id: str) -> EntryRef | None:
    """See `figures.LedgerTransaction`; before there is a file nobody holds anything. Raises LedgerError."""
    if isinstance(config.ledger.url, Path) and not config.ledger.url.exists():
        return None
    with open_books(config) as books:
        return books.id_holder(tenant, client_id)


def _keys(config: Config) -> LedgerKeys:
    return LedgerKeys(config.redis.prefix)


def _link(config: Config) -> RedisLink:
    if config.redis.url is None:
        raise ConfigError(NO_ADDRESS)
    return RedisLink(config.redis.url.reveal(), prefix=config.redis.prefix, client_name="theo-router-cli")
