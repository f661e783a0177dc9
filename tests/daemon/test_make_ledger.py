"""Which ledger is kept, by the configuration."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from theo_daemon.config import BudgetConfig, Config, LedgerConfig, ModelConfig, RoutingConfig
from theo_daemon.ledger.sqlite import SqliteLedger
from theo_daemon.make_ledger import bookkeeping
from theo_workers.clock import SystemClock
from theo_workers.errors import ConfigError

IN_REDIS = LedgerConfig(url="redis")


async def opened(config: Config, url: str | None = "redis://127.0.0.1:1") -> object:
    async with bookkeeping(config, url=url, clock=SystemClock(), rng=random.Random(1)) as books:
        return books.ledger


async def test_a_path_is_a_file_whether_there_is_a_redis_or_not(tmp_path: Path) -> None:
    assert isinstance(await opened(Config(ledger=LedgerConfig(url=tmp_path / "l.db")), None), SqliteLedger)


async def test_a_ledger_in_redis_needs_an_address() -> None:
    with pytest.raises(ConfigError, match="needs an address"):
        await opened(Config(ledger=IN_REDIS), None)


@pytest.mark.parametrize(
    ("config", "where"),
    [
        (
            Config(
                ledger=IN_REDIS,
                models=(
                    ModelConfig(
                        name="fast", provider="scripted", model="m", routing=RoutingConfig(spend_ceiling=1e7)
                    ),
                ),
            ),
            r"\[\[models\]\] fast: routing.spend_ceiling",
        ),
        (
            Config(ledger=IN_REDIS, budgets=(BudgetConfig(tenant="*", spend_ceiling=1e7),)),
            r"\[\[budgets\]\] tenant=\*@total.spend_ceiling",
        ),
    ],
    ids=["of a model", "of a budget"],
)
async def test_ceilings_that_scripts_could_not_count_to_are_refused(config: Config, where: str) -> None:
    with pytest.raises(ConfigError, match=f"{where}: the ledger in Redis counts exactly up to 9007199 USD"):
        await opened(config)
