"""The ledger over a real file: commits, waits, other processes, and what it refuses to open."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import apsw
import pytest

from theo_daemon.job import EntryRef
from theo_daemon.ledger.port import InflightTimeout, OnId, OnKey
from theo_daemon.ledger.records import (
    Ask,
    Busy,
    CacheWrite,
    CallLost,
    CeilingNear,
    CeilingReached,
    Check,
    Clear,
    Conflict,
    Granted,
    Hit,
    IdBusy,
    JobEnd,
    Landing,
    News,
    OverBudget,
    PriorAttempt,
    Replay,
    Scope,
    Settled,
    Verdict,
    Want,
)
from theo_daemon.ledger.sqlite import SqliteLedger
from theo_daemon.ledger.sqlite.amend import reset_spend
from theo_daemon.ledger.sqlite.reading import reading
from theo_daemon.ledger.sqlite.schema import SCHEMA_VERSION, file_system_of, open_ledger
from theo_workers.errors import LedgerError
from theo_workers.messages import Outcome

TOTAL = Scope("model:fast", 0)
FIRST_OF_OWNER_2 = 2 << 40


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[SqliteLedger]:
    async with SqliteLedger(tmp_path / "ledger.db") as opened:
        yield opened


def ask(
    ledger: SqliteLedger, number: int = 1, key: str = "k", *, ceiling: int | None = None, **fields: object
) -> Ask:
    scope = Scope("model:fast", 0, ceiling)
    want = Want(ledger.next_attempt_id(), "fast", "openai", 100, (scope,))
    defaults: dict[str, object] = {"cache_key": key, "digest": key, "want": want}
    return Ask(ref=EntryRef("theo:jobs", f"{number}-0"), key=key, **(defaults | fields))  # type: ignore[arg-type]


def landing(asked: Ask, *, answer: bytes = b'{"a":1}', ttl_ms: int = 60_000, **fields: object) -> Landing:
    assert asked.want is not None
    settled = {
        "attempt_id": asked.want.attempt_id,
        "model": "fast",
        "state": "ok",
        "bound_nano": 100,
        "cost_nano": 40,
        "scopes": asked.want.scopes,
        "latency_ms": 5.0,
        "cache": CacheWrite(asked.key, answer, ttl_ms, 128),
    }
    end = JobEnd(ref=asked.ref, outcome=answer, client_id=asked.client_id, remember=True)
    return Landing(settled=Settled(**(settled | fields)), release_key=asked.key, ends=(end,))  # type: ignore[arg-type]


async def granted(ledger: SqliteLedger, asked: Ask) -> Ask:
    assert await ledger.ask(asked) == Granted()
    return asked


def rows(ledger: SqliteLedger, sql: str) -> list[tuple[object, ...]]:
    db = open_ledger(ledger.path, read_only=True)
    try:
        return db.execute(sql).fetchall()
    finally:
        db.close()


async def test_an_answer_is_kept_for_others_and_its_cost_is_booked(ledger: SqliteLedger) -> None:
    asked = await granted(ledger, ask(ledger))
    assert rows(ledger, "SELECT held_nano, spent_nano FROM spend") == [(100, 0)]
    await ledger.land(landing(asked))
    assert await ledger.ask(ask(ledger, 2)) == Hit(b'{"a":1}')
    with ledger.transaction() as transaction:
        assert transaction.get_all_spend() == {"fast": 40e-9}
        assert transaction.get_all_latency() == {"fast": 5.0}
    assert rows(ledger, "SELECT held_nano, spent_nano FROM spend") == [(0, 40)]
    assert rows(ledger, "SELECT state, cost_nano FROM attempts") == [("ok", 40)]


async def test_settling_twice_books_once(ledger: SqliteLedger) -> None:
    asked = await granted(ledger, ask(ledger))
    await ledger.land(landing(asked))
    with_truth = landing(asked)
    await ledger.land(with_truth)
    (state,) = rows(ledger, "SELECT count(*), sum(cost_nano) FROM attempts")
    assert state == (1, 40)
    assert rows(ledger, "SELECT held_nano, spent_nano FROM spend") == [(0, 40)]


async def test_an_answer_past_its_time_is_not_reused(ledger: SqliteLedger) -> None:
    asked = await granted(ledger, ask(ledger))
    await ledger.land(landing(asked, ttl_ms=0))
    assert await ledger.ask(ask(ledger, 2)) == Granted()


async def test_the_oldest_answers_of_a_model_make_room(ledger: SqliteLedger) -> None:
    for number in range(5):
        asked = await granted(ledger, ask(ledger, number, f"k{number}"))
        write = CacheWrite(asked.key, b"{}", 60_000, 2)
        await ledger.land(landing(asked, cache=write))
    assert rows(ledger, "SELECT key FROM cache ORDER BY rowid") == [("k3",), ("k4",)]


async def test_a_repeated_id_is_answered_from_memory_and_another_payload_is_a_conflict(
    ledger: SqliteLedger,
) -> None:
    asked = await granted(ledger, ask(ledger, client_id="mine"))
    await ledger.land(landing(asked, answer=b'{"first":true}'))
    assert await ledger.ask(ask(ledger, 2, client_id="mine")) == Replay(b'{"first":true}', own=False)
    assert await ledger.ask(ask(ledger, 3, "other", client_id="mine")) == Conflict()


async def test_an_id_whose_job_ended_without_a_memorable_outcome_is_free_again(ledger: SqliteLedger) -> None:
    asked = await granted(ledger, ask(ledger, client_id="mine"))
    end = JobEnd(ref=asked.ref, outcome=None, client_id="mine")
    await ledger.land(Landing(release_key=asked.key, ends=(end,)))
    assert await ledger.ask(ask(ledger, 2, client_id="mine")) == Granted()


async def test_a_redelivered_entry_finds_its_own_outcome_until_it_is_published(ledger: SqliteLedger) -> None:
    asked = await granted(ledger, ask(ledger))
    await ledger.land(landing(asked))
    assert await ledger.ask(ask(ledger, redelivered=True)) == Replay(b'{"a":1}', own=True)
    ledger.forget(asked.ref)
    await eventually(lambda: rows(ledger, "SELECT count(*) FROM outcomes") == [(0,)])


async def test_a_batch_of_hundreds_commits_whole(ledger: SqliteLedger) -> None:
    asks = [ask(ledger, number, f"k{number}", client_id=f"c{number}") for number in range(300)]
    verdicts = await asyncio.gather(*(ledger.ask(one) for one in asks))
    assert verdicts == [Granted()] * 300
    await asyncio.gather(*(ledger.land(landing(one)) for one in asks))
    assert rows(ledger, "SELECT count(*), sum(cost_nano) FROM attempts WHERE state = 'ok'") == [(300, 12_000)]
    assert rows(ledger, "SELECT count(*) FROM inflight") == [(0,)]
    assert rows(ledger, "SELECT count(*) FROM ids WHERE outcome IS NOT NULL") == [(300,)]


async def test_calls_racing_for_a_ceiling_never_pass_it(ledger: SqliteLedger) -> None:
    asks = [ask(ledger, number, f"k{number}", ceiling=1_000) for number in range(40)]
    verdicts = await asyncio.gather(*(ledger.ask(one) for one in asks))
    assert verdicts.count(Granted()) == 10
    assert all(isinstance(one, Granted | OverBudget) for one in verdicts)


async def test_a_ceiling_that_comes_near_and_one_that_is_reached_are_told_once_by_all_processes(
    tmp_path: Path,
) -> None:
    told: list[News] = []
    scope = Scope("model:fast", 0, 300, warn_nano=200)

    def priced(books: SqliteLedger, number: int) -> Ask:
        want = Want(books.next_attempt_id(), "fast", "openai", 100, (scope,))
        return ask(books, number, f"k{number}", want=want)

    async with SqliteLedger(tmp_path / "l.db") as one, SqliteLedger(tmp_path / "l.db") as two:
        one.on_news(told.append)
        two.on_news(told.append)
        for number, books in enumerate((one, two, one)):
            asked = await granted(books, priced(books, number))
            await books.land(landing(asked, cost_nano=100, cache=None))
            assert told == ([] if number == 0 else [CeilingNear(scope, 200)])
        for books in (two, one):
            assert isinstance(await books.ask(priced(books, 9)), OverBudget)
        assert told == [CeilingNear(scope, 200), CeilingReached(scope, 300)]
        assert reset_spend(one.path, [("model:fast", 0)], now_ms=1) == 1
        asked = await granted(one, priced(one, 10))
        await one.land(landing(asked, cost_nano=250, cache=None))
        assert told[2:] == [CeilingNear(scope, 250)]


async def test_two_ledgers_on_one_file_see_each_other_s_calls_and_wait_for_them(tmp_path: Path) -> None:
    async with SqliteLedger(tmp_path / "l.db") as one, SqliteLedger(tmp_path / "l.db") as two:
        asked = await granted(one, ask(one))
        assert await two.ask(ask(two, 2)) == Busy()
        waiting = two.wait(OnKey("k"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting), 0.2)
        await one.land(landing(asked))
        await asyncio.wait_for(waiting, 2)
        assert await two.ask(ask(two, 2)) == Hit(b'{"a":1}')


async def test_waiting_for_an_id_ends_when_its_first_job_does(tmp_path: Path) -> None:
    async with SqliteLedger(tmp_path / "l.db") as one, SqliteLedger(tmp_path / "l.db") as two:
        asked = await granted(one, ask(one, client_id="mine"))
        assert await two.ask(ask(two, 2, client_id="mine")) == IdBusy(asked.ref)
        waiting = two.wait(OnId("", "mine"))
        await one.land(landing(asked))
        await asyncio.wait_for(waiting, 2)


CHILD = """
import asyncio, sys
from pathlib import Path
from theo_daemon.job import EntryRef
from theo_daemon.ledger.sqlite import SqliteLedger
from theo_daemon.ledger.records import Ask, Scope, Want

