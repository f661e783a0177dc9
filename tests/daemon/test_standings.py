"""What goes between the ledger and the workers, one message at a time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from msgspec import structs

from theo_daemon.ledger.rates import Pace
from theo_daemon.ledger.records import Changed, Granted, Throttled, Unfit
from theo_daemon.ledger.shared import (
    Change,
    CircuitClosed,
    CircuitOpened,
    HealthReport,
    ModelDisabled,
    Ordered,
    PauseAsked,
    SharedStanding,
    after_change,
)
from theo_daemon.standings import Standings
from theo_workers.clock import FakeClock
from theo_workers.health import HealthSnapshot, ModelHealth
from theo_workers.standing import Pace as WorkerPace
from theo_workers.standing import Shared

ME, PEER = 1 << 40, 2 << 40


class FakeLedger:
    """Writes down what it is told, and answers when the test says so."""

    owner = 1

    def __init__(self) -> None:
        self.told: list[tuple[Change, asyncio.Future[Any]]] = []
        self.reports: list[HealthReport] = []
        self.kept: tuple[list[SharedStanding], dict[str, HealthSnapshot]] = ([], {})

    @property
    def changes(self) -> list[Change]:
        return [change for change, _ in self.told]

    def change(self, change: Change) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.told.append((change, future))
        return future

    def report_health(self, reports: Sequence[HealthReport]) -> None:
        self.reports += reports

    async def standings(self) -> tuple[list[SharedStanding], dict[str, HealthSnapshot]]:
        return self.kept

    def on_standings(self, told: object) -> None:
        """The test itself calls `learn`."""

    async def answer(self, row: SharedStanding, *, news: bool | None = None) -> SharedStanding:
        """Apply the oldest change to `row`; the row that follows."""
        change, future = self.told.pop(0)
        after, told = after_change(row, change, 0)
        future.set_result(Changed(after, told if news is None else news))
        await asyncio.sleep(0)
        return after


class FakeWorker:
    """Writes down what it is told."""

    name, limit = "fast", 8

    def __init__(self) -> None:
        self.health = ModelHealth()
        self.disabled: str | None = None
        self.adopted: list[Shared] = []
        self.paces: list[WorkerPace | None] = []
        self.orders: list[str] = []

    def adopt(self, shared: Shared) -> None:
        self.adopted.append(shared)

    def keep_pace(self, pace: WorkerPace | None) -> None:
        self.paces.append(pace)

    def disable(self, cause: str) -> None:
        self.orders.append(f"disable {cause}")

    def reset(self) -> None:
        self.orders.append("reset")

    def remember(self, record: HealthSnapshot) -> None:
        self.health.restore(record)


class Listener:
    """Hears what is announced."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def on_transition(self, model: str, event: str, details: Mapping[str, Any]) -> None:
        self.events.append(event)


