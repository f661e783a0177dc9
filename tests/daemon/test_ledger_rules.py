"""The ledger's decisions, without a database."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from theo_daemon.job import EntryRef
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
    Replay,
    Scope,
    Verdict,
    Want,
)  # fmt: skip
from theo_daemon.ledger.rules import Balance, KeptAnswer, Known, Remembered, decide, eases, near_ceiling

ME, PEER = 1, 2


def ref(number: int) -> EntryRef:
    return EntryRef("theo:jobs", f"{number}-0")


def want(bound: int | None = 10, ceiling: int | None = None, number: int = 1) -> Want:
    return Want(number, "fast", "openai", bound, (Scope("model:fast", 0, ceiling),))


def ask(number: int = 1, key: str = "k", **fields: object) -> Ask:
    return Ask(ref=ref(number), key=key, cache_key=key, digest=key, **{"want": want(), **fields})  # type: ignore[arg-type]


def answer(known: Known, *asks: Ask | Check) -> list[Verdict]:
    return decide(asks, known, owner=ME)[0]


def test_a_clear_way_is_claimed() -> None:
    verdicts, claims = decide([ask()], Known(), owner=ME)
    assert verdicts == [Granted()]
    assert len(claims.holders) == len(claims.attempts) == 1
    assert claims.held == {("model:fast", 0): 10}


def test_without_a_slot_the_ledger_only_looks() -> None:
    verdicts, claims = decide([ask(want=None)], Known(), owner=ME)
    assert verdicts == [Clear()]
    assert not claims.holders
    assert not claims.attempts


def test_of_two_asks_for_one_key_in_a_batch_one_is_granted() -> None:
    assert answer(Known(), ask(1), ask(2)) == [Granted(), Busy()]


def test_a_key_in_flight_elsewhere_is_waited_for() -> None:
    assert answer(Known(holders={"k": PEER}), ask()) == [Busy()]


def test_a_fresh_answer_is_a_hit_and_a_stale_one_is_not() -> None:
    known = Known(now_ms=100, answers={"k": KeptAnswer(b"{}", 50, 101)})
    assert answer(known, ask()) == [Hit(b"{}")]
    known = Known(now_ms=101, answers={"k": KeptAnswer(b"{}", 50, 101)})
    assert answer(known, ask()) == [Granted()]


def test_who_waited_for_an_answer_gets_it_even_when_it_is_not_kept_for_others() -> None:
    known = Known(now_ms=100, answers={"k": KeptAnswer(b"{}", 50, 50)})
    assert answer(known, ask(waited_since_ms=50)) == [Hit(b"{}")]
    assert answer(known, ask(waited_since_ms=51)) == [Granted()]


def test_the_next_attempt_of_a_flight_does_not_wait_for_itself() -> None:
    known = Known(holders={"k": ME})
    assert answer(known, ask(holding=True)) == [Granted()]
    assert answer(Known(holders={"k": ME}), ask()) == [Busy()]


def test_an_entry_s_own_outcome_is_published_again() -> None:
    assert answer(Known(outcomes={ref(1): b"o"}), ask()) == [Replay(b"o", own=True)]


def test_a_repeated_id_gets_the_first_outcome_waits_for_it_or_is_a_conflict() -> None:
    first = Remembered(digest="k", ref=ref(7), outcome=None)
    assert answer(Known(ids={("", "i"): first}), ask(client_id="i")) == [IdBusy(ref(7))]
    done = Remembered(digest="k", ref=ref(7), outcome=b"o")
    assert answer(Known(ids={("", "i"): done}), ask(client_id="i")) == [Replay(b"o", own=False)]
    other = Remembered(digest="other", ref=ref(7), outcome=None)
    assert answer(Known(ids={("", "i"): other}), ask(client_id="i")) == [Conflict()]
    assert answer(Known(ids={("t", "i"): other}), ask(client_id="i")) == [Granted()]


def test_an_id_is_taken_by_the_first_push_of_a_batch() -> None:
    verdicts, claims = decide([ask(1, client_id="i"), ask(2, "other", client_id="i")], Known(), owner=ME)
    assert verdicts == [Granted(), Conflict()]
    assert [one.ref for one in claims.ids] == [ref(1)]


def test_joining_a_flight_takes_the_id_too() -> None:
    verdicts, claims = decide([Check(ref=ref(3), digest="k", client_id="i")], Known(), owner=ME)
    assert verdicts == [Clear()]
    assert len(claims.ids) == 1


def test_a_call_that_does_not_fit_claims_nothing() -> None:
    known = Known(balances={("model:fast", 0): Balance(spent_nano=95)})
    verdicts, claims = decide([ask(want=want(10, ceiling=100))], known, owner=ME)
    assert verdicts == [
        OverBudget(Scope("model:fast", 0, 100), spent_nano=95, held_nano=0, bound_nano=10, by_holds=False)
    ]
    assert not claims.holders
    assert not claims.held
    assert not known.holders


def test_what_is_only_held_may_come_back() -> None:
    known = Known(balances={("model:fast", 0): Balance(spent_nano=10, held_nano=85)})
    (verdict,) = answer(known, ask(want=want(10, ceiling=100)))
    assert isinstance(verdict, OverBudget)
    assert verdict.by_holds


def test_a_ceiling_of_nothing_forbids_even_what_is_free() -> None:
    (verdict,) = answer(Known(), ask(want=want(0, ceiling=0)))
    assert isinstance(verdict, OverBudget)
    assert not verdict.by_holds


def test_an_unknown_price_under_a_ceiling_is_refused() -> None:
    (verdict,) = answer(Known(), ask(want=want(None, ceiling=100)))
    assert isinstance(verdict, OverBudget)
    assert not verdict.by_holds


def test_a_ceiling_that_refuses_is_told_once_for_its_window() -> None:
    known = Known(balances={("model:fast", 0): Balance(spent_nano=95)})
    _, claims = decide([ask(n, f"k{n}", want=want(10, ceiling=100)) for n in range(3)], known, owner=ME)
    assert claims.reached == [CeilingReached(Scope("model:fast", 0, 100), 95)]
    told = Known(balances={("model:fast", 0): Balance(spent_nano=95, exhausted=True)})
    assert decide([ask(want=want(10, ceiling=100))], told, owner=ME)[1].reached == []


@pytest.mark.parametrize(
    ("spent", "held", "bound"), [(10, 85, 10), (95, 0, None)], ids=["only held", "price unknown"]
)
def test_a_call_that_is_refused_for_another_reason_is_no_news(
    spent: int, held: int, bound: int | None
) -> None:
    known = Known(balances={("model:fast", 0): Balance(spent_nano=spent, held_nano=held)})
    verdicts, claims = decide([ask(want=want(bound, ceiling=100))], known, owner=ME)
    assert isinstance(verdicts[0], OverBudget)
    assert claims.reached == []


def drawing(*scopes: Scope, bound: int | None = 10, number: int = 1) -> Want:
    return Want(number, "fast", "openai", bound, scopes)


def test_a_call_is_held_in_every_scope_or_in_none() -> None:
    acme, everybody = Scope("tenant=acme@total", 0, 100), Scope("all@total", 0, 15)
    asks = [ask(n, f"k{n}", want=drawing(acme, everybody, number=n)) for n in (1, 2)]
    verdicts, claims = decide(asks, Known(), owner=ME)
    assert [type(verdict) for verdict in verdicts] == [Granted, OverBudget]
    assert claims.held == {("tenant=acme@total", 0): 10, ("all@total", 0): 10}


FULL, HELD = Balance(spent_nano=95), Balance(held_nano=95)


@pytest.mark.parametrize(
    ("balances", "refused_by", "by_holds"),
    [
        pytest.param(
            {"a": HELD, "b": FULL}, "b", False, id="what is spent refuses, whatever is held elsewhere"
        ),
        pytest.param({"b": FULL, "c": HELD}, "b", False, id="in any order"),
        pytest.param({"a": HELD, "c": HELD}, "a", True, id="only held everywhere"),
        pytest.param({"a": FULL, "b": FULL}, "b", False, id="of several the one that resets last"),
        pytest.param({"b": FULL, "c": FULL}, "c", False, id="never is the last"),
    ],
)
def test_of_several_budgets_in_the_way_the_last_to_make_room_is_named(
    balances: dict[str, Balance], refused_by: str, by_holds: bool
) -> None:
    scopes = (Scope("a", 1, 100, 50), Scope("b", 1, 100, 60), Scope("c", 0, 100))
    starts = {scope.name: scope.window_start_ms for scope in scopes}
    known = Known(
        balances={(name, starts[name]): structs.replace(balance) for name, balance in balances.items()},
        newest={"a": (1, 50), "b": (1, 60)},
    )
    verdicts, claims = decide([ask(want=drawing(*scopes))], known, owner=ME)
    (verdict,) = verdicts
    assert isinstance(verdict, OverBudget)
    assert (verdict.scope.name, verdict.by_holds) == (refused_by, by_holds)
    assert {one.scope.name for one in claims.reached} == {n for n, one in balances.items() if one is FULL}


@pytest.mark.parametrize(
    ("newest", "asked", "other"),
    [
        pytest.param(None, (50, 60), None, id="the first window"),
        pytest.param((50, 60), (50, 60), None, id="the window that runs"),
        pytest.param((40, 50), (50, 60), None, id="the next one"),
        pytest.param((10, 20), (50, 60), None, id="a later one"),
        pytest.param((45, 55), (50, 60), (45, 55), id="another process began one"),
        pytest.param((50, 60), (40, 50), (50, 60), id="a clock went back"),
        pytest.param((50, 60), (55, 65), (50, 60), id="one runs still"),
        pytest.param((50, 60), (59, 69), (50, 60), id="to its last moment"),
    ],
)
def test_windows_of_one_scope_never_overlap_and_never_go_back(
    newest: tuple[int, int] | None, asked: tuple[int, int], other: tuple[int, int] | None
) -> None:
    known = Known(newest={} if newest is None else {"t": newest})
    verdicts, claims = decide([ask(want=drawing(Scope("t", asked[0], 100, asked[1])))], known, owner=ME)
    if other is None:
        assert verdicts == [Granted()]
        assert claims.held == {("t", asked[0]): 10}
    else:
        assert verdicts == [OtherWindow("t", *other)]
        assert not claims.held
        assert not claims.holders


def test_of_two_that_would_begin_a_window_in_one_batch_the_first_does() -> None:
    asks = [ask(n, f"k{n}", want=drawing(Scope("t", n, 100, n + 50), number=n)) for n in (3, 7)]
    assert answer(Known(), *asks) == [Granted(), OtherWindow("t", 3, 53)]


def test_a_claim_is_told_which_of_its_scopes_are_under_pressure() -> None:
    scopes = (Scope("a", 0, 100, ease_nano=50), Scope("b", 0, 100, ease_nano=50), Scope("c", 0, 100))
    balances = {
        ("a", 0): Balance(spent_nano=50),
        ("b", 0): Balance(spent_nano=49),
        ("c", 0): Balance(spent_nano=80),
    }
    (verdict,) = answer(Known(balances=balances), ask(want=drawing(*scopes)))
    assert verdict == Granted(strained=("a",))


@pytest.mark.parametrize(
    ("balance", "ease_nano", "news"),
    [
        (Balance(spent_nano=70), 70, True),
        (Balance(spent_nano=69, held_nano=30), 70, False),
        (Balance(spent_nano=70, eased=True), 70, False),
        (Balance(spent_nano=70), None, False),
        (Balance(), 0, True),
    ],
)
def test_pressure_is_told_once_for_a_window(balance: Balance, ease_nano: int | None, news: bool) -> None:
    assert eases(Scope("a", 0, 100, ease_nano=ease_nano), balance) is news


@pytest.mark.parametrize(
    ("balance", "warn_nano", "near"),
    [
        (Balance(spent_nano=79), 80, False),
        (Balance(spent_nano=80), 80, True),
        (Balance(spent_nano=500), 80, True),
        (Balance(spent_nano=80, warned=True), 80, False),
        (Balance(spent_nano=10, held_nano=90), 80, False),
        (Balance(spent_nano=80), None, False),
    ],
)
def test_a_ceiling_is_near_once_enough_is_settled(
    balance: Balance, warn_nano: int | None, near: bool
) -> None:
    assert near_ceiling(Scope("model:fast", 0, 100, warn_nano=warn_nano), balance) is near


@given(st.lists(st.integers(0, 40), max_size=40), st.integers(0, 200), st.integers(0, 100))
def test_a_batch_never_holds_more_than_the_ceiling_leaves(
    bounds: list[int], ceiling: int, spent: int
) -> None:
    known = Known(balances={("model:fast", 0): Balance(spent_nano=spent)})
    asks = [ask(n, f"k{n}", want=want(bound, ceiling, n)) for n, bound in enumerate(bounds)]
    verdicts, claims = decide(asks, known, owner=ME)
    held = claims.held.get(("model:fast", 0), 0)
    granted = sum(
        bound for bound, verdict in zip(bounds, verdicts, strict=True) if isinstance(verdict, Granted)
    )
    assert held == granted
    assert spent + held <= ceiling or held == 0
