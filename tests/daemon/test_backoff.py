from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from theo_daemon.backoff import BASE_S, CAP_S, delay_s

jitters = st.floats(0, 1, exclude_max=True)


@given(st.integers(1, 5_000), jitters)
def test_never_spins_and_never_waits_longer_than_the_cap(failures: int, jitter: float) -> None:
    assert BASE_S / 2 <= delay_s(failures, jitter) <= CAP_S


@given(st.integers(1, 100), jitters)
def test_waits_no_shorter_after_more_failures(failures: int, jitter: float) -> None:
    assert delay_s(failures + 1, jitter) >= delay_s(failures, jitter)
