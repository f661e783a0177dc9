"""The table of failures: every row, and that nothing fails without a row."""

from __future__ import annotations

import pytest

from theo_workers import errors
from theo_workers.errors import UpstreamError
from theo_workers.failures import CONSEQUENCES, Billed, BreakerEffect, Consequence, FailureClass, NextStep

NO, MAYBE = Billed.NO, Billed.MAYBE
FAILURE, NEUTRAL = BreakerEffect.FAILURE, BreakerEffect.NEUTRAL


@pytest.mark.parametrize(
    ("failure", "billed", "breaker", "next_step"),
    [
        (FailureClass.NEVER_SENT, NO, FAILURE, NextStep.RETRY),
        (FailureClass.OWN, NO, NEUTRAL, NextStep.RETRY),
        (FailureClass.RATE_LIMITED, NO, BreakerEffect.PAUSE, NextStep.RETRY),
        (FailureClass.CREDENTIAL, NO, BreakerEffect.DISABLE, NextStep.NEXT),
        (FailureClass.CALLER, NO, NEUTRAL, NextStep.TERMINAL),
        (FailureClass.MODEL_UNKNOWN, NO, NEUTRAL, NextStep.NEXT),
        (FailureClass.SERVER, NO, FAILURE, NextStep.RETRY),
        (FailureClass.MAYBE, MAYBE, FAILURE, NextStep.RESEND),
    ],
)
def test_each_row(failure: FailureClass, billed: Billed, breaker: BreakerEffect, next_step: NextStep) -> None:
    assert CONSEQUENCES[failure] == Consequence(billed, breaker, next_step)


def test_every_class_has_a_row() -> None:
    assert set(CONSEQUENCES) == set(FailureClass)


def test_whatever_may_be_billed_is_never_repeated_without_leave() -> None:
    for consequence in CONSEQUENCES.values():
        if consequence.billed is MAYBE:
            assert consequence.next_step is NextStep.RESEND


def test_the_callers_own_faults_never_touch_a_breaker() -> None:
    leaves = [errors.InvalidRequest, errors.ContextLengthExceeded, errors.ContentFiltered]
    for leaf in leaves:
        assert CONSEQUENCES[leaf("x").failure].breaker is NEUTRAL


def test_every_leaf_of_the_tree_is_retryable_as_its_row_says() -> None:
    for leaf in UpstreamError.__subclasses__():
        error = leaf("x")
        repeated = CONSEQUENCES[error.failure].next_step in (NextStep.RETRY, NextStep.RESEND)
        assert error.retryable is repeated
