"""What all processes hold true of one model: its circuit, pause and credential; and what a change makes of it.

Words and decisions, pure. Times are Unix milliseconds, 0 where nothing is on.
"""

from __future__ import annotations

from msgspec import Struct, structs

from theo_workers.health import HealthSnapshot

CLOCK_SLACK_MS = 2_000  # clocks are corrected by less than that all the time


class SharedStanding(Struct, frozen=True, kw_only=True, gc=False):
    """One model's row in the ledger."""

    model: str
    version: int = 0  # grows with every change of the row
    generation: int = 0  # grows with every change of the circuit, so that evidence is dated
    openings: int = 0  # since the circuit was last closed; 0: it is closed
    open_until_ms: int = 0
    probe: int = 0  # the attempt that has the right to probe; 0: none
    probe_until_ms: int = 0  # when that right lapses
    paused_until_ms: int = 0
    disabled: str | None = None  # why
    credential: str = ""  # which one is disabled, by fingerprint; "": the model, whatever its credential
    order_id: str = "0-0"  # of the operator's last command, an entry id
    failures: int = 0  # of the closed circuit, in a row, whichever processes met them
    successes: int = 0  # of the model in all, at the last of these failures
    dated_ms: int = 0  # when the latest of its times was set, by the clock that they are to be read by


class CircuitOpened(Struct, frozen=True, gc=False):
    """A process opened the circuit on evidence of `generation`."""

    model: str
    generation: int
    until_ms: int
    openings: int


class CircuitClosed(Struct, frozen=True, gc=False):
    """A good probe of `generation` closed the circuit."""

    model: str
    generation: int


class FailureCounted(Struct, frozen=True, gc=False):
    """A process met a failure that did not open its circuit. `threshold` in a row, in all of them, open it."""

    model: str
    generation: int
    threshold: int
    until_ms: int  # for how long, if it is the last of them


class PauseAsked(Struct, frozen=True, gc=False):
    """The provider asked us to wait."""

    model: str
    until_ms: int


class ModelDisabled(Struct, frozen=True, gc=False):
    """The model must not be called until an operator has looked at it."""

    model: str
    cause: str  # an error code, or a word for what happened
    credential: str  # the one that is at fault, by fingerprint; "": the model is, whatever the credential


class Ordered(Struct, frozen=True, gc=False):
    """An operator's command: take the model out, or let it serve again with a clean record."""

    model: str
    order_id: str
    disable: bool


Change = CircuitOpened | CircuitClosed | FailureCounted | PauseAsked | ModelDisabled | Ordered


class HealthReport(Struct, frozen=True, gc=False):
    """One process's record of a model since its last report."""

    model: str
    before: HealthSnapshot
    now: HealthSnapshot


def after_change(
    known: SharedStanding, change: Change, now_ms: int, *, successes: int = 0
) -> tuple[SharedStanding, bool]:
    """The row that follows, and whether the change is news that should be told (once, by who made it).

    `successes` is how many calls of the model have been answered in all: failures between which it grew were not
    in a row. Evidence from before the circuit's last change counts for nothing. A pause is only ever made longer. Of an
    operator's commands the latest counts, in whatever order the processes read them.
    """
    match change:
        case CircuitOpened() | CircuitClosed() | FailureCounted():
            return _after_evidence(known, change, now_ms, successes)
        case PauseAsked(until_ms=until_ms):
            paused_until_ms = 0 if set_back(known, now_ms) else known.paused_until_ms
            if until_ms <= paused_until_ms:
                return known, False
            return _next(known, paused_until_ms=until_ms, dated_ms=now_ms), paused_until_ms <= now_ms
        case ModelDisabled(cause=cause, credential=credential):
            if known.disabled is not None and known.credential in ("", credential):
                return known, False
            return _next(known, disabled=cause, credential=credential), True
        case Ordered():
            return _after_order(known, change, now_ms)


