"""The ledger's decisions, pure: what each ask of a batch is answered, and what must be written for it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec import Struct, field

from theo_daemon.job import EntryRef
from theo_daemon.ledger.rates import Slice, Taken, take
from theo_daemon.ledger.records import (
    Ask,
    Busy,
    CeilingReached,
    Check,
    Clear,
    Conflict,
    Granted,
    Hit,
    IdBusy,
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
from theo_daemon.ledger.shared import SharedStanding, as_probe


class Remembered(Struct, frozen=True):
    """A client id on record; `outcome` is None while its job runs."""

    digest: str
    ref: EntryRef
    outcome: bytes | None


class KeptAnswer(Struct, frozen=True):
    """An answer on record, and for how long it serves others (Unix ms)."""

    answer: bytes
    created_at: int
    fresh_until: int


class Balance(Struct):
    """One budget row, and what was told of it already."""

    spent_nano: int = 0
    held_nano: int = 0
    warned: bool = False
    exhausted: bool = False
    eased: bool = False


class Known(Struct, kw_only=True):
    """What the ledger holds about a batch of asks; updated as the batch is decided, ask by ask."""

    now_ms: int = 0
    holders: dict[str, int] = field(default_factory=dict)  # flight key -> owner
    answers: dict[str, KeptAnswer] = field(default_factory=dict)  # by cache key
    outcomes: dict[EntryRef, bytes] = field(default_factory=dict)
    ids: dict[tuple[str, str], Remembered] = field(default_factory=dict)
    prior: dict[EntryRef, tuple[PriorAttempt, ...]] = field(default_factory=dict)
    balances: dict[tuple[str, int], Balance] = field(default_factory=dict)
    newest: dict[str, tuple[int, int]] = field(
        default_factory=dict
    )  # by scope: its last window's start and end
    standings: dict[str, SharedStanding] = field(default_factory=dict)  # by model
    windows: dict[str, tuple[Slice, ...]] = field(default_factory=dict)  # of rates, by model
    shut: dict[str, SharedStanding] = field(
        default_factory=dict
    )  # models that take no calls since this batch


class Claims(Struct, kw_only=True):
    """What must be written: new holders, the attempts they send, new ids, holds by budget row, ceilings reached."""

    holders: list[Ask] = field(default_factory=list)
    attempts: list[Ask] = field(default_factory=list)
    ids: list[Ask | Check] = field(default_factory=list)
    held: dict[tuple[str, int], int] = field(default_factory=dict)
    standings: dict[str, SharedStanding] = field(default_factory=dict)
    windows: dict[str, tuple[Slice, ...]] = field(default_factory=dict)
    reached: list[CeilingReached] = field(default_factory=list)


def decide(asks: Sequence[Ask | Check], known: Known, *, owner: int) -> tuple[list[Verdict], Claims]:
    """Answer a batch in order, each ask seeing what the ones before it changed."""
    claims = Claims()
    verdicts: list[Verdict] = []
    for ask in asks:
        verdict = _identify(ask, known)
        if verdict is None:
            prior = known.prior.get(ask.ref, ())
            verdict = Clear(prior) if isinstance(ask, Check) else _admit(ask, known, claims, owner)
        if ask.client_id is not None and isinstance(verdict, Clear | Granted | Busy | Hit):
            _take_id(ask, known, claims)
        verdicts.append(verdict)
    return verdicts, claims


def _identify(ask: Ask | Check, known: Known) -> Verdict | None:
    """What this entry's own past, or its client id's, answers. None: nothing does."""
    own = known.outcomes.get(ask.ref)
    if own is not None:
        return Replay(own, own=True)
    remembered = None if ask.client_id is None else known.ids.get((ask.tenant, ask.client_id))
    match remembered:
        case None:
            return None
        case Remembered(ref=ref, outcome=outcome) if ref == ask.ref:
            return None if outcome is None else Replay(outcome, own=True)
        case Remembered(digest=digest) if digest != ask.digest:
            return Conflict()
        case Remembered(ref=ref, outcome=outcome):
            return IdBusy(ref) if outcome is None else Replay(outcome, own=False)


def _admit(ask: Ask, known: Known, claims: Claims, owner: int) -> Verdict:
    """A fresh answer, somebody else's call in flight, or the way is clear: then claim what is wanted."""
    prior = known.prior.get(ask.ref, ())
    if ask.holding and known.holders.get(ask.key) == owner:
        return _reserve(ask, known, claims, prior)
    if ask.cache_key is not None and (kept := known.answers.get(ask.cache_key)) is not None:
        shared = ask.waited_since_ms is not None and kept.created_at >= ask.waited_since_ms
        if shared or kept.fresh_until > known.now_ms:
            return Hit(kept.answer, prior)
    if ask.key in known.holders:
        return Busy()
    if ask.want is None:
        return Clear(prior)
    verdict = _reserve(ask, known, claims, prior)
    if isinstance(verdict, Granted):
        known.holders[ask.key] = owner
        claims.holders.append(ask)
    return verdict


