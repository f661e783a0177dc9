"""How far each ceiling is used: the rows of the ledger put beside the configuration. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from msgspec import Struct

from theo_daemon.budget_names import EACH, MODEL_SCOPE, selectors_of
from theo_daemon.budgets import Ceiling
from theo_daemon.ledger.figures import Balance


class ScopeUse(Struct, frozen=True):
    """One scope in its last window; nano-dollars. `reset_ms` None: it never ends, or the next call begins it."""

    scope: str
    window_start_ms: int
    spent_nano: int
    held_nano: int
    reset_ms: int | None


class CeilingUse(Struct, frozen=True):
    """One ceiling of the configuration: its scopes, the most used first. Without a `*` there is exactly one."""

    ceiling: Ceiling
    scopes: Sequence[ScopeUse]

    @property
    def spent_nano(self) -> int:
        return sum(scope.spent_nano for scope in self.scopes)

    @property
    def held_nano(self) -> int:
        return sum(scope.held_nano for scope in self.scopes)

    @property
    def ratio(self) -> float:
        """How much of the ceiling the most used scope has spent or holds."""
        return max((self.ratio_of(scope) for scope in self.scopes), default=0.0)

    @property
    def downgrading(self) -> bool:
        """Are cheaper models preferred for the sake of one of its scopes?"""
        ease_nano = self.ceiling.ease_nano
        return ease_nano is not None and any(scope.spent_nano >= ease_nano for scope in self.scopes)

    def ratio_of(self, scope: ScopeUse) -> float:
        if not self.ceiling.ceiling_nano:
            return 1.0
        return (scope.spent_nano + scope.held_nano) / self.ceiling.ceiling_nano


def use_of(ceilings: Iterable[Ceiling], rows: Iterable[Balance], now_ms: int) -> list[CeilingUse]:
    """Of the rows those count whose window is not over. A scope counts for the ceiling that names it best."""
    found: dict[Ceiling, dict[str, ScopeUse]] = {ceiling: {} for ceiling in ceilings}
    alike: dict[object, list[Ceiling]] = {}
    for ceiling in sorted(found, key=lambda one: list(one.selectors.values()).count(EACH)):
        alike.setdefault(_kind(ceiling.name, ceiling.selectors), []).append(ceiling)
    for row in rows:
        over = row.window_start_ms != 0 if row.reset_ms is None else row.reset_ms <= now_ms
        names = selectors_of(row.scope)
        for ceiling in () if over else alike.get(_kind(row.scope, names), ()):
            if all(one in (EACH, names[key]) for key, one in ceiling.selectors.items()):
                use = ScopeUse(row.scope, row.window_start_ms, row.spent_nano, row.held_nano, row.reset_ms)
                last = found[ceiling].setdefault(row.scope, use)
                if last.window_start_ms < use.window_start_ms:  # begun by a clock that was ahead
                    found[ceiling][row.scope] = use
                break
    return [
        CeilingUse(ceiling, _in_order(ceiling, scopes.values(), now_ms)) for ceiling, scopes in found.items()
    ]


def _kind(name: str, names: Mapping[str, str]) -> object:
    """Scopes and ceilings of one kind differ in names only."""
    return name.startswith(MODEL_SCOPE), tuple(names), name.partition("@")[2]


def _in_order(ceiling: Ceiling, scopes: Collection[ScopeUse], now_ms: int) -> Sequence[ScopeUse]:
    if not scopes and EACH not in ceiling.selectors.values():
        span = ceiling.span(now_ms)
        return [ScopeUse(ceiling.name, span.start_ms, 0, 0, span.reset_ms if ceiling.aligned else None)]
    return sorted(scopes, key=lambda one: (-one.spent_nano - one.held_nano, one.scope))
