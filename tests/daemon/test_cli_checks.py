"""What `doctor` makes of single facts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from redis.exceptions import ResponseError

from theo_daemon.cli import checks
from theo_daemon.cli.checks import (
    check_clock,
    check_ledger,
    check_persistence,
    check_role,
    check_room,
    facts_of,
)
from theo_daemon.ledger.condition import WAL_ALARM
from theo_daemon.ledger.sqlite import damage
from theo_daemon.ledger.sqlite.ballast import SPARE, Ballast
from theo_daemon.ledger.sqlite.schema import SCHEMA_VERSION, open_ledger

AOF = {"aof_enabled": "1", "save": ""}


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        (AOF, "ok"),
        (AOF | {"aof_last_write_status": "err"}, "fail"),
        ({"aof_enabled": "0", "save": "3600 1"}, "warn"),
        ({"aof_enabled": "0", "save": ""}, "fail"),
        ({"aof_enabled": "0"}, "warn"),
        ({}, "warn"),
    ],
)
def test_persistence_is_red_when_a_restart_loses_everything(facts: dict[str, str], state: str) -> None:
    finding = check_persistence(facts)
    assert finding.state == state
    assert (finding.promise is None) == (state == "ok")


@pytest.mark.parametrize(
    ("appendfsync", "state", "void"),
    [("always", "ok", None), ("everysec", "ok", "last second"), ("no", "warn", "had not written")],
)
def test_what_a_power_cut_loses_is_told(appendfsync: str, state: str, void: str | None) -> None:
    finding = check_persistence(AOF | {"appendfsync": appendfsync})
    assert (finding.state, finding.found) == (state, f"appendonly yes, appendfsync {appendfsync}")
    assert finding.promise is None if void is None else void in (finding.promise or "")


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        ({"role": "master"}, "ok"),
        ({"role": "slave"}, "fail"),
        ({"role": "master", "maxmemory": "100", "used_memory": "91"}, "warn"),
        ({"role": "master", "maxmemory": "0", "used_memory": "91"}, "ok"),
    ],
)
def test_a_replica_is_red_and_a_full_server_yellow(facts: dict[str, str], state: str) -> None:
    assert check_role(facts).state == state


@pytest.mark.parametrize(
    ("offset_s", "state"), [(0.4, "ok"), (-0.4, "ok"), (5, "warn"), (-5, "warn"), (-61, "fail")]
)
def test_clocks_that_differ_are_told(offset_s: float, state: str) -> None:
    assert check_clock(offset_s).state == state


def test_facts_are_what_was_not_refused() -> None:
    info, save, sync = (
        b"# Memory\r\nused_memory:5\r\nrole:master\r\n",
        [b"save", b"3600 1"],
        [b"appendfsync", b"no"],
    )
    assert facts_of(info, save, sync) == {
        "used_memory": "5",
        "role": "master",
        "save": "3600 1",
        "appendfsync": "no",
    }
    assert facts_of(ResponseError("NOPERM"), ResponseError("NOPERM"), []) == {}


def test_a_ledger_is_looked_at_without_being_made(tmp_path: Path) -> None:
    assert "serve will create it" in check_ledger(tmp_path / "new" / "ledger.db").found
    assert not (tmp_path / "new").exists()
    path = tmp_path / "ledger.db"
    open_ledger(path).close()
    assert "schema" in check_ledger(path).found
    path.write_bytes(b"x" * 5000)
    assert check_ledger(path).state == "fail"


@pytest.mark.parametrize("there", [True, False], ids=["there", "not there yet"])
@pytest.mark.parametrize(
    ("kind", "state", "said"),
    [
        ("ext4", "ok", "on ext4"),
        ("nfs4", "fail", "network file system (nfs4)"),
        ("tmpfs", "warn", "on memory (tmpfs)"),
        ("overlay", "warn", "on a container's own layer (overlay)"),
    ],
)
def test_a_file_system_that_loses_the_books_is_told_before_a_daemon_meets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, state: str, said: str, there: bool
) -> None:
    path = tmp_path / "ledger.db"
    if there:
        open_ledger(path).close()
    monkeypatch.setattr("theo_daemon.ledger.sqlite.schema.file_system_of", lambda _: kind)
    monkeypatch.setattr(checks, "file_system_of", lambda _: kind)
    finding = check_ledger(path)
    assert (finding.state, said in finding.found) == (state, True)
    assert (finding.promise is None) == (state == "ok")


def test_a_ledger_that_serve_would_refuse_is_red(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger.db"
    db = open_ledger(path)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    assert "newer theo-router" in check_ledger(path).found
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    db.close()
    assert check_ledger(path).state != "fail"
    path.chmod(0o400)  # also for a user who may write everything, as `serve` has it
    finding = check_ledger(path)
    assert (finding.state, "is read-only" in finding.found) == ("fail", True)
    assert "is a folder" in check_ledger(tmp_path).found
    monkeypatch.setattr("apsw.sqlite_lib_version", lambda: "3.45.1")
    assert "can lose commits" in check_ledger(tmp_path / "new.db").found


def test_a_disk_that_fills_up_and_a_log_that_grows_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.db"
    assert check_room(path) == []
    open_ledger(path).close()
    free = SPARE
    monkeypatch.setattr(Ballast, "free", lambda _: free)

    def told() -> list[tuple[str, str]]:
        return [(one.what, one.state) for one in check_room(path)]

    assert told() == [("ledger's disk", "warn")]  # without its ballast
    monkeypatch.setattr(Ballast, "stands", lambda _: True)
    assert told() == [("ledger's disk", "ok")]
    free = SPARE - 1
    assert told() == [("ledger's disk", "fail")]
    with Path(f"{path}-wal").open("wb") as wal:
        wal.truncate(WAL_ALARM - 1)
    assert told() == [("ledger's disk", "fail")]
    os.truncate(f"{path}-wal", WAL_ALARM)
    assert told() == [("ledger's disk", "fail"), ("ledger's WAL", "warn")]
    damage.mark(path)
    assert told()[2:] == [("ledger", "fail")]
