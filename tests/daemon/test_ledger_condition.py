"""What is told of the ledger's state: when, how often, and under which names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from tests.doubles import RecordedEvents
from theo_daemon.event_names import EVENTS
from theo_daemon.ledger.condition import (
    WAL_ALARM,
    Condition,
    Recovered,
    Restored,
    Tidings,
    Troubled,
    WalLarge,
)
from theo_daemon.observer import DaemonObserver
from theo_workers.clock import FakeClock


class Writer:
    """Implements `condition.Health`; it only has a log."""

    busy_with, trouble, unrecorded, ended_by, size, wal_size = 0, None, 0, None, 0, 0
    on_trouble: Callable[[], None]


def test_a_log_that_grows_past_the_alarm_is_told_once_each_time() -> None:
    writer, told = Writer(), list[Tidings]()
    condition = Condition(writer, FakeClock())
    condition.on_tidings = told.append
    half, sizes = WAL_ALARM // 2, []
    for size in (0, WAL_ALARM - 1, WAL_ALARM, 2 * WAL_ALARM, half, WAL_ALARM, half - 1, WAL_ALARM + 1):
        writer.wal_size = size
        condition.look()
        sizes.append(len(told))
    assert sizes == [0, 0, 1, 1, 1, 1, 1, 2]
    assert told == [WalLarge(WAL_ALARM), WalLarge(WAL_ALARM + 1)]


@pytest.mark.parametrize(
    ("tidings", "event", "details"),
    [
        (Troubled("disk I/O error"), "ledger_trouble", {"reason": "disk I/O error"}),
        (Recovered(1.5), "ledger_back", {"after_s": 1.5}),
        (WalLarge(WAL_ALARM), "ledger_wal_large", {"bytes": WAL_ALARM}),
        (Restored(3), "ledger_restored", {"batches": 3}),
    ],
)
def test_each_is_an_event_that_the_documentation_lists(
    tidings: Tidings, event: str, details: dict[str, Any]
) -> None:
    events = RecordedEvents()
    DaemonObserver(cast("Any", None), events, FakeClock()).on_tidings(tidings)
    assert events.seen == [(event, details)]
    assert event in EVENTS
