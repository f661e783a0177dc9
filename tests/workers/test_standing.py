"""What each failure does to a model's standing."""

from __future__ import annotations

import math

import pytest

from theo_workers.breaker import Breaker, Closed, HalfOpen, Open
from theo_workers.errors import (
    AuthenticationFailed,
    ContentFiltered,
    ContextLengthExceeded,
    InvalidRequest,
    NotAdmitted,
    ProviderQuotaExhausted,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
    UpstreamError,
)
from theo_workers.failures import BreakerEffect, FailureClass
from theo_workers.slots import Slots
from theo_workers.standing import (
    AVAILABLE,
    PACE_S,
    Available,
    Change,
    Disabled,
    Pace,
    Paused,
    Shared,
    Standing,
    Unavailable,
)


def standing(*, threshold: int = 1, timeout_s: float = 120.0, ramp_s: float = 0.0) -> Standing:
    return Standing(Breaker(threshold=threshold), Slots(8, ramp_s=ramp_s), timeout_s=timeout_s)


def fail(model: Standing, error: UpstreamError, now: float = 0.0, *, jitter: float = 0.5) -> Change | None:
    permit = model.admit(now)
    effect = model.effect_of(error, given_s=120.0, waited_s=1.0, usual_s=None)
    return model.failed(permit, effect, error, now, jitter)


@pytest.mark.parametrize(
    ("error", "change"),
    [
        (ProviderUnavailable("x"), Open(60.0)),
        (ProviderUnavailable("x", failure=FailureClass.NEVER_SENT), Open(60.0)),
        (ProviderUnavailable("x", failure=FailureClass.MAYBE), Open(60.0)),
        (ProviderTimeout("x"), Open(60.0)),
        (RateLimited("x", retry_after_s=7.0), Paused(7.0)),
        (AuthenticationFailed("x"), Disabled("authentication_failed")),
        (ProviderQuotaExhausted("x"), Disabled("provider_quota_exhausted")),
        (InvalidRequest("x"), None),
        (InvalidRequest("x", failure=FailureClass.MODEL_UNKNOWN), None),
        (ContextLengthExceeded("x"), None),
        (ContentFiltered("x"), None),
    ],
)
def test_each_failure_changes_what_its_row_says(error: UpstreamError, change: Change | None) -> None:
    model = standing()
    assert fail(model, error) == change
    assert isinstance(model.availability(0.0), Available) == (change is None)


@pytest.mark.parametrize(
    "error", [RateLimited("x"), InvalidRequest("x"), ContentFiltered("x"), AuthenticationFailed("x")]
)
def test_only_the_models_own_failures_count_for_the_breaker(error: UpstreamError) -> None:
    model = standing(threshold=2)
    fail(model, ProviderUnavailable("x"))
    fail(model, error)
    assert model.breaker.state == Closed(1)


@pytest.mark.parametrize(
    ("retry_after_s", "jitter", "pause_s"),
    [
        (7.0, 0.9, 7.0),
        (0.004, 0.9, 0.004),
        (120.0, 0.5, 120.0),
        (86_400.0, 0.5, 120.0),
        (math.inf, 0.5, 120.0),
        (math.nan, 0.5, 1.0),
        (-5.0, 0.5, 1.0),
        (0.0, 0.5, 1.0),
        (None, 0.0, 0.8),
        (None, 0.75, 1.1),
    ],
)
def test_a_pause_lasts_as_asked_within_reason(
    retry_after_s: float | None, jitter: float, pause_s: float
) -> None:
    model = standing()
    fail(model, RateLimited("x", retry_after_s=retry_after_s), 100.0, jitter=jitter)
    assert model.paused_until == pytest.approx(100.0 + pause_s)


def test_a_pause_is_only_made_longer_and_told_when_that_matters() -> None:
    model = standing()
    permits = [model.admit(0.0) for _ in range(4)]
    changes = [
        model.failed(permit, BreakerEffect.PAUSE, RateLimited("x", retry_after_s=retry_after_s), 0.0, 0.5)
        for permit, retry_after_s in zip(permits, (5.0, 5.9, 9.0, 2.0), strict=True)
    ]
    assert changes == [Paused(5.0), None, Paused(9.0), None]
    assert model.availability(8.9) == Unavailable("paused", 9.0)
    assert model.availability(9.0) == AVAILABLE


