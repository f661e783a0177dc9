from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theo_workers.upstreams.retry_after import LONGEST_S, retry_after_s

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("headers", "message", "wait_s"),
    [
        ({}, "", None),
        ({"retry-after": "2"}, "", 2.0),
        ({"retry-after": " 1.5 "}, "", 1.5),
        ({"retry-after": "0"}, "", 0.0),
        ({"retry-after": "-3"}, "", None),
        ({"retry-after": "nan"}, "", None),
        ({"retry-after": "inf"}, "", None),
        ({"retry-after": "1e9"}, "", None),
        ({"retry-after": "99999999999"}, "", LONGEST_S),
        ({"retry-after": "9" * 400}, "", None),
        ({"retry-after": "soon"}, "", None),
        ({"retry-after": "٣"}, "", None),
        ({"retry-after": formatdate(NOW + 30, usegmt=True)}, "", 30.0),
        ({"retry-after": formatdate(NOW - 30, usegmt=True)}, "", 0.0),
        ({"retry-after": formatdate(NOW + 86_400, usegmt=True)}, "", LONGEST_S),
        ({"retry-after": "Fri, 31 Feb 2025 25:61:00 GMT"}, "", None),
        ({"retry-after-ms": "250"}, "", 0.25),
        ({"retry-after-ms": "x"}, "", None),
        ({"retry-after": "1", "retry-after-ms": "0"}, "", 1.0),
        ({}, "Please try again in 1.574s. Visit", 1.574),
        ({}, "Please try again in 20ms.", 0.02),
        ({}, "Please try again in 1m30s.", 90.0),
        ({}, "Please retry in 48.9s", 48.9),
        ({"retry-after": "3"}, "try again in 60s", 3.0),
    ],
)
def test_reads_every_form_and_ignores_hostile_ones(
    headers: dict[str, str], message: str, wait_s: float | None
) -> None:
    assert retry_after_s(headers, message, now=NOW) == (None if wait_s is None else pytest.approx(wait_s))


@given(st.text(), st.text(), st.text())
def test_any_text_gives_nothing_or_a_bounded_wait(seconds: str, milliseconds: str, message: str) -> None:
    wait_s = retry_after_s({"retry-after": seconds, "retry-after-ms": milliseconds}, message, now=NOW)
    assert wait_s is None or 0 <= wait_s <= LONGEST_S
