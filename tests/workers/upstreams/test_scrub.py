from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pace import in_encodings
from theo_workers.upstreams.scrub import scrub


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("Rate limit exceeded", "Rate limit exceeded"),
        ("Incorrect API key provided: sk-abc123def456.", "Incorrect API key provided: [key]"),
        ("key sk-proj-a_b-C9 is bad", "key [key] is bad"),
        ("masked abcd****wxyz", "masked [key]"),
        ("Authorization: Bearer abc.def-ghi", "Authorization: Bearer [key]"),
        ("got header bearer abcdef", "got header bearer [key]"),
        ('{"api_key": "abcdef"}', '{"api_key": "[key]"}'),
        ("AIzaSyA1234567890abc expired", "[key] expired"),
        ("a task-based risk-free desk-top", "a task-based risk-free desk-top"),
        ("two\r\nlines\x1b[31m and\x00 more", "two lines [31m and  more"),
        ("\u202eevil", "evil"),
        ("half \ud800", "half"),
        ("the hunter2-secret is out", "the [key] is out"),
    ],
)
def test_hides_keys_and_keeps_the_rest(told: str, shown: str) -> None:
    assert scrub(told, ["hunter2-secret"]) == shown


def test_is_cut_to_its_limit() -> None:
    assert scrub("x" * 1_000) == "x" * 299 + "…"
    assert scrub("x" * 300) == "x" * 300


@given(
    before=st.text(max_size=400), secret=st.text(st.characters(codec="ascii"), min_size=8), after=st.text()
)
def test_a_configured_secret_is_never_shown(before: str, secret: str, after: str) -> None:
    secret = f"S{secret}S"
    assert secret not in scrub(f"{before}{secret}{after}", [secret])


@pytest.mark.parametrize("seed", ["a", "*", "sk-", "eyJ", "bearer ", "api key:", "a*"])
def test_hostile_megabytes_take_little_time(seed: str) -> None:
    text = seed * (1_000_000 // len(seed))
    assert in_encodings(lambda: scrub(text), rounds=1) < 40_000  # 2,000 at most are usual: 8 ms
