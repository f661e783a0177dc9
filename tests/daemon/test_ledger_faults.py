"""The ledger over a disk that is full, locked or lies: what waits, what is recorded all the same, what ends it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from tests.daemon.test_ledger import ask, eventually, granted, landing, refusal, rows
from theo_daemon.ledger import condition
from theo_daemon.ledger.condition import Recovered, Tidings, Troubled, Unrecorded, WalLarge
from theo_daemon.ledger.records import Clear, Granted, JobEnd, Landing
from theo_daemon.ledger.sqlite import SqliteLedger, ballast, owners, writer
from theo_daemon.ledger.sqlite.schema import open_ledger
from theo_daemon.ledger.sqlite.sqlite_library import check_library
from theo_workers.errors import LedgerError


class Faulty(apsw.Connection):
    """A connection whose commits can be made to fail."""

    fails: Callable[[], Exception | None] = staticmethod(lambda: None)

    def execute(self, statements: str, *args: Any, **kwargs: Any) -> apsw.Cursor:
        if statements == "COMMIT" and (error := Faulty.fails()) is not None:
            raise error
        return super().execute(statements, *args, **kwargs)


class Disk:
    """What the tests do to it. `free` is what it says of itself, in bytes; None: the truth."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free: int | None = None
        self.error: Exception | None = None
        self.commits = 0
        real = ballast.Ballast.free
        monkeypatch.setattr(
            ballast.Ballast, "free", lambda one: real(one) if self.free is None else self.free
        )
        monkeypatch.setattr(Faulty, "fails", staticmethod(self._fail))
        monkeypatch.setattr("theo_daemon.ledger.sqlite.schema.apsw.Connection", Faulty)

    def _fail(self) -> Exception | None:
        self.commits += 1
        return self.error


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    monkeypatch.setattr(writer, "_RETRY_S", 0.02)
    return Disk(monkeypatch)


class Told(list[Tidings]):
    def kinds(self) -> list[type[Tidings]]:
        return [type(one) for one in self]


@pytest.fixture
async def ledger(disk: Disk, tmp_path: Path) -> AsyncIterator[SqliteLedger]:
    async with SqliteLedger(tmp_path / "ledger.db") as opened:
        yield opened


@pytest.fixture
def told(ledger: SqliteLedger) -> Told:
    heard = Told()
    ledger.on_tidings(heard.append)
    return heard


def ballast_of(ledger: SqliteLedger) -> Path:
    return Path(f"{ledger.path}.ballast")


@pytest.mark.parametrize(
    "error",
    [apsw.BusyError("locked"), apsw.IOError("disk I/O error"), apsw.ReadOnlyError("read-only")],
    ids=lambda error: type(error).__name__,
)
async def test_a_commit_that_fails_for_a_while_is_only_late(
    ledger: SqliteLedger, disk: Disk, told: Told, error: Exception
) -> None:
    disk.error = error
    asked = ledger.ask(ask(ledger))
    await eventually(lambda: ledger.trouble is not None)
    assert type(error).__name__ in str(ledger.trouble)
    assert not asked.done()
    disk.error = None
    assert await asked == Granted()
    await eventually(lambda: ledger.trouble is None)
    assert told.kinds() == [Troubled, Recovered]


