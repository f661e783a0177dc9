"""What follows a failed attempt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theo_daemon.retry import GiveUp, Limits, Tried, TryOneOf, after_failure
from theo_workers.failures import CONSEQUENCES, FailureClass, NextStep

RETRYABLE = {
    *(FailureClass.NEVER_SENT, FailureClass.OWN, FailureClass.RATE_LIMITED, FailureClass.SERVER),
    FailureClass.MAYBE,
}


def tried(model: str, failure: FailureClass, retry_after_s: float | None = None) -> Tried:
    return Tried(model, failure, failure in RETRYABLE, retry_after_s)


def decide(
    *history: Tried, candidates: str = "a", max_attempts: int = 4, on_unknown: str = "retry",
    away: str = "", unpaid: str = "",
) -> object:  # fmt: skip
    """With all candidates available but those that are `away`."""
    limits = Limits(max_attempts=max_attempts, max_wait_s=30.0, on_unknown=on_unknown)  # type: ignore[arg-type]
    available = set(candidates) - set(away)
    return after_failure(
        history, list(candidates), available=available, unpaid=unpaid, limits=limits, jitter=0.5
    )


@pytest.mark.parametrize("failure", list(FailureClass))
def test_a_candidate_not_tried_yet_is_always_tried_unless_the_request_itself_is_refused(
    failure: FailureClass,
) -> None:
    step = decide(tried("a", failure), candidates="ab", max_attempts=1)
    assert step == (GiveUp() if failure is FailureClass.CALLER else TryOneOf(("b",)))


@pytest.mark.parametrize(
    ("failure", "again"),
    [
        (FailureClass.SERVER, True),
        (FailureClass.NEVER_SENT, True),
        (FailureClass.OWN, True),
        (FailureClass.RATE_LIMITED, True),
        (FailureClass.MAYBE, True),
        (FailureClass.CREDENTIAL, False),
        (FailureClass.MODEL_UNKNOWN, False),
        (FailureClass.CALLER, False),
    ],
)
def test_the_only_candidate_is_tried_again_after_what_may_pass(failure: FailureClass, again: bool) -> None:
    step = decide(tried("a", failure))
    assert step == (TryOneOf(("a",), delay_s=0.25) if again else GiveUp())


def test_one_attempt_allowed_makes_the_first_failure_final_without_waiting() -> None:
    assert decide(tried("a", FailureClass.RATE_LIMITED, 30.0), max_attempts=1) == GiveUp()


def test_the_wait_that_the_provider_asked_for_is_kept() -> None:
    assert decide(tried("a", FailureClass.RATE_LIMITED, 2.0)) == TryOneOf(("a",), delay_s=2.0)


def test_a_doubtful_call_is_not_repeated_where_the_client_forbids_it() -> None:
    step = decide(tried("a", FailureClass.MAYBE), candidates="ab", on_unknown="fail")
    assert step == GiveUp(unknown=True)


def test_a_certainly_unbilled_call_is_repeated_even_there() -> None:
    assert isinstance(decide(tried("a", FailureClass.SERVER), on_unknown="fail"), TryOneOf)


def test_a_useless_credential_is_not_asked_again_while_another_candidate_is() -> None:
    history = (tried("a", FailureClass.CREDENTIAL), tried("b", FailureClass.SERVER))
    assert decide(*history, candidates="ab") == TryOneOf(("b",), delay_s=0.25)


@pytest.mark.parametrize(
    ("retry_after_s", "step"),
    [(30.0, TryOneOf(("a",), delay_s=30.0)), (30.1, GiveUp()), (3_600.0, GiveUp())],
)
def test_no_job_waits_longer_than_it_may_however_long_a_provider_asks_for(
    retry_after_s: float, step: object
) -> None:
    assert decide(tried("a", FailureClass.RATE_LIMITED, retry_after_s)) == step


def test_a_fresh_candidate_that_takes_no_calls_now_does_not_forbid_to_ask_the_first_again() -> None:
    step = decide(tried("a", FailureClass.SERVER), candidates="ab", away="b")
    assert step == TryOneOf(("b", "a"), delay_s=0.25)


def test_nobody_waits_for_a_long_retry_after_while_a_fresh_candidate_may_come_back() -> None:
    step = decide(tried("a", FailureClass.RATE_LIMITED, 20.0), candidates="ab", away="b")
    assert step == TryOneOf(("b",))


@pytest.mark.parametrize("failure", [FailureClass.MODEL_UNKNOWN, FailureClass.CREDENTIAL])
def test_a_fresh_candidate_that_takes_no_calls_now_is_waited_for_when_no_other_is_left(
    failure: FailureClass,
) -> None:
    assert decide(tried("a", failure), candidates="ab", away="b") == TryOneOf(("b",))


def test_attempts_that_are_used_up_leave_what_was_never_tried() -> None:
    history = [tried("a", FailureClass.SERVER)] * 4
    assert decide(*history, candidates="ab", away="b") == TryOneOf(("b",))
    assert decide(*history, candidates="a") == GiveUp()


def test_an_empty_budget_forbids_repeats_and_nothing_else() -> None:
    failed = tried("a", FailureClass.SERVER)
    assert decide(failed, unpaid="a") == GiveUp()
    assert decide(failed, candidates="ab", unpaid="a") == TryOneOf(("b",))
    both = (failed, tried("b", FailureClass.SERVER))
    assert decide(*both, candidates="ab", unpaid="a") == TryOneOf(("b",), delay_s=0.25)
    assert decide(*both, candidates="ab", unpaid="ab") == GiveUp()


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"), st.sampled_from(list(FailureClass)), st.sampled_from([None, 2.0, 99.0])
        ),
        min_size=1,
        max_size=12,
    ),
    st.integers(1, 6),
    st.sets(st.sampled_from("abc")),
    st.sets(st.sampled_from("abc")),
)
def test_attempts_end_however_the_failures_fall(
    history: list[tuple[str, FailureClass, float | None]], most: int, away: set[str], unpaid: set[str]
) -> None:
    step = decide(
        *(tried(m, f, s) for m, f, s in history),
        candidates="abc", max_attempts=most, away="".join(away), unpaid="".join(unpaid),
    )  # fmt: skip
    untried = set("abc") - {model for model, _, _ in history}
    if not untried and len(history) >= most:
        assert isinstance(step, GiveUp)
    if isinstance(step, TryOneOf):
        assert 0 <= step.delay_s <= 30.0
        assert untried <= set(step.models)
        if untried - away:
            assert set(step.models) == untried
        last = {model: failure for model, failure, _ in history}
        for model in set(step.models) - untried:
            assert model not in unpaid
            assert CONSEQUENCES[last[model]].next_step in (NextStep.RETRY, NextStep.RESEND)
    elif history[-1][1] is not FailureClass.CALLER:
        assert not untried
