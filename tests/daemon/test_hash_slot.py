from __future__ import annotations

import pytest

from theo_daemon.hash_slot import hash_tag, slot_of


@pytest.mark.parametrize(
    ("key", "slot"),
    [("123456789", 0x31C3), ("foo", 12_182), ("{foo}bar", 12_182), ("a{foo}{bar}", 12_182), ("", 0)],
)
def test_slots_are_those_of_redis(key: str, slot: int) -> None:
    assert slot_of(key) == slot


@pytest.mark.parametrize(
    ("key", "tag"),
    [
        ("{theo}:jobs", "theo"),
        ("a{b}c{d}", "b"),
        ("{{a}}", "{a"),
        ("{}a{b}", None),
        ("theo", None),
        ("a}b{c", None),
    ],
)
def test_the_tag_is_between_the_first_braces(key: str, tag: str | None) -> None:
    assert hash_tag(key) == tag
