"""What the commit script tells: verdicts and news, read into the ledger's words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from theo_daemon.ledger.large_reads import Place
from theo_daemon.ledger.rates import Pace
from theo_daemon.ledger.records import (
    Ask,
    Busy,
    CallLost,
    CeilingEased,
    CeilingNear,
    CeilingReached,
    Changed,
    Clear,
    Conflict,
    Granted,
    Hit,
    IdBusy,
    News,
    OtherWindow,
    OverBudget,
    PriorAttempt,
    Replay,
    Scope,
    Throttled,
    Unfit,
    Verdict,
    Want,
)
from theo_daemon.ledger.redis.keys import entry_of, scope_of
from theo_daemon.ledger.shared import SharedStanding
from theo_workers.messages import Outcome

_decode = msgspec.msgpack.Decoder(list[Any]).decode


class Buried(msgspec.Struct, frozen=True):
    """This owner was taken for dead just now, and what it left is booked."""

    name: str


class Told(msgspec.Struct, frozen=True):
    """What became of a batch. `changed`: its token is the last one that Redis knows of this owner now."""

    changed: bool
    verdicts: list[Verdict | Buried | None]
    news: list[News]


class Fenced(msgspec.Struct, frozen=True):
    """Nothing of it was done: its owner is not among the living any more."""


class Behind(msgspec.Struct, frozen=True):
    """Nothing of it was done: Redis knows no later batch of this owner, though later ones were answered."""

    token: int


def read_told(reply: bytes, operations: Sequence[object]) -> Told | Fenced | Behind:
    """The reply to a batch of these operations."""
    match _decode(reply):
        case ["done", changed, verdicts, news]:
            read = [_verdict(words, operation) for words, operation in zip(verdicts, operations, strict=True)]
            return Told(changed, read, [_news(words) for words in news])
        case ["behind", token]:
            return Behind(int(token))
    return Fenced()


def read_standing(row: dict[str, Any]) -> SharedStanding:
    """A model's row as it is kept."""
    return SharedStanding(
        model=row["model"],
        version=row["version"],
        generation=row["generation"],
        openings=row["openings"],
        open_until_ms=row["open_until"],
        probe=int(row["probe"]),
        probe_until_ms=row["probe_until"],
        paused_until_ms=row["paused_until"],
        disabled=row.get("disabled"),
        credential=row["credential"],
        order_id=row["order"],
        failures=row.get("failures", 0),
        successes=row.get("successes", 0),
        dated_ms=row["dated"],
    )


def _text(told: str | tuple[str, str, int]) -> bytes:
    """A text; of a large one, its place."""
    if isinstance(told, str):
        return told.encode()
    kind, name, size = told
    return Place.of(kind, (name,), size)


def _granted(want: Want | None, prior: list[Any], standing: Any, pace: Any, strained: Any) -> Granted:
    assert want is not None
    return Granted(
        _prior(prior),
        read_standing(standing) if standing else None,
        Pace(*pace) if pace else None,
        tuple(want.scopes[place].name for place in strained) if strained else (),
    )


def _over_budget(want: Want | None, place: int, spent: int, held: int, by_holds: bool) -> OverBudget:
    assert want is not None
    return OverBudget(want.scopes[place], spent, held, want.bound_nano, by_holds)


_VERDICTS: Final[dict[str, Callable[..., Verdict | Buried | None]]] = {
    "done": lambda: None,
    "alive": lambda: None,
    "clear": lambda prior: Clear(_prior(prior)),
    "other_window": OtherWindow,
    "busy": Busy,
    "hit": lambda answer, prior: Hit(_text(answer), _prior(prior)),
    "replay": lambda outcome, own: Replay(_text(outcome), own),
    "conflict": Conflict,
    "id_busy": lambda entry: IdBusy(entry_of(entry)),
    "throttled": lambda pace: Throttled(Pace(*pace)),
    "unfit": lambda standing: Unfit(read_standing(standing)),
    "changed": lambda standing, news: Changed(read_standing(standing), news),
    "buried": Buried,
}


# Told in the words of what was wanted.
_OF_WANT: Final[dict[str, Callable[..., Verdict]]] = {"granted": _granted, "over_budget": _over_budget}


def _verdict(words: list[Any], operation: object) -> Verdict | Buried | None:
    kind, *told = words
    if kind in _OF_WANT:
        assert isinstance(operation, Ask)
        return _OF_WANT[kind](operation.want, *told)
    return _VERDICTS[kind](*told)


def _prior(rows: list[list[Any]]) -> tuple[PriorAttempt, ...]:
    """By their age."""
    if not rows:
        return ()
    read = [
        PriorAttempt(
            attempt_id=int(attempt),
            model=model,
            provider=provider,
            state=Outcome(state),
            cost_nano=cost,
            latency_ms=float(latency),
            status_code=status or None,
            error_code=error or None,
        )
        for attempt, model, provider, state, cost, latency, status, error in rows
    ]
    return tuple(sorted(read, key=lambda one: one.attempt_id))


def _news(words: list[Any]) -> News:
    match words:
        case ["reached", scope, spent]:
            return CeilingReached(_scope(scope), spent)
        case ["near", scope, spent]:
            return CeilingNear(_scope(scope), spent)
        case ["eased", scope, spent]:
            return CeilingEased(_scope(scope), spent)
        case ["lost", entry, attempt, model, provider, bound]:
            lost = PriorAttempt(int(attempt), model, provider, Outcome.UNKNOWN, bound)
            return CallLost(entry_of(entry), lost)
    raise ValueError(f"the ledger's script told {words!r}")


def _scope(words: list[Any]) -> Scope:
    row, *rest = words
    name, start = scope_of(row)
    return Scope(name, start, *(None if one is False else one for one in rest))