async def main():
    async with SqliteLedger(Path(sys.argv[1])) as ledger:
        want = Want(ledger.next_attempt_id(), "fast", "openai", 100, (Scope("model:fast", 0),))
        print(await ledger.ask(Ask(ref=EntryRef("theo:jobs", "1-0"), key="k", cache_key="k", digest="k", want=want)))
        print("ready", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_killed_process_s_call_is_charged_at_its_bound_and_its_key_is_free(
    ledger: SqliteLedger,
) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(ledger.path)], stdout=subprocess.PIPE, env=environment, text=True
    )
    assert child.stdout is not None
    while child.stdout.readline() != "ready\n":
        assert child.poll() is None
    assert await ledger.ask(ask(ledger, 2)) == Busy()
    told: list[News] = []
    ledger.on_news(told.append)
    waiting = ledger.wait(OnKey("k"))
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    await asyncio.wait_for(waiting, 5)
    lost = PriorAttempt(FIRST_OF_OWNER_2, "fast", "openai", Outcome.UNKNOWN, 100)
    assert await ledger.ask(ask(ledger, 1, redelivered=True)) == Granted(prior=(lost,))
    assert told == [CallLost(EntryRef("theo:jobs", "1-0"), lost)]
    assert rows(ledger, "SELECT spent_nano, held_nano FROM spend") == [(100, 100)]