def test_a_probe_that_meets_a_429_is_handed_back() -> None:
    model = standing()
    fail(model, ProviderUnavailable("x"))
    fail(model, RateLimited("x", retry_after_s=5.0), 60.0)
    assert model.availability(60.0) == Unavailable("paused", 65.0)
    assert model.admit(65.0) is not None
    assert model.breaker.state == HalfOpen(1, probing=True)


def test_an_opening_and_a_pause_end_with_the_later() -> None:
    model = standing()
    late = model.admit(0.0)
    fail(model, ProviderUnavailable("x"))
    model.failed(late, BreakerEffect.PAUSE, RateLimited("x", retry_after_s=90.0), 0.0, 0.5)
    assert model.availability(1.0) == Unavailable("circuit_open", 90.0)
    assert model.availability(61.0) == Unavailable("paused", 90.0)


@pytest.mark.parametrize(
    ("given_s", "waited_s", "usual_s", "timeout_s", "effect"),
    [
        (120.0, 120.0, None, 120.0, BreakerEffect.FAILURE),
        (119.8, 119.8, None, 120.0, BreakerEffect.FAILURE),
        (0.02, 0.02, None, 120.0, BreakerEffect.NEUTRAL),
        (29.0, 29.0, None, 120.0, BreakerEffect.NEUTRAL),
        (31.0, 31.0, None, 120.0, BreakerEffect.FAILURE),
        (0.97, 0.97, None, 1.0, BreakerEffect.FAILURE),
        (5.0, 5.0, 1.0, 120.0, BreakerEffect.FAILURE),
        (3.0, 3.0, 1.0, 120.0, BreakerEffect.NEUTRAL),
        (0.5, 0.5, 0.001, 120.0, BreakerEffect.NEUTRAL),
        (5.0, 1.0, None, 120.0, BreakerEffect.FAILURE),
    ],
    ids=[
        "its whole time-out",
        "nearly, since the claim took a moment",
        "an impatient job",
        "a job less patient than most",
        "a job patient enough",
        "a short time-out, used up",
        "far slower than usual",
        "not so much slower than usual",
        "fast models get a second all the same",
        "the adapter's own time-out, before the deadline",
    ],
)
def test_a_time_out_is_evidence_only_if_the_model_had_time_enough(
    given_s: float, waited_s: float, usual_s: float | None, timeout_s: float, effect: BreakerEffect
) -> None:
    model = standing(timeout_s=timeout_s)
    found = model.effect_of(ProviderTimeout("x"), given_s=given_s, waited_s=waited_s, usual_s=usual_s)
    assert found == effect


def test_a_reset_by_the_provider_is_evidence_however_little_time_it_had() -> None:
    error = ProviderUnavailable("x", failure=FailureClass.MAYBE)
    effect = standing().effect_of(error, given_s=0.01, waited_s=0.01, usual_s=None)
    assert effect is BreakerEffect.FAILURE


def test_a_refusal_says_why_and_until_when() -> None:
    model = standing()
    fail(model, ProviderUnavailable("x"))
    with pytest.raises(NotAdmitted) as caught:
        model.admit(10.0)
    assert (caught.value.reason, caught.value.until) == ("circuit_open", 60.0)


def test_disabled_comes_before_everything_and_ends_with_a_reset() -> None:
    model = standing()
    late = model.admit(0.0)
    fail(model, ProviderUnavailable("x"))
    model.failed(late, BreakerEffect.PAUSE, RateLimited("x", retry_after_s=90.0), 0.0, 0.5)
    assert model.disable("operator") == Disabled("operator")
    assert model.disable("authentication_failed") is None, "it is said once"
    assert model.availability(1_000.0) == Unavailable("disabled", None)
    model.reset()
    assert model.availability(1.0) == AVAILABLE
    assert model.breaker.state == Closed()


