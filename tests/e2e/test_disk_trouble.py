"""The ledger's disk full, its file locked, or gone."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from tests.e2e.processes import Fleet, until
from tests.e2e.provider import Fate
from tests.e2e.small_disk import NoNamespace, SmallDisk

pytestmark = pytest.mark.e2e


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    try:
        disk = SmallDisk(tmp_path / "disk", 24)
    except NoNamespace as why:
        pytest.skip(f"no small file system can be mounted here: {why}")
    with disk:
        yield disk


LOOK = """
import apsw, collections
db = apsw.Connection("ledger.db", flags=apsw.SQLITE_OPEN_READONLY)
print(dict(collections.Counter(state for (state,) in db.execute("SELECT state FROM attempts"))))
"""


def attempts(disk: SmallDisk) -> str:
    """How many calls are on record, by their state."""
    look = [*disk.wrapper, sys.executable, "-c", LOOK]
    return subprocess.run(look, capture_output=True, text=True, check=True).stdout.strip()


def test_a_full_disk_delays_jobs_and_loses_none(fleet: Fleet, disk: SmallDisk, tmp_path: Path) -> None:
    fleet.wrapper = disk.wrapper
    fleet.config["ledger"] = {"url": f"sqlite:///{tmp_path}/disk/ledger.db"}
    serve = fleet.start().wait_ready()
    assert (disk.seen / "ledger.db.ballast").stat().st_size == 16 << 20
    fleet.provider.answer(Fate(latency_s=1, text="a long answer " * 500), prompt="paid")
    paid = fleet.push_all({"prompt": f"paid{n}"} for n in range(40))
    until(lambda: len(fleet.provider.calls) == 40, 10)

    disk.fill()
    late = fleet.push_all({"prompt": f"late{n}", "id": f"late{n}"} for n in range(40))
    # What was paid for is recorded in the ballast's place, and answered; nothing else is sent.
    assert {reply["status"] for reply in fleet.answers(paid, 10)} == {"ok"}
    until(lambda: serve.get("/readyz")[0] == 503, 5)
    assert "the disk is full" in serve.get("/readyz")[1]
    late += fleet.push_all({"prompt": f"later{n}"} for n in range(20))
    held = fleet.pending()
    quiet = time.monotonic() + 1.5
    until(lambda: time.monotonic() > quiet, 5)
    assert fleet.pending() <= held + 1, "jobs are read though none can be started"
    assert len(fleet.provider.calls) == 40
    assert not fleet.provider.called("late")

    disk.empty()
    until(lambda: serve.get("/readyz")[0] == 200, 5)
    assert {reply["status"] for reply in fleet.answers(late, 10)} == {"ok"}
    assert len(fleet.provider.calls) == 100
    assert attempts(disk) == "{'ok': 100}"
    assert len(fleet.events("ledger_trouble")) == len(fleet.events("ledger_back")) == 1
    assert (disk.seen / "ledger.db.ballast").exists()
    fleet.settled()
    serve.terminate()
    assert serve.wait_exit(5) == 0


def test_a_drain_on_a_disk_that_stays_full_ends_and_says_what_is_not_on_record(
    fleet: Fleet, disk: SmallDisk, tmp_path: Path
) -> None:
    fleet.wrapper = disk.wrapper
    fleet.config["ledger"] = {"url": f"sqlite:///{tmp_path}/disk/ledger.db"}
    fleet.config["ingress"] = {"drain_s": 2}
    fleet.config["routing"] = {"default": "fast", "timeout_s": 2}
    serve = fleet.start().wait_ready()
    fleet.provider.answer(Fate(latency_s=1, text="z" * 6_000_000), prompt="huge")
    entries = fleet.push_all({"prompt": f"huge{n}"} for n in range(4))
    until(lambda: len(fleet.provider.calls) == 4, 10)
    disk.fill()
    until(lambda: serve.get("/readyz")[0] == 503, 10)
    serve.terminate()
    assert serve.wait_exit(15) == 1
    (left,) = serve.events("ledger_unrecorded")
    assert 1 <= left["calls"] <= 4  # a call that ended before the disk was full is on record
    assert f"{left['calls']} ended call" in serve.log
    assert fleet.pending() == left["calls"]
    disk.empty()
    fleet.provider.answer(Fate(), prompt="huge")
    fleet.start("next").wait_ready()
    assert {reply["status"] for reply in fleet.answers(entries, 15)} == {"ok"}


def test_a_ledger_deleted_under_a_running_process_ends_it_and_its_jobs_stay(fleet: Fleet) -> None:
    fleet.config["ingress"] = {"lease_s": 2}
    serve = fleet.start("fenced").wait_ready()
    assert fleet.ask(prompt="before")["status"] == "ok"
    fleet.provider.answer(Fate(latency_s=3), prompt="x")
    entries = fleet.push_all({"prompt": f"x{n}"} for n in range(5))
    until(lambda: len(fleet.provider.called("x")) == 5, 5)
    for file in fleet.folder.glob("theo-ledger.db*"):
        if file.is_file():
            file.unlink()
    entries += fleet.push_all({"prompt": f"y{n}"} for n in range(5))
    assert serve.wait_exit(8) == 1
    assert "was deleted while it was in use" in serve.log.splitlines()[-1]
    assert not fleet.provider.called("y")
    assert not set(fleet.finals()) & set(entries)
    fleet.provider.answer(Fate(), prompt="x")
    fleet.start("next").wait_ready()
    assert {reply["status"] for reply in fleet.answers(entries, 15)} == {"ok"}
    fleet.settled()


def test_a_ledger_locked_for_longer_than_the_busy_timeout_only_delays_jobs(fleet: Fleet) -> None:
    serve = fleet.start().wait_ready()
    assert fleet.ask(prompt="before")["status"] == "ok"
    fleet.provider.answer(Fate(latency_s=0.5), prompt="sent")
    sent = fleet.push_all({"prompt": f"sent{n}"} for n in range(5))
    until(lambda: len(fleet.provider.called("sent")) == 5, 5)
    db = apsw.Connection(str(fleet.folder / "theo-ledger.db"))
    db.execute("BEGIN IMMEDIATE")
    locked_at = time.monotonic()
    late = fleet.push_all({"prompt": f"late{n}"} for n in range(20))
    until(lambda: serve.get("/readyz")[0] == 503, 12)
    assert "BusyError" in serve.get("/readyz")[1]
    until(lambda: time.monotonic() - locked_at > 12, 13)
    assert not fleet.provider.called("late"), "sent without a record"
    assert len(fleet.finals()) == 1
    db.execute("ROLLBACK")
    db.close()
    replies = fleet.answers([*sent, *late], 15)
    assert {reply["status"] for reply in replies} == {"ok"}
    assert len(fleet.provider.calls) == 26
    assert serve.get("/readyz")[0] == 200
    fleet.settled()
