"""Ceilings over several scopes and windows, kept by several owners that may die: the books against a plain model."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec import Struct

from tests.deep import deep
from tests.fakes import MemoryBooks
from theo_daemon.budgets import Budgets, Draw
from theo_daemon.config import BudgetConfig, Config, ModelConfig, RoutingConfig
from theo_daemon.job import EntryRef
from theo_daemon.ledger.operations import Operation
from theo_daemon.ledger.records import (
    Ask,
    Bury,
    CeilingEased,
    CeilingNear,
    CeilingReached,
    Granted,
    Landing,
    OtherWindow,
    OverBudget,
    Scope,
    Settled,
    Verdict,
    Want,
)
from theo_daemon.ledger.sqlite import owners
from theo_daemon.ledger.sqlite.commit import Committer
from theo_daemon.spend_window import parse_window

NANO = 1_000_000_000
HOUR_MS = 3_600_000
Row = tuple[str, int]


def _budget(ceiling: int, window: str, **fields: Any) -> BudgetConfig:
    return BudgetConfig(spend_ceiling=ceiling, spend_window=parse_window(window), **fields)


CONFIG = Config(
    models=tuple(
        ModelConfig(
            name=name,
            provider="scripted",
            model=name,
            routing=RoutingConfig(spend_ceiling=ceiling, spend_window=parse_window(window)),
        )
        for name, ceiling, window in (("fast", 40, "total"), ("slow", 25, "1h"))
    ),
    groups={"chat": ("fast", "slow")},
    budgets=(
        _budget(12, "1h", tenant="*", calendar_aligned=False, downgrade_ratio=0.4),
        _budget(20, "1d", tenant="a", warning_ratio=0.5),
        _budget(15, "2h", group="chat"),
        _budget(9, "1h", tenant="*", model="*"),
        _budget(60, "1mo"),
    ),
)


class Process:
    """One owner: its view of the windows, and its part of the books."""

    def __init__(self, books: MemoryBooks, name: str, now_ms: int) -> None:
        self.db = books.connect()
        self.id = owners.register(self.db, name, now_ms)
        self.committer = Committer(self.db, self.id, id_ttl_ms=86_400_000)
        self.budgets = Budgets(CONFIG)
        self.clock_ms = 0  # how far its clock is off


class Sent(Struct):
    """A call on its way, or lost with its process."""

    process: Process
    want: Want


class BudgetMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.books = MemoryBooks()
        self.now_ms = 1_700_000_000_000
        self.number = 0
        self.processes = [Process(self.books, f"p{n}", self.now_ms) for n in range(3)]
        self.spent: dict[Row, int] = {}
        self.held: dict[Row, int] = {}
        self.scopes: dict[Row, Scope] = {}
        self.latest: dict[str, tuple[int, int]] = {}  # by scope: its last window
        self.open: list[Sent] = []
        self.lost: list[Sent] = []
        self.told: set[tuple[type, Row]] = set()

    # -- what happens ----------------------------------------------------------------------------------

    @rule(
        at=st.integers(0, 2),
        jobs=st.lists(
            st.tuples(
                st.sampled_from(["fast", "slow"]), st.sampled_from(["chat", "fast"]), st.sampled_from(["a", "b", ""]),
                st.integers(0, 6),
            ),
            min_size=1, max_size=6,
        ),
    )  # fmt: skip
    def claim(self, at: int, jobs: list[tuple[str, str, str, int]]) -> None:
        """A batch of calls of one process; those that were told of another window ask again."""
        process = self.processes[at]
        for _ in range(20):
            wants = [self._want(process, *job) for job in jobs]
            verdicts = self._ask(process, wants)
            again = []
            for job, want, verdict in zip(jobs, wants, verdicts, strict=True):
                match verdict:
                    case Granted():
                        self._granted(want)
                        self.open.append(Sent(process, want))
                    case OtherWindow():
                        process.budgets.learn(verdict)
                        again.append(job)
                    case OverBudget():
                        self._check_refusal(want, verdict)
                    case _:
                        raise AssertionError(verdict)
            jobs = again
            if not jobs:
                return
        raise AssertionError("a process never learns which window runs")

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, 99), part=st.floats(0, 1))
    def settle(self, which: int, part: float) -> None:
        call = self.open.pop(which % len(self.open))
        self._book(call, cost=round(bound(call.want) * part), held=bound(call.want))

    @rule(at=st.integers(0, 2), by=st.integers(1, 2))
    def die(self, at: int, by: int) -> None:
        """A process dies and another buries it: all that it had sent is charged at its bound."""
        dead, heir = self.processes[at], self.processes[(at + by) % 3]
        self._apply(heir, [Bury(dead.id)])
        self.number += 1
        self.processes[at] = Process(self.books, f"q{self.number}", self.now_ms)
        for call in [call for call in self.open if call.process is dead]:
            self.open.remove(call)
            self.lost.append(call)
            self._note(call.want, spent=bound(call.want), held=-bound(call.want))

    @precondition(lambda self: self.lost)
    @rule(which=st.integers(0, 99), part=st.floats(0, 1))
    def come_back(self, which: int, part: float) -> None:
        """It only seemed dead: what its call really cost replaces the charge."""
        call = self.lost.pop(which % len(self.lost))
        self._book(call, cost=round(bound(call.want) * part), held=0, charged=bound(call.want))

    @rule(hours=st.integers(0, 30), minutes=st.integers(0, 59))
    def later(self, hours: int, minutes: int) -> None:
        self.now_ms += hours * HOUR_MS + minutes * 60_000

    @rule(at=st.integers(0, 2), minutes=st.integers(-180, 180))
    def set_a_clock(self, at: int, minutes: int) -> None:
        self.processes[at].clock_ms = minutes * 60_000

    # -- what must hold --------------------------------------------------------------------------------

    @invariant()
    def books_are_those_of_the_model(self) -> None:
        rows = self.books.rows("SELECT scope, window_start, spent_nano, held_nano FROM spend")
        found = {(scope, start): (spent, held) for scope, start, spent, held in rows}
        wanted = {row: (self.spent[row], self.held[row]) for row in self.spent}
        assert {row: sums for row, sums in found.items() if any(sums)} == {
            row: sums for row, sums in wanted.items() if any(sums)
        }

    @invariant()
    def no_ceiling_is_passed(self) -> None:
        for row, scope in self.scopes.items():
            if scope.ceiling_nano is not None:
                assert self.spent[row] + self.held[row] <= scope.ceiling_nano, row
            assert self.held[row] >= 0, row

    def teardown(self) -> None:
        if hasattr(self, "books"):
            self.books.close()

    # -- parts -----------------------------------------------------------------------------------------

    def _draw(self, process: Process, model: str, asked: str, tenant: str) -> Draw:
        return process.budgets.draw(model, asked, "w", tenant, self.now_ms + process.clock_ms)

    def _want(self, process: Process, model: str, asked: str, tenant: str, dollars: int) -> Want:
        self.number += 1
        scopes = self._draw(process, model, asked, tenant).scopes
        return Want(process.id << 40 | self.number, model, "scripted", dollars * NANO, scopes)

    def _ask(self, process: Process, wants: list[Want]) -> list[Verdict | None]:
        return self._apply(
            process,
            [
                Ask(
                    ref=EntryRef("s", f"{one.attempt_id}-0"),
                    key=f"k{one.attempt_id}",
                    cache_key=None,
                    digest="",
                    want=one,
                )
                for one in wants
            ],
        )

    def _book(self, call: Sent, *, cost: int, held: int, charged: int = 0) -> None:
        want = call.want
        settled = Settled(
            attempt_id=want.attempt_id, model=want.model, state="ok", bound_nano=want.bound_nano, cost_nano=cost,
            scopes=want.scopes, latency_ms=1.0,
        )  # fmt: skip
        self._apply(call.process, [Landing(settled=settled, release_key=f"k{want.attempt_id}")])
        self._note(want, spent=cost - charged, held=-held)

    def _apply(self, process: Process, operations: list[Operation]) -> list[Verdict | None]:
        process.db.execute("BEGIN IMMEDIATE")
        answers = process.committer.apply(operations, self.now_ms)
        process.db.execute("COMMIT")
        self._hear(process)
        return answers

    def _note(self, want: Want, *, spent: int, held: int) -> None:
        for scope in want.scopes:
            row = _row(scope)
            self.spent[row] = self.spent.get(row, 0) + spent
            self.held[row] = self.held.get(row, 0) + held

    def _hear(self, process: Process) -> None:
        """Each piece of news is told once for a window, by whichever process."""
        for news in process.committer.news:
            if isinstance(news, CeilingNear | CeilingEased | CeilingReached):
                told = (type(news), _row(news.scope))
                assert told not in self.told
                self.told.add(told)

    def _granted(self, want: Want) -> None:
        self._note(want, spent=0, held=bound(want))
        for scope in want.scopes:
            start_ms, reset_ms = self.latest.get(scope.name, (0, 0))
            assert scope.window_start_ms in (start_ms, max(scope.window_start_ms, reset_ms)), (
                "windows overlap"
            )
            if want.bound_nano:
                self.latest[scope.name] = (scope.window_start_ms, scope.reset_ms or 0)
            self.scopes[_row(scope)] = scope

    def _check_refusal(self, want: Want, verdict: OverBudget) -> None:
        """Refused for good only for what is spent; told to wait only where nothing but holds is in the way."""
        most = bound(want)
        short = {
            scope.name: self.spent.get(_row(scope), 0) + most > (scope.ceiling_nano or 0)
            for scope in want.scopes
            if scope.ceiling_nano is not None
            and self.spent.get(_row(scope), 0) + self.held.get(_row(scope), 0) + most > scope.ceiling_nano
        }
        assert verdict.scope.name in short
        assert verdict.by_holds is not any(short.values())
        assert short[verdict.scope.name] is not verdict.by_holds


def bound(want: Want) -> int:
    return want.bound_nano or 0


def _row(scope: Scope) -> Row:
    return scope.name, scope.window_start_ms


TestBudgets = BudgetMachine.TestCase
TestBudgets.settings = settings(max_examples=deep(40), stateful_step_count=40, deadline=None)
