"""What the supervisor of `serve --processes N` makes of children that end as they should not."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from theo_daemon.cli import processes
from theo_daemon.cli.processes import RESTARTS, USAGE, Processes

CRASH = 3
# The first to come stays until it is told to drain; each other one ends with `status`.
ONE_STAYS = """
import os, signal, sys, time
folder, status = sys.argv[1], int(sys.argv[2])
signal.signal(signal.SIGTERM, lambda *_: (os.mkdir(folder + "/drained"), os._exit(0)))
try:
    os.mkdir(folder + "/first")
except FileExistsError:
    sys.exit(status)
time.sleep(60)
"""


class Told(list[tuple[str, Mapping[str, Any]]]):
    def log(self, level: str, event: str, fields: Mapping[str, Any]) -> None:
        self.append((event, fields))

    def of(self, event: str) -> list[Mapping[str, Any]]:
        return [fields for name, fields in self if name == event]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    monkeypatch.setattr(processes, "FIRST_DELAY_S", 0.01)
    return Told()


def two(told: Told, folder: Path, status: int) -> Processes:
    command = [sys.executable, "-I", "-S", "-c", ONE_STAYS, str(folder), str(status)]
    return Processes(command, {}, count=2, log=told.log)


async def test_a_child_that_crashes_again_and_again_is_given_up_and_its_siblings_drain(
    told: Told, tmp_path: Path
) -> None:
    assert await two(told, tmp_path, CRASH).run() == 1
    restarts = told.of("process_restarted")
    assert [one["status"] for one in restarts] == [CRASH] * RESTARTS
    delays = [one["after_s"] for one in restarts]
    assert delays == [0.01 * 2**n for n in range(RESTARTS)], "it must not be started as fast as it crashes"
    (given_up,) = told.of("process_given_up")
    assert given_up["status"] == CRASH
    assert (tmp_path / "drained").exists()


async def test_a_child_that_cannot_use_its_configuration_is_not_started_again(
    told: Told, tmp_path: Path
) -> None:
    assert await two(told, tmp_path, USAGE).run() == USAGE
    assert told.of("process_restarted") == []
    assert len(told.of("process_given_up")) == 1
    assert (tmp_path / "drained").exists()