class Desk:
    """The part under test, between fakes."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.ledger, self.worker, self.listener = FakeLedger(), FakeWorker(), Listener()
        self.standings = Standings(self.ledger, clock=self.clock, observer=self.listener)  # type: ignore[arg-type]
        self.standings.add(self.worker, "k1")  # type: ignore[arg-type]

    def ms(self, in_s: float) -> int:
        """Unix ms."""
        return int((self.clock.wall() + in_s) * 1000)

    def tell(self, event: str, **details: object) -> None:
        self.standings.on_transition("fast", event, details)

    @property
    def last(self) -> Shared:
        return self.worker.adopted[-1]


@pytest.fixture
def desk() -> Desk:
    return Desk()


GOOD = SharedStanding(model="fast", version=5, generation=3)


def row(**fields: object) -> SharedStanding:
    return structs.replace(GOOD, **fields)


async def test_what_a_worker_reports_goes_to_the_ledger_dated_and_by_the_wall_clock(desk: Desk) -> None:
    desk.standings.learn([GOOD])
    desk.tell("circuit_opened", retry_after_ms=60000, openings=2)
    desk.tell("circuit_closed")
    desk.tell("model_paused", retry_after_ms=5000)
    desk.tell("model_disabled", cause="authentication_failed")
    desk.tell("model_disabled", cause="bound_violation")
    assert desk.ledger.changes == [
        CircuitOpened("fast", 3, desk.ms(60), 2),
        CircuitClosed("fast", 3),
        PauseAsked("fast", desk.ms(5)),
        ModelDisabled("fast", "authentication_failed", "k1"),
        ModelDisabled("fast", "bound_violation", ""),
    ]
    assert desk.listener.events == []


async def test_a_change_is_announced_when_the_ledger_takes_it_as_news(desk: Desk) -> None:
    desk.tell("circuit_opened", retry_after_ms=60000, openings=1)
    await desk.ledger.answer(SharedStanding(model="fast"))
    assert desk.listener.events == ["circuit_opened"]
    desk.tell("circuit_opened", retry_after_ms=60000, openings=1)
    await desk.ledger.answer(row(generation=9))
    assert desk.listener.events == ["circuit_opened"]


async def test_a_probe_is_announced_at_once_since_its_claim_is_on_record(desk: Desk) -> None:
    desk.tell("circuit_half_open")
    assert (desk.ledger.changes, desk.listener.events) == ([], ["circuit_half_open"])


async def test_rows_become_monotonic_seconds(desk: Desk) -> None:
    peer = {"openings": 2, "open_until_ms": desk.ms(9), "probe": PEER | 7, "probe_until_ms": desk.ms(20)}
    desk.standings.learn([row(**peer, paused_until_ms=desk.ms(4))])
    now = desk.clock.monotonic()
    assert desk.last.open_until == pytest.approx(now + 9, abs=0.002)
    assert desk.last.probed_until == pytest.approx(now + 20, abs=0.002)
    assert desk.last.paused_until == pytest.approx(now + 4, abs=0.002)
    assert desk.last.openings == 2


async def test_times_from_before_the_clock_was_set_back_are_over(desk: Desk) -> None:
    hour = 3_600.0
    times = {"openings": 2, "open_until_ms": desk.ms(hour + 9), "paused_until_ms": desk.ms(hour + 9)}
    probe = {"probe": PEER | 7, "probe_until_ms": desk.ms(hour + 20)}
    desk.standings.learn([row(**times, **probe, dated_ms=desk.ms(hour))])
    now = desk.clock.monotonic()
    assert desk.last.open_until == now
    assert max(desk.last.probed_until, desk.last.paused_until) <= now


async def test_our_own_probe_is_nobody_elses(desk: Desk) -> None:
    desk.standings.learn([row(openings=1, probe=ME | 7, probe_until_ms=desk.ms(20))])
    assert desk.last.probed_until == -math.inf


async def test_only_newer_rows_of_known_models_are_heeded(desk: Desk) -> None:
    desk.standings.learn([GOOD, SharedStanding(model="gone", version=1)])
    desk.standings.learn([GOOD, row(version=4)])
    desk.standings.heed("fast", Unfit(row(version=4, openings=1)))
    assert len(desk.worker.adopted) == 1


async def test_a_circuit_that_changed_elsewhere_voids_what_failed_before(desk: Desk) -> None:
    desk.standings.learn([GOOD])
    desk.standings.learn([row(version=6, paused_until_ms=desk.ms(1))])
    assert desk.last.anew is False
    desk.standings.learn([row(version=7, generation=5)])
    assert desk.last.anew is True


async def test_our_own_change_comes_back_as_no_change_unless_another_was_first(desk: Desk) -> None:
    desk.standings.learn([GOOD])
    desk.tell("circuit_closed")
    await desk.ledger.answer(row(openings=1))
    assert desk.last.anew is False
    desk.tell("model_paused", retry_after_ms=1000)
    await desk.ledger.answer(row(version=9, generation=6))
    assert desk.last.anew is True


async def test_while_a_change_of_ours_is_on_its_way_older_rows_do_not_undo_it(desk: Desk) -> None:
    desk.tell("circuit_opened", retry_after_ms=60000, openings=1)
    desk.standings.learn([row(generation=0)])
    assert desk.worker.adopted == []
    await desk.ledger.answer(row(generation=0))
    assert desk.last.open_until is not None
    desk.standings.learn([row(version=8, generation=2)])
    assert desk.last.open_until is None


async def test_a_granted_probe_dates_what_it_finds(desk: Desk) -> None:
    desk.standings.learn([GOOD])
    probing = row(version=6, generation=4, openings=1, probe=ME | 7, probe_until_ms=desk.ms(20))
    desk.standings.heed("fast", Granted(standing=probing))
    desk.tell("circuit_closed")
    assert desk.ledger.changes == [CircuitClosed("fast", 4)]


async def test_a_probe_that_was_not_needed_learns_that_the_circuit_is_closed(desk: Desk) -> None:
    desk.standings.learn([row(openings=1)])
    desk.standings.heed("fast", Granted(standing=row(version=8, generation=6)))
    assert (desk.last.open_until, desk.last.anew) == (None, True)


@pytest.mark.parametrize(
    ("credential", "local", "disabled"),
    [
        ("k1", None, "x"),
        ("", None, "x"),
        ("k2", None, None),
        ("k2", "authentication_failed", "authentication_failed"),
    ],
)
async def test_another_credentials_fault_says_nothing_of_ours(
    desk: Desk, credential: str, local: str | None, disabled: str | None
) -> None:
    desk.worker.disabled = local
    desk.standings.learn([row(disabled="x", credential=credential)])
    assert desk.last.disabled == disabled


async def test_orders_are_carried_out_at_once_and_told_once(desk: Desk) -> None:
    desk.standings.order("disable", "fast", "7-0")
    desk.tell("model_disabled", cause="operator")  # what the worker says of it
    assert desk.ledger.changes == [Ordered("fast", "7-0", disable=True)]
    assert desk.worker.orders == ["disable operator"]
    stopped = await desk.ledger.answer(GOOD)
    assert desk.listener.events == ["model_disabled"]
    desk.standings.order("reset", "fast", "8-0")
    assert desk.worker.orders == ["disable operator", "reset"]
    await desk.ledger.answer(stopped)
    assert desk.listener.events == ["model_disabled", "model_enabled"]


async def test_commands_of_the_past_and_those_for_others_are_left_alone(desk: Desk) -> None:
    desk.standings.learn([row(order_id="7-0")])
    for entry_id in ("6-9", "7-0"):
        desk.standings.order("disable", "fast", entry_id)
    desk.standings.order("disable", "slow", "9-0")
    assert (desk.ledger.changes, desk.worker.orders) == ([], [])


@pytest.mark.parametrize(
    ("pace_in_s", "calls", "kept"),
    [(0.0, 9, None), (0.0, 8, 8), (0.0, 1, 1), (30.0, 1, 1), (30.0, 900, 900)],
)
async def test_a_worker_is_told_its_pace_when_that_is_near(
    desk: Desk, pace_in_s: float, calls: int, kept: int | None
) -> None:
    pace = Pace(desk.ms(pace_in_s), calls)
    for verdict in (Granted(pace=pace), Throttled(pace)):
        desk.standings.heed("fast", verdict)
        told = desk.worker.paces.pop()
        assert (None if told is None else told.calls) == kept
        if told is not None:
            assert told.since == pytest.approx(desk.clock.monotonic() + pace_in_s, abs=0.002)


async def test_health_is_restored_and_what_is_new_is_reported(desk: Desk) -> None:
    before = HealthSnapshot(total_successes=4, latency_ewma_ms=9.0)
    desk.ledger.kept = ([], {"fast": before, "gone": before})
    await desk.standings.start()
    assert desk.worker.health.total_successes == 4
    desk.standings.save()
    assert desk.ledger.reports == []
    desk.worker.health.record_failure(1.0)
    desk.standings.save()
    desk.standings.save()
    (report,) = desk.ledger.reports
    assert (report.before, report.now.total_failures) == (before, 1)