def test_admits_any_number_one_probe_or_none() -> None:
    model = standing()
    assert model.admits(0.0) == math.inf
    fail(model, ProviderUnavailable("x"))
    assert (model.admits(59.0), model.admits(60.0)) == (0, 1)
    probe = model.admit(60.0)
    assert model.admits(60.0) == 0
    model.abandoned(probe, 61.0)
    assert model.admits(61.0) == 1


@pytest.mark.parametrize(
    ("open_until", "paused_for_s", "now", "next_change"),
    [
        (None, None, 0.0, None),
        (60.0, None, 1.0, 60.0),
        (60.0, 20.0, 1.0, 20.0),
        (60.0, 20.0, 30.0, 60.0),
        (60.0, 90.0, 70.0, 90.0),
        (60.0, 20.0, 60.0, None),
    ],
)
def test_the_next_change_is_the_first_end_to_come(
    open_until: float | None, paused_for_s: float | None, now: float, next_change: float | None
) -> None:
    model = standing()
    if paused_for_s is not None:
        fail(model, RateLimited("x", retry_after_s=paused_for_s), 0.0)
    if open_until is not None:
        model.breaker.force_open(open_until, 0.0)
    assert model.next_change(now) == next_change


def test_a_defect_of_the_adapter_counts_as_a_failure() -> None:
    model = standing()
    assert model.broke(model.admit(0.0), 0.0, 0.5) == Open(60.0)


# -- what all processes hold true ------------------------------------------------------------------------

DOWN = ProviderUnavailable("x")


@pytest.mark.parametrize(
    ("shared", "found"),
    [
        (Shared(), AVAILABLE),
        (Shared(open_until=60.0, openings=1), Unavailable("circuit_open", 60.0)),
        (Shared(open_until=5.0, openings=1), AVAILABLE),  # half-open: the next call is the probe
        (Shared(open_until=5.0, openings=1, probed_until=30.0), Unavailable("circuit_open", None)),
        (Shared(open_until=5.0, openings=1, probed_until=9.0), AVAILABLE),
        (Shared(paused_until=30.0), Unavailable("paused", 30.0)),
        (Shared(disabled="operator"), Unavailable("disabled", None)),
    ],
)
def test_what_all_hold_true_decides(shared: Shared, found: object) -> None:
    model = standing()
    model.adopt(shared, 10.0)
    assert model.availability(10.0) == found
    assert model.admits(10.0) == (0 if found != AVAILABLE else 1 if shared.openings else math.inf)


def test_failures_in_a_row_are_kept_unless_the_circuit_has_changed() -> None:
    model = standing(threshold=3)
    fail(model, DOWN)
    model.adopt(Shared(paused_until=1.0), 0.0)
    assert model.breaker.state == Closed(1)
    model.adopt(Shared(anew=True), 2.0)
    assert model.breaker.state == Closed(0)


def test_our_own_opening_that_nobody_shares_ends() -> None:
    model = standing()
    fail(model, DOWN)
    model.adopt(Shared(), 1.0)
    assert model.availability(1.0) == AVAILABLE


def test_our_own_probe_goes_on_when_its_row_comes_back() -> None:
    model = standing()
    fail(model, DOWN)
    probe = model.admit(60.0)
    model.adopt(Shared(open_until=60.0, openings=1), 60.1)
    assert model.admits(60.1) == 0
    assert model.succeeded(probe, 61.0) == Closed()


def test_a_pause_that_others_know_to_be_over_is_over_and_a_longer_one_of_ours_stays() -> None:
    model = standing()
    fail(model, RateLimited("x", retry_after_s=9.0))
    model.adopt(Shared(paused_until=8.5), 0.0)
    assert model.availability(8.9) == Unavailable("paused", 9.0)
    model.adopt(Shared(), 8.9)
    assert model.availability(8.9) == AVAILABLE


def test_the_end_of_anothers_probe_is_a_change_to_wait_for() -> None:
    model = standing()
    model.adopt(Shared(open_until=5.0, openings=1, probed_until=30.0), 10.0)
    assert model.next_change(10.0) == 30.0
    assert model.admits(30.0) == 1


