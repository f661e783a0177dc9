"""The SQL of what processes share about models: standings, health records, windows of rates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import apsw
import msgspec

from theo_daemon.ledger.rates import Slice
from theo_daemon.ledger.shared import (
    Change,
    FailureCounted,
    HealthReport,
    SharedStanding,
    after_change,
    owner_of,
    without_probe,
)
from theo_workers.health import HealthSnapshot, merged

_COLUMNS = (
    "model, version, generation, openings, open_until_ms, probe, probe_until_ms, paused_until_ms, disabled,"
    " credential, order_id, changed_at, failures, successes"
)
_SELECT = f"SELECT {_COLUMNS} FROM standings"
_WRITE = (
    f"INSERT INTO standings({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT(model) DO UPDATE"
    " SET version = excluded.version, generation = excluded.generation, openings = excluded.openings,"
    " open_until_ms = excluded.open_until_ms, probe = excluded.probe, probe_until_ms = excluded.probe_until_ms,"
    " paused_until_ms = excluded.paused_until_ms, disabled = excluded.disabled, credential = excluded.credential,"
    " order_id = excluded.order_id, changed_at = excluded.changed_at,"
    " failures = excluded.failures, successes = excluded.successes"
)
_decode_health = msgspec.json.Decoder(HealthSnapshot).decode
_decode_window = msgspec.json.Decoder(tuple[Slice, ...]).decode
_encode = msgspec.json.Encoder().encode


def all_standings(db: apsw.Connection) -> list[SharedStanding]:
    """Of every model that ever had one."""
    return [_standing(row) for row in db.execute(_SELECT)]


def read_standing(db: apsw.Connection, model: str) -> SharedStanding:
    """A model without a row is in good standing."""
    row: Any = db.execute(f"{_SELECT} WHERE model = ?", (model,)).fetchone()
    return SharedStanding(model=model) if row is None else _standing(row)


def write_standings(db: apsw.Connection, standings: Iterable[SharedStanding]) -> None:
    """Keep these rows."""
    for one in standings:
        db.execute(
            _WRITE,
            (
                one.model, one.version, one.generation, one.openings, one.open_until_ms, one.probe, one.probe_until_ms,
                one.paused_until_ms, one.disabled, one.credential, one.order_id, one.dated_ms,
                one.failures, one.successes,
            ),
        )  # fmt: skip


def change_standing(db: apsw.Connection, change: Change, now_ms: int) -> tuple[SharedStanding, bool]:
    """What `after_change` makes of the row."""
    known = read_standing(db, change.model)
    successes = _successes(db, change.model) if isinstance(change, FailureCounted) else 0
    standing, news = after_change(known, change, now_ms, successes=successes)
    if standing is not known:
        write_standings(db, (standing,))
    return standing, news


def _successes(db: apsw.Connection, model: str) -> int:
    """Calls of the model that were answered, since there is a ledger."""
    row: Any = db.execute("SELECT calls FROM latency WHERE model = ?", (model,)).fetchone()
    return 0 if row is None else int(row[0])


def release_probes(db: apsw.Connection, probes: Mapping[str, int]) -> None:
    """These attempts (by model) are over: those that still have the right to probe lose it."""
    for model, attempt_id in probes.items():
        known = read_standing(db, model)
        if known.probe == attempt_id:
            write_standings(db, (without_probe(known),))


def release_probes_of(db: apsw.Connection, owner: int) -> None:
    """The owner is dead."""
    left = [one for one in all_standings(db) if one.probe and owner_of(one.probe) == owner]
    write_standings(db, map(without_probe, left))


# -- health --------------------------------------------------------------------------------------------


def all_health(db: apsw.Connection) -> dict[str, HealthSnapshot]:
    """The fleet's record of each model."""
    rows: Any = db.execute("SELECT model, health FROM standings WHERE health <> ''")
    return {model: _decode_health(health) for model, health in rows}


def add_health(db: apsw.Connection, report: HealthReport) -> None:
    """Add what one process saw to the fleet's record."""
    row: Any = db.execute("SELECT health FROM standings WHERE model = ?", (report.model,)).fetchone()
    kept = _decode_health(row[0]) if row is not None and row[0] else HealthSnapshot()
    record = merged(kept, before=report.before, now=report.now)
    db.execute(
        "INSERT INTO standings(model, health, changed_at) VALUES (?, ?, 0)"  # none of its times is set by this
        " ON CONFLICT(model) DO UPDATE SET health = excluded.health",
        (report.model, _encode(record).decode()),
    )


# -- rates ---------------------------------------------------------------------------------------------


def read_window(db: apsw.Connection, model: str) -> tuple[Slice, ...]:
    """What was taken of the model's rates."""
    row: Any = db.execute("SELECT slices FROM rates WHERE model = ?", (model,)).fetchone()
    return () if row is None else _decode_window(row[0])


def write_windows(db: apsw.Connection, windows: Mapping[str, Sequence[Slice]]) -> None:
    """Keep these windows, by model."""
    for model, window in windows.items():
        db.execute(
            "INSERT INTO rates(model, slices) VALUES (?, ?) ON CONFLICT(model) DO UPDATE SET slices = excluded.slices",
            (model, _encode(window).decode()),
        )


def _standing(row: Sequence[Any]) -> SharedStanding:
    model, version, generation, openings, open_until_ms, probe, probe_until_ms, *rest = row
    paused_until_ms, disabled, credential, order_id, dated_ms, failures, successes = rest
    return SharedStanding(
        model=model, version=version, generation=generation, openings=openings, open_until_ms=open_until_ms,
        probe=probe, probe_until_ms=probe_until_ms, paused_until_ms=paused_until_ms, disabled=disabled,
        credential=credential, order_id=order_id, dated_ms=dated_ms, failures=failures, successes=successes,
    )  # fmt: skip
