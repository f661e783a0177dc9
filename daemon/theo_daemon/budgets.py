"""Which budgets a call draws on, and in which windows. Pure: what time it is comes in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeVar

from msgspec import Struct

from theo_daemon.budget_names import EACH, KEYS, MODEL_SCOPE, scope_name
from theo_daemon.config import BudgetConfig, Config, RoutingConfig
from theo_daemon.ledger.records import OtherWindow, Scope
from theo_daemon.money import to_nano
from theo_daemon.spend_window import Span, SpendWindow, window_from, window_of

REMEMBERED = 4_096  # draws and windows: a client may make up tenants

KeyT = TypeVar("KeyT")
ValueT = TypeVar("ValueT")


class Draw(Struct, frozen=True):
    """What a call draws on, until `until_ms` (Unix ms; None: for ever)."""

    scopes: tuple[Scope, ...]
    until_ms: int | None
    ceiling_nano: int | None  # the lowest; None: none of them has one


class Ceiling(Struct, frozen=True, eq=False):
    """One ceiling of the configuration, over all calls of one model (`own`) or those that its selectors fit."""

    selectors: Mapping[str, str]
    window: SpendWindow
    aligned: bool
    ceiling_nano: int
    warn_nano: int | None
    ease_nano: int | None
    own: bool = False

    @property
    def name(self) -> str:
        """Of its scope; of all its scopes where a selector is `*`."""
        return self.scope(self.selectors)

    def scope(self, names: Mapping[str, str]) -> str:
        """The scope's name for a call with these names."""
        window = str(self.window) if self.aligned else f"~{self.window}"
        if not self.own:
            return scope_name({key: names[key] for key in self.selectors}, window)
        model = f"{MODEL_SCOPE}{self.selectors['model']}"
        return model if window == "total" else f"{model}@{window}"

    def span(self, now_ms: int) -> Span:
        """The window that a first call at this moment (Unix ms) would begin or fall into."""
        return window_of(self.window, now_ms) if self.aligned else window_from(self.window, now_ms)

    def fits(self, names: Mapping[str, str]) -> bool:
        """Does a call with these names draw on it? One that names a model directly has no group."""
        return all(
            names[key] == wanted or (wanted == EACH and (names[key] != "" or key == "tenant"))
            for key, wanted in self.selectors.items()
        )

    def yields_to(self, other: Ceiling) -> bool:
        """Is `other` the same but for names where this one has `*`? Then it takes this one's place."""
        same = (self.window, self.aligned, self.selectors.keys()) == (
            other.window, other.aligned, other.selectors.keys(),
        )  # fmt: skip
        wanted = [(one, other.selectors.get(key)) for key, one in self.selectors.items()]
        return same and other is not self and all(one in (EACH, named) for one, named in wanted)


