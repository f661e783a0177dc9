"""The circuit breaker: its diagram arrow by arrow, and against a reference model."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from tests.deep import deep
from theo_workers.breaker import LONGEST_FACTOR, Breaker, Closed, HalfOpen, Open, Permit, State, Verdict
from theo_workers.errors import CircuitOpen
from theo_workers.failure_rate import RateRule

SUCCESS, FAILURE, NEUTRAL = Verdict.SUCCESS, Verdict.FAILURE, Verdict.NEUTRAL


def call(breaker: Breaker, verdict: Verdict, now: float = 0.0, jitter: float = 0.5) -> State | None:
    return breaker.settle(breaker.admit(now), verdict, now, jitter)


def opened(*, threshold: int = 3, timeout_s: float = 60.0, now: float = 0.0) -> Breaker:
    breaker = Breaker(threshold=threshold, timeout_s=timeout_s)
    for _ in range(threshold):
        call(breaker, FAILURE, now)
    return breaker


def refusal(breaker: Breaker, now: float) -> CircuitOpen:
    with pytest.raises(CircuitOpen) as caught:
        breaker.admit(now)
    return caught.value


def test_opens_after_three_consecutive_failures_for_exactly_sixty_seconds() -> None:
    breaker = Breaker()
    assert [call(breaker, FAILURE, 10.0, jitter=0.99) for _ in range(3)] == [None, None, Open(70.0)]


@pytest.mark.parametrize(
    ("verdicts", "state"),
    [
        ([FAILURE, FAILURE], Closed(2)),
        ([FAILURE, FAILURE, SUCCESS], Closed(0)),
        ([FAILURE, FAILURE, SUCCESS, FAILURE, FAILURE], Closed(2)),
        ([FAILURE, FAILURE, NEUTRAL], Closed(2)),
        ([FAILURE, NEUTRAL, FAILURE, NEUTRAL, FAILURE], Open(60.0)),
        ([NEUTRAL] * 10, Closed(0)),
        ([FAILURE] * 3, Open(60.0)),
    ],
)
def test_counts_failures_in_a_row_and_overlooks_neutral_ones(verdicts: list[Verdict], state: State) -> None:
    breaker = Breaker()
    for verdict in verdicts:
        call(breaker, verdict)
    assert breaker.state == state


@pytest.mark.parametrize("threshold", [1, 2, 5])
def test_opens_exactly_at_the_threshold(threshold: int) -> None:
    breaker = Breaker(threshold=threshold)
    entered = [call(breaker, FAILURE) for _ in range(threshold)]
    assert entered == [None] * (threshold - 1) + [Open(60.0)]


@pytest.mark.parametrize(("now", "left_s"), [(0.0, 60.0), (12.5, 47.5), (59.9, 0.1)])
def test_a_refusal_tells_the_time_left_and_not_the_setting(now: float, left_s: float) -> None:
    assert refusal(opened(), now).retry_after_s == pytest.approx(left_s)


def test_is_half_open_at_the_very_end_of_the_opening() -> None:
    breaker = opened()
    assert breaker.peek(59.999) == Open(60.0)
    assert breaker.peek(60.0) == HalfOpen(1)
    assert breaker.admit(60.0).probe == HalfOpen(1, probing=True)


def test_peeking_changes_nothing() -> None:
    breaker = opened()
    before = breaker.state
    breaker.peek(1_000.0)
    assert breaker.state is before


def test_half_open_admits_one_probe_and_cannot_tell_others_how_long() -> None:
    breaker = opened()
    breaker.admit(60.0)
    assert refusal(breaker, 60.0).retry_after_s is None
    assert breaker.peek(60.0) == HalfOpen(1, probing=True)


def test_one_good_probe_closes() -> None:
    breaker = opened()
    assert call(breaker, SUCCESS, 60.0) == Closed()
    assert call(breaker, FAILURE, 60.0) is None
    assert breaker.state == Closed(1)


def test_an_abandoned_probe_makes_room_for_the_next_once() -> None:
    breaker = opened()
    first = breaker.admit(60.0)
    assert breaker.settle(first, NEUTRAL, 61.0, 0.5) is None
    second = breaker.admit(61.0)
    assert second.probe == HalfOpen(1, probing=True)
    breaker.settle(first, NEUTRAL, 62.0, 0.5)
    assert refusal(breaker, 62.0).retry_after_s is None, "the first permit is spent"
    assert breaker.settle(second, SUCCESS, 62.0, 0.5) == Closed()


@pytest.mark.parametrize("verdict", list(Verdict))
def test_a_call_from_before_the_opening_counts_for_nothing(verdict: Verdict) -> None:
    breaker = Breaker()
    early = breaker.admit(0.0)
    for _ in range(3):
        call(breaker, FAILURE)
    breaker.admit(60.0)
    assert breaker.settle(early, verdict, 60.0, 0.5) is None
    assert breaker.state == HalfOpen(1, probing=True)


@pytest.mark.parametrize(
    ("jitter", "share"), [(0.0, 0.8), (0.5, 1.0), (0.75, 1.1)], ids=["least", "middle", "more"]
)
def test_openings_after_failed_probes_double_up_to_the_cap_with_jitter(jitter: float, share: float) -> None:
    breaker, now = opened(), 60.0
    lengths = []
    for _ in range(6):
        call(breaker, FAILURE, now, jitter)
        assert isinstance(breaker.state, Open)
        lengths.append(breaker.state.until - now)
        now = breaker.state.until
    assert lengths == pytest.approx([60 * factor * share for factor in (2, 4, 8, 8, 8, 8)])


def test_the_first_opening_after_a_closing_is_short_again() -> None:
    breaker = opened()
    call(breaker, FAILURE, 60.0)
    call(breaker, SUCCESS, 180.0)
    for _ in range(3):
        call(breaker, FAILURE, 200.0)
    assert breaker.state == Open(260.0)


def test_a_model_that_is_down_for_weeks_still_has_a_finite_opening() -> None:
    breaker = Breaker()
    breaker.force_open(1.0, 0.0, openings=5_000)
    assert call(breaker, FAILURE, 1.0) == Open(1.0 + 60 * LONGEST_FACTOR, 5_001, "probe")


@pytest.mark.parametrize(
    ("prepare", "until", "state"),
    [
        (lambda b: None, 90.0, Open(90.0)),
        (lambda b: b.force_open(80.0, 0.0), 90.0, Open(90.0)),
        (lambda b: b.force_open(95.0, 0.0), 90.0, Open(95.0)),
        (lambda b: (b.force_open(5.0, 0.0), b.admit(10.0)), 90.0, Open(90.0)),
        (lambda b: (b.force_open(5.0, 0.0), b.admit(10.0)), 10.0, HalfOpen(1, probing=True)),
        (lambda b: None, 10.0, Open(10.0)),
    ],
    ids=["closed", "lengthens", "never shortens", "stops a probe", "too late for a probe", "over, yet known"],
)
def test_an_opening_from_elsewhere_is_taken_over(prepare: object, until: float, state: State) -> None:
    breaker = Breaker()
    prepare(breaker)  # type: ignore[operator]
    breaker.force_open(until, 10.0)
    assert breaker.state == state


def test_evidence_from_before_an_imposed_state_is_stale() -> None:
    breaker = Breaker(threshold=1)
    permit = breaker.admit(0.0)
    breaker.force_open(60.0, 0.0)
    breaker.force_close()
    assert breaker.settle(permit, FAILURE, 1.0, 0.5) is None
    assert breaker.state == Closed()


def test_a_closing_from_elsewhere_forgets_failures_and_openings() -> None:
    breaker = opened(threshold=2)
    breaker.force_close()
    assert call(breaker, FAILURE, 1.0) is None
    assert call(breaker, FAILURE, 1.0) == Open(61.0, 1)


@pytest.mark.parametrize(
    ("pattern", "opens_at"),
    [
        ("SFSFSFSFSF", 10),  # half of ten
        ("SFSFSFSFS", None),  # too few calls
        ("SSSSSSFSFSFSFSF", None),  # 5 of 15
        ("SSSSSFSFFFFF", 12),  # 6 of 12
        ("SNFNSNFNSNFNSNFNSNF", 19),  # neutral calls are not calls
    ],
)
def test_the_rate_rule_opens_at_half_of_at_least_ten(pattern: str, opens_at: int | None) -> None:
    breaker = Breaker(threshold=100, rate=RateRule(minimum_calls=10))
    seen = None
    for number, letter in enumerate(pattern, start=1):
        verdict = {"S": SUCCESS, "F": FAILURE, "N": NEUTRAL}[letter]
        if isinstance(call(breaker, verdict, 5.0), Open):
            seen = number
            break
    assert seen == opens_at


def test_without_settings_the_rate_rule_wants_half_of_twenty() -> None:
    breaker = Breaker(threshold=100, rate=RateRule())
    entered = [call(breaker, verdict, 5.0) for verdict in [SUCCESS, FAILURE] * 10]
    assert entered == [None] * 19 + [Open(65.0, reason="rate")]


@pytest.mark.parametrize(
    ("verdicts", "adaptive", "reason"),
    [
        ([FAILURE] * 3, False, "in_a_row"),
        ([SUCCESS, SUCCESS, FAILURE, FAILURE, SUCCESS, FAILURE], False, "rate"),
        ([FAILURE] * 3, True, "unusual"),
    ],
)
def test_an_opening_says_why(verdicts: list[Verdict], adaptive: bool, reason: str) -> None:
    breaker = Breaker(rate=RateRule(minimum_calls=6), adaptive=adaptive)
    for verdict in verdicts:
        call(breaker, verdict)
    assert breaker.state == Open(60.0, reason=reason)  # type: ignore[arg-type]
    call(breaker, FAILURE, 60.0)
    assert isinstance(breaker.state, Open)
    assert breaker.state.reason == "probe"


def test_an_adaptive_breaker_knows_that_some_failures_in_a_row_are_usual_for_this_model() -> None:
    breaker = Breaker(adaptive=True)
    assert breaker.drift is not None
    breaker.drift.recall(800, 200)
    for verdict in ([FAILURE] + [SUCCESS] * 4) * 60:  # one call in five
        assert call(breaker, verdict) is None
    run = [call(breaker, FAILURE) for _ in range(11)]
    assert run == [None] * 10 + [Open(60.0, reason="unusual")]


def test_an_adaptive_breaker_forgives_a_model_that_never_failed_less() -> None:
    breaker = Breaker(adaptive=True)
    for _ in range(1_000):
        call(breaker, SUCCESS)
    assert [call(breaker, FAILURE) for _ in range(2)] == [None, Open(60.0, reason="unusual")]


def test_an_adaptive_breaker_weighs_anew_after_a_closing() -> None:
    breaker = Breaker(adaptive=True)
    call(breaker, FAILURE)
    call(breaker, FAILURE)
    breaker.force_close()
    assert [call(breaker, FAILURE) for _ in range(3)] == [None, None, Open(60.0, reason="unusual")]


def test_the_rate_window_slides() -> None:
    breaker = Breaker(threshold=100, rate=RateRule(minimum_calls=10, window_s=60.0, buckets=10))
    for _ in range(9):
        call(breaker, FAILURE, 0.0)
    assert call(breaker, FAILURE, 60.0) is None, "the nine have left the window"
    for _ in range(8):
        call(breaker, FAILURE, 60.0)
    assert isinstance(call(breaker, FAILURE, 119.0), Open), "these have not"


def test_the_rate_window_is_empty_after_a_closing() -> None:
    breaker = Breaker(threshold=100, timeout_s=1.0, rate=RateRule(minimum_calls=2))
    call(breaker, FAILURE, 0.0)
    assert isinstance(call(breaker, FAILURE, 0.0), Open)
    call(breaker, SUCCESS, 1.0)
    assert call(breaker, FAILURE, 1.0) is None


@pytest.mark.parametrize("wrong", [{"threshold": 0}, {"timeout_s": 0.0}, {"timeout_s": -1.0}])
def test_settings_that_make_no_breaker_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be at least"):
        Breaker(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong", [{"ratio": 0.0}, {"ratio": 1.1}, {"minimum_calls": 0}, {"window_s": 0.0}, {"buckets": 0}]
)
def test_settings_that_make_no_rate_rule_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="not a rate rule"):
        RateRule(**wrong)  # type: ignore[arg-type]


RULE = RateRule(ratio=0.5, minimum_calls=5, window_s=100.0, buckets=10)


class AgainstAReference(RuleBasedStateMachine):
    """The reference keeps a set of the permits that still count, and no generations or state types.

    Of the window it keeps every call, with its moment rounded down to the slice of ten seconds that it is in.
    """

    permits: Bundle[Permit | None] = Bundle("permits")

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.breaker = Breaker(threshold=3, timeout_s=60.0, rate=RULE)
        self.ended: list[
            tuple[float, bool]
        ] = []  # calls since the last change: when, and whether they failed
        self.counting: list[Permit] = []  # by identity: equal permits are different calls
        self.live: dict[int, int] = {}  # id of permit -> number of calls that hold it
        self.failures = 0
        self.openings = 0
        self.blocked_until: float | None = None
        self.probe: Permit | None = None
        self.tried = False  # a probe has been admitted since the opening

    def change(self) -> None:
        self.live.clear()
        self.ended.clear()
        self.failures, self.probe, self.tried = 0, None, False

    def end(self, failed: bool) -> bool:
        """Keep an ended call; does the window break the rule with it?"""
        self.ended.append((self.now // 10, failed))
        recent = [failed for slice_, failed in self.ended if slice_ > self.now // 10 - 10]
        return failed and len(recent) >= 5 and 2 * sum(recent) >= len(recent)

    @rule(
        seconds=st.one_of(
            st.floats(min_value=0.01, max_value=20.0), st.floats(min_value=20.0, max_value=400.0)
        )
    )
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(target=permits)
    def admit(self) -> Permit | None:
        blocked = self.blocked_until is not None and (self.now < self.blocked_until or self.probe is not None)
        if blocked:
            assert self.blocked_until is not None
            left = refusal(self.breaker, self.now).retry_after_s
            if self.probe is not None:
                assert left is None
            else:
                assert left == pytest.approx(self.blocked_until - self.now)
            return None
        permit = self.breaker.admit(self.now)
        self.counting.append(permit)  # kept alive, so that its id stays its own
        if self.blocked_until is not None:
            self.live.clear()
            self.probe, self.tried = permit, True
        self.live[id(permit)] = self.live.get(id(permit), 0) + 1
        return permit

    @rule(
        permit=consumes(permits),
        verdict=st.sampled_from(Verdict),
        jitter=st.floats(min_value=0, max_value=1, exclude_max=True),
    )
    def settle(self, permit: Permit | None, verdict: Verdict, jitter: float) -> None:
        if permit is None:
            return
        entered = self.breaker.settle(permit, verdict, self.now, jitter)
        if not self.live.get(id(permit)):
            assert entered is None
            return
        self.live[id(permit)] -= 1
        if self.probe is permit:
            self.settle_probe(verdict, jitter, entered)
        elif verdict is SUCCESS:
            self.failures = 0
            self.end(False)
            assert entered is None
        elif verdict is FAILURE:
            self.failures += 1
            too_many = self.end(True)
            if self.failures == 3 or too_many:
                reason = "in_a_row" if self.failures == 3 else "rate"
                self.change()
                self.openings, self.blocked_until = 1, self.now + 60.0
                assert entered == Open(self.blocked_until, 1, reason)  # type: ignore[arg-type]
            else:
                assert entered is None

    def settle_probe(self, verdict: Verdict, jitter: float, entered: State | None) -> None:
        self.change()
        if verdict is SUCCESS:
            self.openings, self.blocked_until = 0, None
            assert entered == Closed()
        elif verdict is FAILURE:
            self.openings += 1
            assert isinstance(entered, Open)
            length_s = min(480.0, 60.0 * 2 ** (self.openings - 1))
            assert entered.until - self.now == pytest.approx(length_s * (0.8 + 0.4 * jitter))
            assert 0.8 * length_s <= entered.until - self.now + 1e-6
            assert entered.until - self.now <= 1.2 * length_s + 1e-6
            self.blocked_until = entered.until
        else:
            self.tried = True
            assert entered is None

    @rule(seconds=st.floats(min_value=-50.0, max_value=500.0))
    def hear_of_an_opening(self, seconds: float) -> None:
        until = self.now + seconds
        self.breaker.force_open(until, self.now)
        known = self.now if self.tried else self.blocked_until
        if known is not None and until <= known:
            return
        self.change()
        self.openings, self.blocked_until = 1, until

    @rule()
    def hear_of_a_closing(self) -> None:
        self.breaker.force_close()
        self.change()
        self.openings, self.blocked_until = 0, None

    @invariant()
    def peek_agrees(self) -> None:
        state = self.breaker.peek(self.now)
        if self.blocked_until is None:
            assert state == Closed(self.failures)
        elif self.probe is not None:
            assert state == HalfOpen(self.openings, probing=True)
        elif self.now < self.blocked_until:
            assert isinstance(state, Open)
            assert (state.until, state.openings) == (self.blocked_until, self.openings)
        else:
            assert state == HalfOpen(self.openings)


TestAgainstAReference = AgainstAReference.TestCase
TestAgainstAReference.settings = settings(max_examples=deep(200), stateful_step_count=50, deadline=None)
