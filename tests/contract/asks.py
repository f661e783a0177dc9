"""Asks and landings of one simple call, for the suites of ledgers."""

from __future__ import annotations

from typing import Any

from theo_daemon.job import EntryRef
from theo_daemon.ledger import Ledger
from theo_daemon.ledger.records import (
    Ask,
    CacheWrite,
    Granted,
    JobEnd,
    Landing,
    Scope,
    Settled,
    Want,
)
from theo_workers.texts import Json


def ask(ledger: Ledger, number: int = 1, key: str = "k", *, ceiling: int | None = None, **more: Any) -> Ask:
    want = Want(ledger.next_attempt_id(), "fast", "openai", 100, (Scope("model:fast", 0, ceiling),))
    fields: dict[str, Any] = {"cache_key": key, "digest": key, "want": want, **more}
    return Ask(ref=EntryRef("theo:jobs", f"{number}-0"), key=key, **fields)


def landing(
    asked: Ask, *, cost: int = 40, answer: Json = b'{"a":1}', outcome: Json | None = None, **more: Any
) -> Landing:
    assert asked.want is not None
    settled: dict[str, Any] = {
        "attempt_id": asked.want.attempt_id,
        "model": "fast",
        "state": "ok",
        "bound_nano": 100,
        "cost_nano": cost,
        "scopes": asked.want.scopes,
        "latency_ms": 5.0,
        "cache": CacheWrite(asked.key, answer, 60_000, 128),
    }
    end = JobEnd(ref=asked.ref, outcome=outcome or answer, client_id=asked.client_id, remember=True)
    return Landing(settled=Settled(**(settled | more)), release_key=asked.key, ends=(end,))


async def sent(ledger: Ledger, *args: Any, **more: Any) -> Ask:
    """A call on its way."""
    asked = ask(ledger, *args, **more)
    assert isinstance(await ledger.ask(asked), Granted)
    return asked


def money(ledger: Ledger) -> tuple[int, int]:
    """Spent and held, in nano-dollars."""
    with ledger.transaction() as transaction:
        (balance,) = transaction.balances()
    return balance.spent_nano, balance.held_nano