async def test_waiting_for_a_generation_that_does_not_end_says_what_it_waited_for(
    ledger: SqliteLedger,
) -> None:
    await granted(ledger, ask(ledger, key="abc123def456"))
    with pytest.raises(InflightTimeout) as caught:
        await ledger.wait_for_inflight("abc123def456", timeout_s=0.15)
    assert str(caught.value).startswith(
        "Timed out waiting for inflight generation (key: abc123..., status: waiting, elapsed: 0."
    )
    assert str(caught.value).endswith("s): no error was recorded")


async def test_the_timeout_names_the_last_failure(ledger: SqliteLedger) -> None:
    asked = await granted(ledger, ask(ledger))
    failure = landing(
        asked, state="failed", cost_nano=0, error_code="provider_unavailable", status_code=503, cache=None
    )
    assert failure.settled is not None
    ledger.tell(Landing(settled=failure.settled))
    await granted(ledger, ask(ledger, holding=True))
    with pytest.raises(InflightTimeout, match=r"provider_unavailable \(status 503, model fast\)"):
        await ledger.wait_for_inflight("k", timeout_s=0.1)


async def test_waiting_returns_the_answer_of_the_generation_in_flight(ledger: SqliteLedger) -> None:
    asked = await granted(ledger, ask(ledger))
    waiter = asyncio.ensure_future(ledger.wait_for_inflight("k", timeout_s=5))
    await asyncio.sleep(0)
    await ledger.land(landing(asked))
    assert await waiter == b'{"a":1}'
    assert await ledger.wait_for_inflight("nothing-here", timeout_s=0.1) is None


