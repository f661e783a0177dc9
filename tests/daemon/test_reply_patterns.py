from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theo_daemon.reply_patterns import (
    allowed_reply,
    can_match,
    compile_pattern,
    compile_patterns,
    why_refused,
)

DEFAULTS = compile_patterns("theo", ["theo:replies", "theo:reply:*"])
ANYTHING = compile_patterns("theo", ["*"])


@pytest.mark.parametrize(
    "name", ["theo:replies", "theo:reply:", "theo:reply:a", "theo:reply:a:b\n*", "theo:reply:ü"]
)
def test_the_defaults_allow_client_chosen_reply_streams(name: str) -> None:
    assert allowed_reply(DEFAULTS, name)


@pytest.mark.parametrize(
    "name", ["", "theo:replie", "theo:replies2", "xtheo:reply:a", "Theo:reply:a", "reply:a"]
)
def test_the_defaults_allow_nothing_else(name: str) -> None:
    assert not allowed_reply(DEFAULTS, name)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "theo:jobs",
            "theo:jobs:high",
            "theo:dead",
            "theo:events",
            "theo:control",
            "theo:done:theo:jobs:1-0",
        ),
        *("theo:ledger:calls", "theo:", "theo:replying", "theo:reply"),
    ],
)
def test_the_routers_own_keys_are_refused_whatever_matches(name: str) -> None:
    assert not allowed_reply(ANYTHING, name)


@pytest.mark.parametrize("name", ["theo", "theo2:jobs", "other", "theo:replies", "theo:reply:jobs"])
def test_a_lone_star_allows_every_other_key(name: str) -> None:
    assert allowed_reply(ANYTHING, name)


def test_own_keys_follow_the_prefix() -> None:
    clustered = compile_patterns("{app}", ["*"])
    assert not allowed_reply(clustered, "{app}:jobs")
    assert allowed_reply(clustered, "{app}:reply:1")
    assert allowed_reply(clustered, "theo:jobs")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("{app}:reply:1", None),
        ("mine:{app}", None),
        ("mine:1", "the hash tag {app}"),
        ("{other}:{app}", "the hash tag {app}"),
        ("{app}:jobs", "no pattern"),
    ],
)
def test_on_a_cluster_a_reply_stream_needs_the_hash_tag(name: str, says: str | None) -> None:
    why = why_refused(compile_patterns("{app}", ["*"], one_slot=True), name)
    assert why is None if says is None else why is not None and says in why


def test_no_pattern_allows_no_name() -> None:
    assert not allowed_reply(compile_patterns("theo", []), "theo:replies")


@pytest.mark.parametrize("pattern", ["a?c", "a[b]c", "a.c", "a\\*", "(a|b)*", "^a$"])
def test_nothing_but_the_star_is_special(pattern: str) -> None:
    assert not compile_pattern(pattern).matches("abc")
    assert compile_pattern(pattern).matches(pattern)


SMALL = st.text("ab*:", max_size=8)


@given(pattern=SMALL, name=st.text("ab:\n", max_size=10))
def test_matches_what_the_same_regular_expression_matches(pattern: str, name: str) -> None:
    regex = ".*".join(re.escape(piece) for piece in pattern.split("*"))
    assert compile_pattern(pattern).matches(name) == bool(re.fullmatch(regex, name, re.DOTALL))


def test_hostile_names_cannot_make_matching_slow() -> None:
    pattern = compile_pattern("a*" * 20 + "b")
    began = time.process_time()
    assert not pattern.matches("a" * 200_000)
    assert time.process_time() - began < 1.0  # a backtracking matcher would not end


@pytest.mark.parametrize(
    "text", ["theo:replies", "theo:reply:x", "theo:re*", "theo:*", "t*", "*", "answers:*", "theo"]
)
def test_knows_a_pattern_that_can_match(text: str) -> None:
    assert can_match("theo", text)


@pytest.mark.parametrize(
    "text", ["", "theo:jobs", "theo:jobs:*", "theo:answers:*", "theo:replies2*", "theo:reply"]
)
def test_knows_a_pattern_that_never_can(text: str) -> None:
    assert not can_match("theo", text)
