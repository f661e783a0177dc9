"""What follows a failed attempt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theo_daemon.retry import GiveUp, Tried, TryOneOf, after_failure
from theo_workers.failures import FailureClass

RETRYABLE = {FailureClass.NEVER_SENT, FailureClass.RATE_LIMITED, FailureClass.SERVER, FailureClass.MAYBE}


def tried(model: str, failure: FailureClass, retry_after_s: float | None = None) -> Tried:
    return Tried(model, failure, failure in RETRYABLE, retry_after_s)


def decide(
    *history: Tried, candidates: str = "a", max_attempts: int = 4, on_unknown: str = "retry"
) -> object:
    return after_failure(
        history,
        list(candidates),
        max_attempts=max_attempts,
        on_unknown=on_unknown,
        jitter=0.5,  # type: ignore[arg-type]
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


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(list(FailureClass))), min_size=1, max_size=12),
    st.integers(1, 6),
)
def test_attempts_end_however_the_failures_fall(history: list[tuple[str, FailureClass]], most: int) -> None:
    step = decide(*(tried(m, f) for m, f in history), candidates="abc", max_attempts=most)
    untried = set("abc") - {model for model, _ in history}
    if not untried and len(history) >= most:
        assert isinstance(step, GiveUp)
    if isinstance(step, TryOneOf):
        assert 0 <= step.delay_s <= 8.0
        assert set(step.models) <= (untried or set("abc"))