async def test_the_settings_and_indexes_are_those_that_were_promised(ledger: SqliteLedger) -> None:
    async def setting(name: str) -> object:
        row = await ledger._writer.call(lambda db: db.execute(f"PRAGMA {name}").fetchone())
        assert row is not None
        return row[0]

    assert await setting("journal_mode") == "wal"
    assert await setting("synchronous") == 2  # FULL
    assert await setting("cache_size") == -65_536  # KiB
    assert await setting("temp_store") == 2  # MEMORY
    names = {name for (name,) in rows(ledger, "SELECT name FROM sqlite_schema WHERE type = 'index'")}
    assert {"idx_cache_created_at", "idx_inflight_status", "idx_inflight_updated_at"} <= names
    assert ledger.path.stat().st_mode & 0o777 == 0o600


async def refusal(path: Path) -> str:
    with pytest.raises(LedgerError) as caught:
        async with SqliteLedger(path):
            pass
    return str(caught.value)


async def test_a_newer_schema_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    async with SqliteLedger(path):
        pass
    db = apsw.Connection(str(path))
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    assert "newer theo-router" in await refusal(path)


def as_version_1(path: Path) -> None:
    """The file as the first version of the schema made it, with something spent in it."""
    db = apsw.Connection(str(path))
    db.execute("ALTER TABLE attempts DROP COLUMN price; DROP INDEX idx_spend_reset_at")
    db.execute("ALTER TABLE spend DROP COLUMN reset_at")
    db.execute("ALTER TABLE spend DROP COLUMN eased; PRAGMA user_version = 1")
    db.execute("ALTER TABLE standings DROP COLUMN failures; ALTER TABLE standings DROP COLUMN successes")
    db.execute("INSERT INTO spend(scope, window_start, spent_nano) VALUES('model:fast', 0, 70)")
    db.close()


async def test_an_older_file_is_brought_up_to_date_and_keeps_its_books(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    async with SqliteLedger(path):
        pass
    as_version_1(path)
    with pytest.raises(LedgerError, match="older theo-router"), reading(path):
        pass
    async with SqliteLedger(path) as ledger, SqliteLedger(path):
        with ledger.transaction() as books:
            assert [(one.scope, one.spent_nano, one.reset_ms) for one in books.balances()] == [
                ("model:fast", 70, None)
            ]
        names = {name for (name,) in rows(ledger, "SELECT name FROM sqlite_schema WHERE type = 'index'")}
        assert "idx_spend_reset_at" in names


async def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    path.write_bytes(b"precious notes, not a database at all" * 100)
    assert "not a SQLite database" in await refusal(path)
    assert path.read_bytes().startswith(b"precious notes")


async def test_another_program_s_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    db = apsw.Connection(str(path))
    db.execute("CREATE TABLE theirs(x)")
    db.close()
    assert "another program" in await refusal(path)


async def test_a_read_only_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    async with SqliteLedger(path):
        pass
    path.chmod(0o400)
    assert "read-only" in await refusal(path)


async def test_a_folder_in_the_file_s_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "l.db").mkdir()
    assert "is a folder" in await refusal(tmp_path / "l.db")