def _reserve(ask: Ask, known: Known, claims: Claims, prior: tuple[PriorAttempt, ...]) -> Verdict:
    """Take what the call needs of budgets, rates and the right to probe: all or nothing."""
    want = ask.want
    if want is None:
        return Clear(prior)
    refusal = _refusal(want, known, claims)
    if refusal is not None:
        return refusal
    standing = _standing_for(want, known)
    if isinstance(standing, Unfit):
        return standing
    taken = None if want.rate is None else take(known.windows.get(want.model, ()), want.rate, known.now_ms)
    if taken is not None and not isinstance(taken, Taken):
        return Throttled(taken)
    strained = _hold(want, known, claims)
    if standing is not None:
        known.standings[want.model] = claims.standings[want.model] = standing
    if taken is not None:
        known.windows[want.model] = claims.windows[want.model] = taken.window
    claims.attempts.append(ask)
    return Granted(prior, standing, None if taken is None else taken.left, strained)


def _refusal(want: Want, known: Known, claims: Claims) -> OverBudget | OtherWindow | None:
    """What the scopes say against the call: of several refusals the one that ends last."""
    refusal: OverBudget | None = None
    for scope in want.scopes:
        if scope.window_start_ms and (other := _other_window(scope, known)) is not None:
            return other
        if (found := _over(want, scope, known)) is not None:
            _note_reached(found, known, claims)
            refusal = found if refusal is None else max(refusal, found, key=_lasts)
    return refusal


def _hold(want: Want, known: Known, claims: Claims) -> tuple[str, ...]:
    """Hold the bound in every scope; the names of those that have spent their `ease_nano`."""
    strained: tuple[str, ...] = ()
    for scope in want.scopes:
        row = (scope.name, scope.window_start_ms)
        if want.bound_nano:
            known.balances.setdefault(row, Balance()).held_nano += want.bound_nano
            claims.held[row] = claims.held.get(row, 0) + want.bound_nano
            _begin(scope, known)
        if scope.ease_nano is not None and known.balances.get(row, Balance()).spent_nano >= scope.ease_nano:
            strained += (scope.name,)
    return strained


def _other_window(scope: Scope, known: Known) -> OtherWindow | None:
    """The window that the call must count in, if it is not the one that its process believes to run."""
    start_ms, reset_ms = known.newest.get(scope.name, (0, 0))
    if scope.window_start_ms == start_ms or scope.window_start_ms >= reset_ms:
        return None
    return OtherWindow(scope.name, start_ms, reset_ms)


def _begin(scope: Scope, known: Known) -> None:
    """Its window has a row from now on, so it is the one that runs."""
    if scope.reset_ms is not None:
        known.newest[scope.name] = (scope.window_start_ms, scope.reset_ms)


def _lasts(refusal: OverBudget) -> float:
    """When it ends, in Unix ms; what is only held ends first."""
    if refusal.by_holds:
        return -1.0
    return math.inf if refusal.scope.reset_ms is None else float(refusal.scope.reset_ms)


def _standing_for(want: Want, known: Known) -> SharedStanding | Unfit | None:
    """The model's row with this call as its probe, where the right to probe is asked for."""
    if want.probe_until_ms is None:
        shut = known.shut.get(want.model)
        return None if shut is None else Unfit(shut)
    row = known.standings.get(want.model) or SharedStanding(model=want.model)
    probing = as_probe(row, want.attempt_id, until_ms=want.probe_until_ms, now_ms=known.now_ms)
    return Unfit(row) if probing is None else probing


def _over(want: Want, scope: Scope, known: Known) -> OverBudget | None:
    if scope.ceiling_nano is None:
        return None
    balance = known.balances.get((scope.name, scope.window_start_ms), Balance())
    by_holds = False
    if want.bound_nano is not None and scope.ceiling_nano > 0:  # a ceiling of 0 forbids even what is free
        left = scope.ceiling_nano - balance.spent_nano - want.bound_nano
        if left >= balance.held_nano:
            return None
        by_holds = left >= 0
    return OverBudget(
        scope=scope,
        spent_nano=balance.spent_nano,
        held_nano=balance.held_nano,
        bound_nano=want.bound_nano,
        by_holds=by_holds,
    )


def _note_reached(refusal: OverBudget, known: Known, claims: Claims) -> None:
    """Spent money stood in the way of a call: to be told, once for a window."""
    if refusal.by_holds or refusal.bound_nano is None:
        return
    scope = refusal.scope
    balance = known.balances.setdefault((scope.name, scope.window_start_ms), Balance())
    if not balance.exhausted:
        balance.exhausted = True
        _begin(scope, known)
        claims.reached.append(CeilingReached(scope, balance.spent_nano))


def eases(scope: Scope, balance: Balance) -> bool:
    """Must it be told now that groups prefer cheaper members for this scope's sake? `balance` is after booking."""
    return scope.ease_nano is not None and balance.spent_nano >= scope.ease_nano and not balance.eased


def near_ceiling(scope: Scope, balance: Balance) -> bool:
    """Must it be told now that this scope has spent most of its ceiling? `balance` is after booking."""
    return scope.warn_nano is not None and balance.spent_nano >= scope.warn_nano and not balance.warned


def _take_id(ask: Ask | Check, known: Known, claims: Claims) -> None:
    """The id is this entry's from now on, until its job ends."""
    assert ask.client_id is not None
    row = (ask.tenant, ask.client_id)
    if row not in known.ids:
        known.ids[row] = Remembered(digest=ask.digest, ref=ask.ref, outcome=None)
        claims.ids.append(ask)
