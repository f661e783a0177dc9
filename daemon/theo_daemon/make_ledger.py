"""Which ledger is kept, by the configuration."""

from __future__ import annotations

from pathlib import Path

from theo_daemon.config import Config
from theo_daemon.ledger.port import Ledger
from theo_daemon.ledger.sqlite import SqliteLedger
from theo_workers.clock import Clock
from theo_workers.errors import ConfigError


def make_ledger(config: Config, *, name: str | None = None, clock: Clock) -> Ledger:
    """Not open yet. `name` is the process's, unique to its boot. Raises ConfigError."""
    if not isinstance(config.ledger.url, Path):
        raise ConfigError('[ledger] url: "redis" is not available yet; use sqlite:///PATH')
    return SqliteLedger(
        config.ledger.url,
        name=name,
        clock=clock,
        keep_days=config.ledger.keep_days,
        id_ttl_s=config.ingress.id_ttl_s,
    )