# -- pace ------------------------------------------------------------------------------------------------


def test_a_model_out_of_pace_is_available_and_admits_nothing_until_there_is_room() -> None:
    model = standing()
    model.pace = Pace(since=10.0, calls=2)
    assert (model.availability(9.9), model.admits(9.9), model.in_pace(9.9)) == (AVAILABLE, 0, False)
    assert (model.admits(10.0), model.next_change(5.0)) == (2, 10.0)
    model.admit(10.0)
    model.admit(10.0)
    assert (model.admits(10.0), model.in_pace(10.0)) == (0, False)


def test_a_word_about_the_rate_is_worth_something_for_a_moment_only() -> None:
    model = standing()
    model.pace = Pace(since=10.0, calls=0)
    assert model.next_change(10.0) == 10.0 + PACE_S
    assert model.admits(10.0 + PACE_S) == math.inf
    assert model.next_change(10.0 + PACE_S) is None


def test_the_probe_keeps_pace_too() -> None:
    model = standing()
    fail(model, DOWN)
    model.pace = Pace(since=70.0, calls=5)
    assert (model.admits(60.0), model.admits(70.0)) == (0, 1)


# -- the ramp --------------------------------------------------------------------------------------------


def ramping() -> Standing:
    """Eight slots, and a circuit that a good probe closed at 60.0."""
    model = standing(ramp_s=10.0)
    fail(model, DOWN)
    model.succeeded(model.admit(60.0), 60.0)
    return model


def test_a_good_probe_gives_a_quarter_of_the_slots_and_the_next_change_more() -> None:
    model = ramping()
    assert model.availability(60.0) == AVAILABLE
    assert (model.slots.now, model.next_change(60.0)) == (2, 65.0)
    model.slots.tick(65.0)
    assert (model.slots.now, model.next_change(65.0)) == (4, 70.0)
    model.slots.tick(70.0)
    assert (model.slots.now, model.next_change(70.0)) == (8, None)


def test_a_success_of_a_closed_circuit_begins_no_ramp() -> None:
    model = standing(ramp_s=10.0)
    model.succeeded(model.admit(0.0), 1.0)
    assert model.slots.now == 8


def test_a_closing_known_from_elsewhere_ramps_too_and_no_news_does_not() -> None:
    model = standing(ramp_s=10.0)
    model.adopt(Shared(anew=True), 1.0)
    assert model.slots.now == 8
    model.adopt(Shared(open_until=60.0, openings=1, anew=True), 1.0)
    model.adopt(Shared(anew=True), 62.0)
    assert (model.slots.now, model.next_change(62.0)) == (2, 67.0)


def test_our_own_closing_that_comes_back_as_a_row_does_not_begin_the_ramp_again() -> None:
    model = ramping()
    model.adopt(Shared(), 60.2)
    assert model.next_change(60.2) == 65.0


@pytest.mark.parametrize(("retry_after_s", "ends"), [(30.0, 40.0), (4.0, 8.0)], ids=["long", "short"])
def test_a_pause_ends_in_a_ramp_that_is_no_longer_than_the_pause(retry_after_s: float, ends: float) -> None:
    model = standing(ramp_s=10.0)
    fail(model, RateLimited("x", retry_after_s=retry_after_s))
    model.slots.tick(retry_after_s)
    assert model.slots.now == 2
    model.slots.tick(ends - 0.01)
    assert model.slots.now == 4
    model.slots.tick(ends)
    assert model.slots.now == 8


def test_a_pause_known_from_elsewhere_ends_in_a_ramp_too() -> None:
    model = standing(ramp_s=10.0)
    model.adopt(Shared(paused_until=30.0), 10.0)
    assert (model.slots.now, model.availability(29.0)) == (2, Unavailable("paused", 30.0))
    model.slots.tick(35.0)
    assert model.slots.now == 4


def test_an_operator_gives_all_slots_back() -> None:
    model = ramping()
    model.reset()
    assert (model.slots.now, model.next_change(60.0)) == (8, None)