@pytest.mark.parametrize(
    ("folder", "kind"),
    [("/data/books", "nfs4"), ("/data", "nfs4"), ("/database", "ext4"), ("/my disk/x", "xfs"), ("/", "ext4")],
)
def test_the_file_system_of_a_folder_is_that_of_its_nearest_mount(folder: str, kind: str) -> None:
    mounts = "/dev/sda / ext4 rw 0 0\nserver:/x /data nfs4 rw 0 0\n/dev/sdb /my\\040disk xfs rw 0 0\n"
    assert file_system_of(Path(folder), mounts) == kind


async def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("theo_daemon.ledger.sqlite.schema.file_system_of", lambda _: "nfs4")
    assert "network file system (nfs4)" in await refusal(tmp_path / "l.db")


async def test_only_a_look_claims_nothing(ledger: SqliteLedger) -> None:
    verdict: Verdict | None = await ledger.ask(ask(ledger, want=None))
    assert verdict == Clear()
    assert rows(ledger, "SELECT count(*) FROM inflight") == [(0,)]


async def eventually(condition: object, within_s: float = 30.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.02)


async def test_a_job_that_joins_a_flight_is_checked_alone(ledger: SqliteLedger) -> None:
    asked = await granted(ledger, ask(ledger, client_id="mine"))
    await ledger.land(landing(asked, answer=b'{"first":true}'))
    other = EntryRef("theo:jobs", "9-0")
    assert await ledger.ask(Check(ref=other, digest="k", client_id="mine")) == Replay(
        b'{"first":true}', own=False
    )
    assert await ledger.ask(Check(ref=other, digest="x", client_id="mine")) == Conflict()
    assert await ledger.ask(Check(ref=other, digest="k", client_id="new")) == Clear()
    assert await ledger.ask(Check(ref=other, digest="k", redelivered=True)) == Clear()


async def test_a_writer_that_fails_in_an_unforeseen_way_is_noticed(
    ledger: SqliteLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("threading.excepthook", lambda _: None)
    monkeypatch.setattr("theo_daemon.ledger.sqlite.commit.Committer.apply", broken)
    ledger.tell(Landing())
    with pytest.raises(LedgerError, match="ZeroDivisionError"):
        await asyncio.wait_for(ledger.crashed, 5)


async def test_an_id_is_free_though_its_job_ends_while_its_ask_is_under_way(ledger: SqliteLedger) -> None:
    asked = ask(ledger, client_id="mine", want=None)
    looking = ledger.ask(asked)
    end = JobEnd(ref=asked.ref, outcome=None, client_id="mine")
    await ledger.land(Landing(ends=(end,)))  # in one batch with the look
    assert await looking == Clear()
    assert rows(ledger, "SELECT count(*) FROM ids") == [(0,)]


async def test_a_promoted_repeat_is_remembered_under_the_id(ledger: SqliteLedger) -> None:
    end = JobEnd(
        ref=EntryRef("theo:jobs", "5-0"), outcome=b'{"a":1}', digest="k", client_id="mine", remember=True
    )
    await ledger.land(Landing(ends=(end,)))
    assert await ledger.ask(ask(ledger, 6, client_id="mine")) == Replay(b'{"a":1}', own=False)


async def test_a_claim_that_is_answered_while_the_ledger_closes_can_still_be_made_void(
    tmp_path: Path,
) -> None:
    """Else the next process to look takes it for a call that was sent, and that nobody knows the end of."""
    ledger = SqliteLedger(tmp_path / "ledger.db")

    def void(asked: Ask, verdict: Verdict | None) -> None:
        assert verdict == Granted()
        ledger.tell(landing(asked, state="void", cost_nano=0, cache=None))

    async with ledger:
        asked = ask(ledger)
        ledger.ask(asked, orphaned=partial(void, asked)).cancel()
    assert rows(ledger, "SELECT state, cost_nano FROM attempts") == [("void", 0)]
    assert rows(ledger, "SELECT held_nano, spent_nano FROM spend") == [(0, 0)]
    assert rows(ledger, "SELECT count(*) FROM inflight") == [(0,)]
