"""What an operator changes in the books, while a daemon has them open."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import structs

from theo_daemon.job import EntryRef
from theo_daemon.ledger.figures import Balance
from theo_daemon.ledger.records import Ask, Conflict, Granted, Landing, Scope, Settled, Want
from theo_daemon.ledger.sqlite import SqliteLedger
from theo_daemon.ledger.sqlite.amend import forget_ids, reset_spend
from theo_daemon.ledger.sqlite.reading import reading
from theo_workers.errors import LedgerError

NOW = Scope("model:fast", 1_000, 10_000)


def ask(ledger: SqliteLedger, number: int, *, digest: str = "d", tenant: str = "t") -> Ask:
    want = Want(ledger.next_attempt_id(), "fast", "openai", 100, (Scope("model:fast", 0), NOW))
    return Ask(
        ref=EntryRef("theo:jobs", f"{number}-0"), key=f"k{number}", cache_key=None, digest=digest, want=want,
        tenant=tenant, client_id="a",
    )  # fmt: skip


async def test_a_forgotten_id_may_have_another_payload(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    async with SqliteLedger(path) as ledger:
        assert isinstance(await ledger.ask(ask(ledger, 1)), Granted)
        assert isinstance(await ledger.ask(ask(ledger, 2, tenant="other")), Granted)
        assert isinstance(await ledger.ask(ask(ledger, 3, digest="e")), Conflict)
        assert forget_ids(path, [("t", "a"), ("t", "never seen")]) == 1
        assert isinstance(await ledger.ask(ask(ledger, 4, digest="e")), Granted)
        assert isinstance(await ledger.ask(ask(ledger, 5, digest="e", tenant="other")), Conflict)


async def test_a_reset_forgives_what_is_spent_in_that_window_and_keeps_what_is_held(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    async with SqliteLedger(path) as ledger:
        paid = ask(ledger, 1)
        await ledger.ask(paid)
        await ledger.ask(ask(ledger, 2, tenant="other"))
        assert paid.want is not None
        settled = Settled(
            attempt_id=paid.want.attempt_id, model="fast", state="ok", bound_nano=100, cost_nano=70,
            scopes=paid.want.scopes, latency_ms=1.0, prompt_tokens=1, completion_tokens=1,
        )  # fmt: skip
        await ledger.land(Landing(settled=settled, release_key=paid.key))
        assert reset_spend(path, [("model:fast", 1_000), ("model:none", 0)], now_ms=2_000) == 1
        assert reset_spend(path, [("model:fast", 1_000)], now_ms=2_000) == 0
    with reading(path) as books:
        assert books.balances() == [
            Balance(scope="model:fast", window_start_ms=0, spent_nano=70, held_nano=100),
            Balance(scope="model:fast", window_start_ms=1_000, spent_nano=0, held_nano=100),
        ]


async def test_a_window_that_a_clock_began_before_its_time_is_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    scope = Scope("all@1h", 9_000, 500, 9_500)
    async with SqliteLedger(path) as ledger:
        for number, cost in ((1, 70), (2, None)):
            asked = ask(ledger, number, tenant=f"t{number}")
            assert asked.want is not None
            asked = structs.replace(asked, want=structs.replace(asked.want, scopes=(scope,)))
            assert isinstance(await ledger.ask(asked), Granted)
            if cost is None:
                continue
            settled = Settled(
                attempt_id=asked.want.attempt_id, model="fast", state="ok", bound_nano=100, cost_nano=cost,
                scopes=(scope,), latency_ms=1.0,
            )  # fmt: skip
            await ledger.land(Landing(settled=settled, release_key=asked.key))
        assert reset_spend(path, [("all@1h", 9_000)], now_ms=5_000) == 1
        with ledger.transaction() as books:  # a call holds something there
            assert [(one.spent_nano, one.held_nano) for one in books.balances()] == [(0, 100)]
        settled = structs.replace(settled, attempt_id=asked.want.attempt_id, cost_nano=0)
        await ledger.land(Landing(settled=settled, release_key=asked.key))
        assert reset_spend(path, [("all@1h", 9_000)], now_ms=5_000) == 0
        with ledger.transaction() as books:
            assert books.balances() == []


def test_a_file_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"not a database " * 100)
    with pytest.raises(LedgerError):
        reset_spend(path, [], now_ms=1)
    assert path.read_bytes() == b"not a database " * 100