def _after_evidence(
    known: SharedStanding, change: CircuitOpened | CircuitClosed | FailureCounted, now_ms: int, successes: int
) -> tuple[SharedStanding, bool]:
    if change.generation != known.generation:
        return known, False
    match change:
        case CircuitOpened(until_ms=until_ms, openings=openings):
            return _circuit(known, openings=openings, open_until_ms=until_ms, dated_ms=now_ms), True
        case CircuitClosed():
            return (_circuit(known), True) if known.openings else (known, False)
        case FailureCounted():
            return _after_failure(known, change, now_ms, successes)


def _after_failure(
    known: SharedStanding, failure: FailureCounted, now_ms: int, successes: int
) -> tuple[SharedStanding, bool]:
    """No other process needs to hear of a failure that opens nothing: the row's version stays."""
    if known.openings:
        return known, False
    failures = known.failures + 1 if successes == known.successes else 1
    if failures >= failure.threshold:
        return _circuit(known, openings=1, open_until_ms=failure.until_ms, dated_ms=now_ms), True
    return structs.replace(known, failures=failures, successes=successes), False


def _after_order(known: SharedStanding, order: Ordered, now_ms: int) -> tuple[SharedStanding, bool]:
    if entry_order(order.order_id) <= entry_order(known.order_id):
        return known, False
    if order.disable:
        disabled = _next(known, disabled="operator", credential="", order_id=order.order_id)
        return disabled, known.disabled is None
    enabled = _circuit(known, paused_until_ms=0, disabled=None, credential="", order_id=order.order_id)
    return enabled, known.disabled is not None or known.openings > 0 or known.paused_until_ms > now_ms


def as_probe(known: SharedStanding, attempt_id: int, *, until_ms: int, now_ms: int) -> SharedStanding | None:
    """The row once this attempt has the right to probe, until `until_ms` at most.

    A closed circuit needs no probe: then it is `known` itself. None when the call must not go out: somebody
    else probes, or the circuit was opened or the model paused again meanwhile.
    """
    if known.openings and set_back(known, now_ms):
        known = structs.replace(known, open_until_ms=now_ms, paused_until_ms=0, probe=0, probe_until_ms=0)
    if known.open_until_ms > now_ms or known.paused_until_ms > now_ms:
        return None
    if known.openings == 0:
        return known
    if known.probe and known.probe_until_ms > now_ms:
        return None
    generation = known.generation + 1
    return _next(known, probe=attempt_id, probe_until_ms=until_ms, dated_ms=now_ms, generation=generation)


def takes_no_calls(row: SharedStanding, now_ms: int) -> bool:
    """May no call go out, unless it has the right to probe? So it is for those, too, that are claimed in the batch that
    made the row so: they were admitted before, and a ledger that was slow may have kept them for long.
    """
    return row.openings > 0 or row.paused_until_ms > now_ms or row.disabled is not None


def set_back(known: SharedStanding, now_ms: int) -> bool:
    """Was the clock set back since the row's times were set? Then nobody can tell what is left of them.

    They count as over, or a model would be closed for as long as the clock was wrong: who waits for them by a clock of
    its own goes on waiting, and a probe too many is only a call.
    """
    return now_ms < known.dated_ms - CLOCK_SLACK_MS


def without_probe(known: SharedStanding) -> SharedStanding:
    """The probe ended without a verdict: the next one may go."""
    return _next(known, probe=0, probe_until_ms=0)


def owner_of(attempt_id: int) -> int:
    """The process that made this attempt, by its id in the ledger."""
    return attempt_id >> 40


def entry_order(entry_id: str) -> tuple[int, int]:
    """Entry ids as they follow one another."""
    ms, _, number = entry_id.partition("-")
    return int(ms), int(number or 0)


def _circuit(known: SharedStanding, **fields: object) -> SharedStanding:
    """Closed, unless `fields` say otherwise; who probed before has no say any more."""
    closed: dict[str, object] = {
        "openings": 0, "open_until_ms": 0, "probe": 0, "probe_until_ms": 0, "failures": 0
    }  # fmt: skip
    return _next(known, generation=known.generation + 1, **{**closed, **fields})


def _next(known: SharedStanding, **fields: object) -> SharedStanding:
    return structs.replace(known, version=known.version + 1, **fields)