class Budgets:
    """The ceilings of the configuration, and what calls draw on now; time only ever goes forward here."""

    def __init__(self, config: Config) -> None:
        self._own = {model.name: _own_ceiling(model.name, model.routing) for model in config.models}
        self._groups = frozenset(config.groups)
        self._wide = tuple(_wide_ceiling(budget) for budget in config.budgets)
        self._matters = {key: any(key in one.selectors for one in self._wide) for key in KEYS}
        self._draws: dict[str | tuple[str, ...], Draw] = {}
        self._windows: dict[str, Span] = {}  # of scopes whose window the calendar alone does not tell
        self._strained: dict[
            tuple[str, int], None
        ] = {}  # rows past their `downgrade_ratio`, as the ledger said last
        self._now_ms = 0
        self.may_strain = any(one.ease_nano is not None for one in self.ceilings())

    def ceilings(self) -> Iterator[Ceiling]:
        """Every ceiling there is: those of models first."""
        yield from (one for one in self._own.values() if one is not None)
        yield from self._wide

    def draw(self, model: str, asked: str, workflow: str, tenant: str, now_ms: int) -> Draw:
        """What a call of `model` draws on for a job that asked for `asked`, a model or group. `now_ms` is Unix ms."""
        key: str | tuple[str, ...] = model
        if self._wide:
            key = self._key(model, asked, workflow, tenant)
        draw = self._draws.get(key)
        if draw is None or (draw.until_ms is not None and now_ms >= draw.until_ms):
            self._now_ms = max(self._now_ms, now_ms)
            group = asked if asked in self._groups else ""
            draw = self._draw_anew(
                model, {"model": model, "group": group, "workflow": workflow, "tenant": tenant}
            )
            _forget_oldest(self._draws)
            self._draws[key] = draw
        return draw

    def learn(self, other: OtherWindow) -> None:
        """The ledger knows another window of this scope."""
        _forget_oldest(self._windows)
        self._windows[other.name] = Span(other.start_ms, other.reset_ms)
        self._draws.clear()

    def note(self, scopes: Sequence[Scope], strained: Sequence[str]) -> None:
        """What a claim was told of its scopes: the names of those past their `downgrade_ratio`."""
        for scope in scopes:
            row = (scope.name, scope.window_start_ms)
            if scope.name in strained:
                _forget_oldest(self._strained)
                self._strained[row] = None
            elif row in self._strained:
                del self._strained[row]

    def strained(self, draw: Draw) -> bool:
        """Is one of its scopes past its `downgrade_ratio`, as far as this process was told?"""
        return any((scope.name, scope.window_start_ms) in self._strained for scope in draw.scopes)

    def _key(self, model: str, asked: str, workflow: str, tenant: str) -> tuple[str, ...]:
        """What makes a difference to the draw."""
        matters = self._matters
        return (
            model,
            asked if matters["group"] else "",
            workflow if matters["workflow"] else "",
            tenant if matters["tenant"] else "",
        )

    def _draw_anew(self, model: str, names: Mapping[str, str]) -> Draw:
        own = self._own[model]
        fitting = [one for one in self._wide if one.fits(names)]
        ceilings = [one for one in fitting if not any(one.yields_to(other) for other in fitting)]
        if own is not None:
            ceilings.insert(0, own)
        scopes = [self._scope(one, names) for one in ceilings]
        if own is None or own.name != f"{MODEL_SCOPE}{model}":  # what it has cost in all is always on record
            scopes.insert(0, Scope(f"{MODEL_SCOPE}{model}", 0))
        ends = [scope.reset_ms for scope in scopes if scope.reset_ms is not None]
        lowest = min((one.ceiling_nano for one in ceilings), default=None)
        return Draw(tuple(scopes), min(ends, default=None), lowest)

    def _scope(self, ceiling: Ceiling, names: Mapping[str, str]) -> Scope:
        name = ceiling.scope(names)
        span = self._span(name, ceiling)
        return Scope(
            name, span.start_ms, ceiling.ceiling_nano, span.reset_ms, ceiling.warn_nano, ceiling.ease_nano
        )

    def _span(self, name: str, ceiling: Ceiling) -> Span:
        """The window that runs now, as far as is known here: the ledger has the last word."""
        known = self._windows.get(name)
        if known is not None and known.reset_ms is not None and self._now_ms < known.reset_ms:
            return known
        span = ceiling.span(self._now_ms)
        if not ceiling.aligned:
            _forget_oldest(self._windows)
            self._windows[name] = span
        return span


def _own_ceiling(model: str, routing: RoutingConfig) -> Ceiling | None:
    if routing.spend_ceiling is None:
        return None
    return _ceiling({"model": model}, routing, to_nano(routing.spend_ceiling), own=True)


def _wide_ceiling(budget: BudgetConfig) -> Ceiling:
    named = {key: getattr(budget, key) for key in KEYS}
    selectors = {key: name for key, name in named.items() if name is not None}
    return _ceiling(selectors, budget, to_nano(budget.spend_ceiling), own=False)


def _ceiling(
    selectors: Mapping[str, str], limits: RoutingConfig | BudgetConfig, ceiling_nano: int, *, own: bool
) -> Ceiling:
    ratio = limits.downgrade_ratio
    return Ceiling(
        selectors=selectors,
        window=limits.spend_window,
        aligned=limits.calendar_aligned or limits.spend_window == SpendWindow(),
        ceiling_nano=ceiling_nano,
        warn_nano=round(ceiling_nano * limits.warning_ratio) if ceiling_nano else None,
        ease_nano=None if ratio is None else round(ceiling_nano * ratio),
        own=own,
    )


def _forget_oldest(memory: dict[KeyT, ValueT]) -> None:
    """Keep it bounded: what is still in use comes back with its next call."""
    if len(memory) >= REMEMBERED:
        for key in list(islice(memory, REMEMBERED // 4)):
            del memory[key]