async def test_on_a_full_disk_the_ballast_makes_room_for_what_was_paid_for_and_claims_wait(
    ledger: SqliteLedger, disk: Disk, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = await granted(ledger, ask(ledger))
    assert ballast_of(ledger).stat().st_size == ballast.SIZE
    disk.free = 0

    def full() -> Exception | None:
        return apsw.FullError("full") if disk.free == 0 and ballast_of(ledger).exists() else None

    monkeypatch.setattr(Faulty, "fails", staticmethod(full))
    claim = ledger.ask(ask(ledger, 2, "other"))
    await asyncio.wait_for(ledger.land(landing(asked)), 5)
    assert rows(ledger, "SELECT state FROM attempts") == [("ok",)]
    assert not ballast_of(ledger).exists()
    assert not claim.done()
    assert "the disk is full" in str(ledger.trouble)
    disk.free = 10**9
    assert await asyncio.wait_for(claim, 5) == Granted()
    assert ballast_of(ledger).stat().st_size == ballast.SIZE
    await eventually(lambda: told.kinds() == [Troubled, Recovered])
    assert ledger.trouble is None


async def test_a_process_whose_peer_took_the_ballast_makes_no_claims_either(
    ledger: SqliteLedger, disk: Disk, told: Told
) -> None:
    disk.free = 0
    ballast_of(ledger).unlink()
    claim = ledger.ask(ask(ledger))
    await eventually(lambda: told.kinds() == [Troubled])
    assert not claim.done()
    assert rows(ledger, "SELECT count(*) FROM attempts") == [(0,)]
    disk.free = 10**9
    assert await asyncio.wait_for(claim, 5) == Granted()


async def test_an_id_whose_job_ended_while_its_ask_was_kept_back_is_free_again(
    ledger: SqliteLedger, disk: Disk
) -> None:
    disk.free = 0
    ballast_of(ledger).unlink()
    asked = ask(ledger, client_id="mine", want=None)
    looking = ledger.ask(asked)
    await ledger.land(Landing(ends=(JobEnd(ref=asked.ref, outcome=None, client_id="mine"),)))
    assert not looking.done()
    disk.free = 10**9
    assert await asyncio.wait_for(looking, 5) == Clear()
    await eventually(lambda: rows(ledger, "SELECT count(*) FROM ids") == [(0,)])


async def test_without_room_for_a_ballast_at_the_start_a_little_room_is_enough_later(
    disk: Disk, tmp_path: Path
) -> None:
    disk.free = ballast.SPARE
    async with SqliteLedger(tmp_path / "l.db") as ledger:
        assert "too little room" in ledger.warnings[0]
        disk.error = apsw.FullError("full")
        disk.free = 0
        claim = ledger.ask(ask(ledger))
        await eventually(lambda: ledger.trouble is not None)
        disk.error, disk.free = None, ballast.SPARE
        assert await asyncio.wait_for(claim, 5) == Granted()


async def test_housekeeping_that_fails_on_a_full_disk_does_not_end(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pruned: list[int] = []

    def prune(*_: object, **__: object) -> bool:
        pruned.append(1)
        if len(pruned) == 1:
            raise apsw.FullError("full")
        return False

    monkeypatch.setattr("theo_daemon.ledger.sqlite.pruning.Pruner.prune", prune)
    monkeypatch.setattr("theo_daemon.ledger.sqlite.ledger.PRUNE_EVERY_S", 0.02)
    async with SqliteLedger(tmp_path / "l.db"):
        await eventually(lambda: len(pruned) > 2)


async def test_a_stop_that_cannot_commit_ends_in_time_and_says_what_is_not_on_record(
    disk: Disk, tmp_path: Path
) -> None:
    told = Told()
    ledger = SqliteLedger(tmp_path / "l.db")
    await ledger.__aenter__()
    ledger.on_tidings(told.append)
    asks = [await granted(ledger, ask(ledger, number, f"k{number}")) for number in range(3)]
    disk.error = apsw.IOError("disk I/O error")
    for one in asks[:2]:
        ledger.tell(landing(one))
    started = time.monotonic()
    with pytest.raises(LedgerError, match=r"2 ended calls could not be recorded \(IOError"):
        await ledger.__aexit__(None, None, None)
    assert time.monotonic() - started < 5
    assert isinstance(told[-1], Unrecorded)
    assert told[-1].calls == 2


async def test_who_leaves_when_the_disk_is_full_records_with_the_ballast_s_room_what_was_paid_for(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = SqliteLedger(tmp_path / "l.db")
    await ledger.__aenter__()
    asked = await granted(ledger, ask(ledger))
    disk.free = 0
    monkeypatch.setattr(
        Faulty,
        "fails",
        staticmethod(lambda: apsw.FullError("full") if ballast_of(ledger).exists() else None),
    )
    ledger.tell(landing(asked))
    await ledger.__aexit__(None, None, None)
    assert rows(ledger, "SELECT state FROM attempts") == [("ok",)]


async def test_a_stop_does_not_wait_for_ever_on_a_process_that_holds_the_gate(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "STOP_S", 0.2)
    ledger = SqliteLedger(tmp_path / "l.db")
    await ledger.__aenter__()
    asked = await granted(ledger, ask(ledger))
    gate = os.open(f"{ledger.path}.lock", os.O_RDWR)
    fcntl.flock(gate, fcntl.LOCK_EX)
    ledger.tell(landing(asked))
    with pytest.raises(LedgerError, match="1 ended calls"):
        await ledger.__aexit__(None, None, None)
    os.close(gate)
    await eventually(lambda: not ledger._writer._thread.is_alive())


async def test_a_commit_that_neither_ends_nor_fails_is_trouble(
    ledger: SqliteLedger, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(condition, "STUCK_S", 0.05)
    monkeypatch.setattr(condition, "LOOK_EVERY_S", 0.02)
    ledger._condition.look()
    gate = os.open(f"{ledger.path}.lock", os.O_RDWR)
    fcntl.flock(gate, fcntl.LOCK_EX)
    asked = ledger.ask(ask(ledger))
    await eventually(lambda: "does not end" in str(ledger.trouble))
    os.close(gate)
    assert await asyncio.wait_for(asked, 5) == Granted()
    await eventually(lambda: told.kinds() == [Troubled, Recovered])


async def test_housekeeping_that_neither_ends_nor_fails_is_trouble_too(
    ledger: SqliteLedger, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(condition, "STUCK_S", 0.05)
    monkeypatch.setattr(condition, "LOOK_EVERY_S", 0.02)
    gate = os.open(f"{ledger.path}.lock", os.O_RDWR)
    fcntl.flock(gate, fcntl.LOCK_EX)
    pruned = asyncio.ensure_future(ledger._writer.call(lambda _: None, writing=True))
    await eventually(lambda: "does not end" in str(ledger.trouble))
    os.close(gate)
    await asyncio.wait_for(pruned, 5)
    await eventually(lambda: told.kinds() == [Troubled, Recovered])


# -- the file itself -------------------------------------------------------------------------------------


def replace(path: Path) -> None:
    shutil.copy(path, f"{path}.other")
    os.replace(f"{path}.other", path)


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(
    ("fault", "suffix", "message"),
    [
        (Path.unlink, "", "was deleted"),
        (Path.unlink, "-wal", "was deleted"),
        (replace, "", "was replaced"),
        (cut_off, "", "was cut off"),
    ],
)
async def test_a_file_that_is_no_more_what_was_opened_ends_the_writer(
    ledger: SqliteLedger, fault: Callable[[Path], None], suffix: str, message: str
) -> None:
    await granted(ledger, ask(ledger))
    await ledger._writer.call(lambda db: db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE))
    await ledger.ask(ask(ledger, 2, "second"))
    fault(Path(f"{ledger.path}{suffix}"))
    claim = ledger.ask(ask(ledger, 3, "third"))
    with pytest.raises(LedgerError, match=f"{message}.* while it was in use"):
        await asyncio.wait_for(asyncio.shield(ledger.crashed), 3)
    assert not claim.done(), "nothing may be sent for a claim in a file that nobody will find"


async def test_a_lost_file_is_noticed_though_nothing_is_committed(ledger: SqliteLedger) -> None:
    ledger.path.unlink()
    with pytest.raises(LedgerError, match="was deleted"):
        await asyncio.wait_for(asyncio.shield(ledger.crashed), 3)


async def test_a_file_in_the_place_of_the_lost_one_is_not_touched(
    ledger: SqliteLedger, tmp_path: Path
) -> None:
    await granted(ledger, ask(ledger))
    for end in ("", "-wal", "-shm"):
        Path(f"{ledger.path}{end}").unlink()
    async with SqliteLedger(ledger.path) as other:
        assert "had been one" in other.warnings[0]
        await granted(other, ask(other))
        with pytest.raises(LedgerError):
            await asyncio.wait_for(asyncio.shield(ledger.crashed), 3)
        await eventually(lambda: not ledger._writer._thread.is_alive())
        assert rows(other, "SELECT count(*) FROM attempts") == [(1,)]


async def test_a_vacuum_makes_the_file_smaller_and_is_no_fault(ledger: SqliteLedger) -> None:
    await ledger.land(landing(await granted(ledger, ask(ledger)), answer=b'"' + b"x" * 500_000 + b'"'))

    def vacuum(db: apsw.Connection) -> None:
        db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        db.execute("DELETE FROM cache")
        db.execute("DELETE FROM outcomes")
        db.execute("VACUUM")
        db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)

    before = ledger.size
    await ledger._writer.call(vacuum)
    await granted(ledger, ask(ledger, 2, "second"))
    assert ledger.size < max(before, 500_000)
    assert not ledger.crashed.done()


def scribble(path: Path) -> None:
    """Over every page but the first."""
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(path.stat().st_size - 4096))


async def test_damage_found_while_running_ends_the_writer_and_keeps_the_file(
    ledger: SqliteLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def corrupt(*_: object) -> None:
        raise apsw.CorruptError("database disk image is malformed")

    before = ledger.path.read_bytes()
    monkeypatch.setattr("theo_daemon.ledger.sqlite.commit.Committer.apply", corrupt)
    ledger.tell(Landing())
    with pytest.raises(LedgerError, match=r"is damaged: .* It was left as it is"):
        await asyncio.wait_for(asyncio.shield(ledger.crashed), 5)
    await eventually(lambda: not ledger._writer._thread.is_alive())
    assert ledger.path.read_bytes() == before


async def test_a_damaged_file_is_refused_with_advice_until_it_is_sound_again(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    async with SqliteLedger(path):
        pass
    sound = path.read_bytes()
    scribble(path)
    damaged = path.read_bytes()
    assert "restore it from a backup" in await refusal(path)
    assert "restore it from a backup" in await refusal(path)
    assert path.read_bytes() == damaged
    path.write_bytes(sound)
    async with SqliteLedger(path) as ledger:
        await granted(ledger, ask(ledger))
    assert not Path(f"{path}.damaged").exists()


async def test_damage_off_the_beaten_track_is_looked_for_once_it_was_met(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    async with SqliteLedger(path) as ledger:
        for number in range(40):
            await ledger.land(landing(await granted(ledger, ask(ledger, number, f"k{number}"))))
    (root,) = open_ledger(path).execute("SELECT rootpage FROM sqlite_schema WHERE name = 'cache'").fetchone()
    with path.open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(os.urandom(4096))
    ledger = SqliteLedger(path)
    await ledger.__aenter__()  # this table is not read at the start
    ledger.ask(ask(ledger, 1, "k1"))
    with pytest.raises(LedgerError, match="is damaged"):
        await asyncio.wait_for(asyncio.shield(ledger.crashed), 5)
    with pytest.raises(LedgerError):
        await ledger.crashed
    await ledger.__aexit__(None, None, None)
    assert "is damaged" in await refusal(path)


# -- the WAL ---------------------------------------------------------------------------------------------


async def fill_wal(ledger: SqliteLedger, first: int, pages: int) -> None:
    """Commits of some pages each."""
    for number in range(first, first + pages // 50):
        asked = await granted(ledger, ask(ledger, number, f"k{number}"))
        await ledger.land(landing(asked, answer=b'"' + b"x" * 180_000 + b'"'))


async def test_a_reader_in_the_way_of_checkpoints_never_holds_up_commits(
    ledger: SqliteLedger, told: Told
) -> None:
    reader = open_ledger(ledger.path, read_only=True)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM attempts").fetchall()
    started = time.monotonic()
    await fill_wal(ledger, 0, 4_000)
    assert time.monotonic() - started < 8, "a checkpoint waited for the reader"
    held_up = Path(f"{ledger.path}-wal").stat().st_size
    assert held_up > 16_000_000
    reader.execute("COMMIT")
    reader.close()
    await fill_wal(ledger, 1_000, 1_500)
    await eventually(lambda: Path(f"{ledger.path}-wal").stat().st_size <= 17_000_000)


async def test_a_wal_that_grows_past_the_alarm_is_told_once(
    ledger: SqliteLedger, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(condition, "WAL_ALARM", 1_000_000)
    await fill_wal(ledger, 0, 400)
    assert ledger.wal_size > 1_000_000
    ledger._condition.look()
    ledger._condition.look()
    assert told.kinds() == [WalLarge]


# -- owners, and the library -----------------------------------------------------------------------------


async def test_after_a_power_cut_every_owner_is_dead_though_its_lock_file_is_still_there(
    tmp_path: Path,
) -> None:
    async with SqliteLedger(tmp_path / "l.db") as before:
        await granted(before, ask(before))
        after = tmp_path / "after"  # the disk as it was at that moment
        shutil.copytree(tmp_path, after, ignore=shutil.ignore_patterns("after", "*-shm"))
        (lock,) = owners.owners_folder(after / "l.db").iterdir()
        assert lock.name == f"{before.name}.owner"
    async with SqliteLedger(after / "l.db") as ledger:
        await eventually(lambda: rows(ledger, "SELECT state, cost_nano FROM attempts") == [("unknown", 100)])
        await granted(ledger, ask(ledger, 2))


@pytest.mark.parametrize("version", ["3.40.1", "3.44.5", "3.50.4", "3.51.2"])
def test_a_sqlite_that_can_lose_commits_is_refused(version: str) -> None:
    with pytest.raises(LedgerError, match="WAL-reset"):
        check_library(version)


@pytest.mark.parametrize("version", ["3.44.6", "3.50.7", "3.51.3", "3.53.0", "3.54.1", "4.0.0"])
def test_a_mended_sqlite_is_taken(version: str) -> None:
    check_library(version)


@pytest.mark.parametrize("part", ["_look", "_bury_the_dead"])
async def test_a_fault_that_nobody_foresaw_in_what_watches_the_ledger_ends_it(
    ledger: SqliteLedger, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """Who waits for another's call would wait for ever, and no dead process would be noticed."""

    async def bug(*_: object, **__: object) -> None:
        raise KeyError("nobody foresaw this")

    monkeypatch.setattr(ledger._watcher, part, bug)
    with pytest.raises(LedgerError, match="KeyError: 'nobody foresaw this'"):
        await asyncio.wait_for(asyncio.shield(ledger.crashed), 5)
