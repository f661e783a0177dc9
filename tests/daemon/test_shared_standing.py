"""What a change makes of a model's row, without a database."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from theo_daemon.ledger.shared import (
    CLOCK_SLACK_MS,
    Change,
    CircuitClosed,
    CircuitOpened,
    FailureCounted,
    ModelDisabled,
    Ordered,
    PauseAsked,
    SharedStanding,
    after_change,
    as_probe,
    entry_order,
    owner_of,
    without_probe,
)

NOW = 1_000_000
GOOD = SharedStanding(model="fast", version=7, generation=3)
OPEN = structs.replace(GOOD, openings=1, open_until_ms=NOW + 60_000)
HALF_OPEN = structs.replace(GOOD, openings=1, open_until_ms=NOW - 1)
PROBED = structs.replace(HALF_OPEN, probe=99, probe_until_ms=NOW + 5_000)
PAUSED = structs.replace(GOOD, paused_until_ms=NOW + 5_000)
REFUSED = structs.replace(GOOD, disabled="authentication_failed", credential="k1")
STOPPED = structs.replace(GOOD, disabled="operator", order_id="5-0")


def opened(generation: int = 3, until_ms: int = NOW + 60_000, openings: int = 1) -> CircuitOpened:
    return CircuitOpened("fast", generation, until_ms, openings)


CHANGES = [
    pytest.param(GOOD, opened(), {"openings": 1, "open_until_ms": NOW + 60_000}, True, id="a circuit opens"),
    pytest.param(GOOD, opened(2), {}, False, id="evidence from before the last change"),
    pytest.param(
        PROBED,
        opened(openings=2),
        {"openings": 2, "open_until_ms": NOW + 60_000, "probe": 0, "probe_until_ms": 0},
        True,
        id="a failed probe",
    ),
    pytest.param(
        PROBED,
        CircuitClosed("fast", 3),
        {"openings": 0, "open_until_ms": 0, "probe": 0, "probe_until_ms": 0},
        True,
        id="a good probe",
    ),
    pytest.param(PROBED, CircuitClosed("fast", 2), {}, False, id="a probe whose right had lapsed"),
    pytest.param(GOOD, CircuitClosed("fast", 3), {}, False, id="closed it was already"),
    pytest.param(
        GOOD, PauseAsked("fast", NOW + 5_000), {"paused_until_ms": NOW + 5_000}, True, id="a pause begins"
    ),
    pytest.param(
        PAUSED, PauseAsked("fast", NOW + 9_000), {"paused_until_ms": NOW + 9_000}, False, id="made longer"
    ),
    pytest.param(PAUSED, PauseAsked("fast", NOW + 4_000), {}, False, id="never made shorter"),
    pytest.param(
        GOOD,
        ModelDisabled("fast", "authentication_failed", "k1"),
        {"disabled": "authentication_failed", "credential": "k1"},
        True,
        id="a credential is refused",
    ),
    pytest.param(REFUSED, ModelDisabled("fast", "x", "k1"), {}, False, id="refused before"),
    pytest.param(
        REFUSED,
        ModelDisabled("fast", "x", "k2"),
        {"disabled": "x", "credential": "k2"},
        True,
        id="another one is refused too",
    ),
    pytest.param(STOPPED, ModelDisabled("fast", "x", "k1"), {}, False, id="an operator's word stands"),
    pytest.param(
        GOOD,
        Ordered("fast", "5-0", disable=True),
        {"disabled": "operator", "order_id": "5-0"},
        True,
        id="an operator disables",
    ),
    pytest.param(
        STOPPED,
        Ordered("fast", "5-1", disable=False),
        {"disabled": None, "order_id": "5-1"},
        True,
        id="an operator enables",
    ),
    pytest.param(STOPPED, Ordered("fast", "5-0", disable=False), {}, False, id="a command read before"),
    pytest.param(STOPPED, Ordered("fast", "4-9", disable=False), {}, False, id="an earlier command"),
    pytest.param(
        structs.replace(OPEN, paused_until_ms=NOW + 1, probe=9, probe_until_ms=NOW + 1),
        Ordered("fast", "9-0", disable=False),
        {
            "openings": 0,
            "open_until_ms": 0,
            "paused_until_ms": 0,
            "probe": 0,
            "probe_until_ms": 0,
            "order_id": "9-0",
        },
        True,
        id="a reset clears everything",
    ),
    pytest.param(
        GOOD, Ordered("fast", "9-0", disable=False), {"order_id": "9-0"}, False, id="nothing was to be reset"
    ),
]

CIRCUIT = CircuitOpened | CircuitClosed


@pytest.mark.parametrize(("known", "change", "fields", "news"), CHANGES)
def test_a_change_makes_the_row(
    known: SharedStanding, change: Change, fields: dict[str, object], news: bool
) -> None:
    row, told = after_change(known, change, NOW)
    assert told is news
    if not fields:
        assert row is known
        return
    circuit = isinstance(change, CIRCUIT) or (isinstance(change, Ordered) and not change.disable)
    expected = {**fields, "version": known.version + 1, "generation": known.generation + circuit}
    if isinstance(change, CircuitOpened | PauseAsked):
        expected["dated_ms"] = NOW
    assert row == structs.replace(known, **expected)


def counted(row: SharedStanding, *, successes: int = 0, generation: int = 3) -> tuple[SharedStanding, bool]:
    failure = FailureCounted("fast", generation, threshold=3, until_ms=NOW + 60_000)
    return after_change(row, failure, NOW, successes=successes)


def test_the_last_of_three_failures_in_a_row_opens_the_circuit_whoever_met_them() -> None:
    row, news = GOOD, False
    for failures in (1, 2):
        row, news = counted(row, successes=8)
        assert (row.failures, row.version, row.generation, news) == (failures, 7, 3, False)
    row, news = counted(row, successes=8)
    assert (row.openings, row.open_until_ms, row.generation, row.version) == (1, NOW + 60_000, 4, 8)
    assert (row.failures, row.dated_ms, news) == (0, NOW, True)


def test_an_answer_from_any_process_ends_the_row_of_failures() -> None:
    row, _ = counted(GOOD, successes=8)
    row, _ = counted(row, successes=8)
    row, news = counted(row, successes=9)
    assert (row.failures, row.openings, news) == (1, 0, False)


@pytest.mark.parametrize(
    ("row", "generation"),
    [
        pytest.param(GOOD, 2, id="of a call from before the last change"),
        pytest.param(OPEN, 3, id="of a circuit that is open"),
    ],
)
def test_a_stale_failure_counts_for_nothing(row: SharedStanding, generation: int) -> None:
    assert counted(structs.replace(row, failures=2), generation=generation)[1] is False
    assert counted(row, generation=generation)[0] is row


def test_a_closing_forgets_the_failures_before_it() -> None:
    row, _ = after_change(structs.replace(PROBED, failures=2), CircuitClosed("fast", 3), NOW)
    assert row.failures == 0


def test_the_end_of_an_opening_gives_one_attempt_the_right_to_probe() -> None:
    row = as_probe(HALF_OPEN, 42, until_ms=NOW + 9, now_ms=NOW)
    assert row is not None
    assert (row.probe, row.probe_until_ms, row.generation) == (42, NOW + 9, HALF_OPEN.generation + 1)
    assert as_probe(row, 43, until_ms=NOW + 9, now_ms=NOW) is None


@pytest.mark.parametrize("known", [OPEN, PROBED, PAUSED], ids=["open", "probed", "paused"])
def test_there_is_no_right_to_probe_now(known: SharedStanding) -> None:
    assert as_probe(known, 42, until_ms=NOW + 9, now_ms=NOW) is None


def test_a_closed_circuit_needs_no_probe() -> None:
    assert as_probe(GOOD, 42, until_ms=NOW + 9, now_ms=NOW) is GOOD


def test_a_right_that_lapsed_is_anothers_and_what_the_first_found_counts_no_more() -> None:
    row = as_probe(PROBED, 42, until_ms=NOW + 90_000, now_ms=NOW + 5_000)
    assert row is not None
    assert row.probe == 42
    assert after_change(row, CircuitClosed("fast", PROBED.generation), NOW) == (row, False)


def test_a_probe_without_a_verdict_makes_room_and_dates_no_evidence() -> None:
    row = without_probe(PROBED)
    assert (row.probe, row.generation, row.version) == (0, PROBED.generation, PROBED.version + 1)
    assert as_probe(row, 42, until_ms=NOW + 9, now_ms=NOW) is not None


JUMP_MS = 600_000


@pytest.mark.parametrize(
    "known",
    [OPEN, PROBED, structs.replace(PROBED, paused_until_ms=NOW + 5_000)],
    ids=["open", "probed", "paused"],
)
def test_a_clock_set_back_closes_no_model_for_as_long(known: SharedStanding) -> None:
    dated = structs.replace(known, dated_ms=NOW)
    assert as_probe(dated, 42, until_ms=NOW + 9, now_ms=NOW - CLOCK_SLACK_MS) is None, (
        "corrected, not set back"
    )
    then = NOW - JUMP_MS
    row = as_probe(dated, 42, until_ms=then + 9, now_ms=then)
    assert row is not None
    assert (row.probe, row.dated_ms) == (42, then)
    assert as_probe(row, 43, until_ms=NOW, now_ms=then + 8) is None, "still one at a time"
    assert as_probe(without_probe(row), 43, until_ms=NOW, now_ms=then + 8) is not None


def test_a_pause_asked_for_after_the_clock_was_set_back_counts() -> None:
    paused = structs.replace(PAUSED, dated_ms=NOW)
    until_ms = NOW - JUMP_MS + 5_000
    row, news = after_change(paused, PauseAsked("fast", until_ms), NOW - JUMP_MS)
    assert (row.paused_until_ms, row.dated_ms, news) == (until_ms, NOW - JUMP_MS, True)


def test_an_attempt_names_its_owner() -> None:
    assert owner_of(5 << 40 | 123) == 5
    assert owner_of(0) == 0


@pytest.mark.parametrize(
    ("earlier", "later"), [("0-0", "1-0"), ("9-0", "10-0"), ("5-9", "5-10"), ("5", "5-1")]
)
def test_commands_are_in_the_order_of_their_entries(earlier: str, later: str) -> None:
    assert entry_order(earlier) < entry_order(later)


TIMES = st.integers(NOW - 10_000, NOW + 10_000)
ANY_CHANGE = st.one_of(
    st.builds(CircuitOpened, st.just("fast"), st.integers(0, 4), TIMES, st.integers(1, 3)),
    st.builds(CircuitClosed, st.just("fast"), st.integers(0, 4)),
    st.builds(PauseAsked, st.just("fast"), TIMES),
    st.builds(ModelDisabled, st.just("fast"), st.just("x"), st.sampled_from(["k1", "k2"])),
    st.builds(Ordered, st.just("fast"), st.integers(1, 9).map("{}-0".format), st.booleans()),
)


@given(st.lists(ANY_CHANGE, max_size=20))
def test_rows_only_grow_newer_and_pauses_end_early_for_operators_only(changes: list[Change]) -> None:
    row = SharedStanding(model="fast")
    for change in changes:
        after, news = after_change(row, change, NOW)
        assert (after is row) or after.version == row.version + 1
        assert after.generation >= row.generation
        assert news is False or after is not row
        if not isinstance(change, Ordered):
            assert after.paused_until_ms >= row.paused_until_ms
        row = after
