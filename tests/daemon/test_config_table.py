from __future__ import annotations

from difflib import SequenceMatcher
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, Struct, inspect

from theo_daemon.config import (
    Config,
    IngressConfig,
    LedgerConfig,
    ModelConfig,
    RedisConfig,
    ReplyConfig,
    RoutingConfig,
    TelemetryConfig,
)
from theo_daemon.config_table import Report, Shape, allowed, read_table, text_of, unknown
from theo_workers.upstreams.script import Fate

TABLES: tuple[type[Struct], ...] = (
    *(Config, IngressConfig, LedgerConfig, ModelConfig, RedisConfig, ReplyConfig, RoutingConfig),
    *(TelemetryConfig, Fate),
)
LETTERS = "abcdefghijklmnopqrstuvwxyz_"


class Colour(Enum):
    RED = "red"


class Table(Struct, frozen=True, kw_only=True):
    """A table with one key of each kind."""

    count: Annotated[int, Meta(ge=1)] = 1
    share: Annotated[float, Meta(gt=0, le=1)] = 1.0
    on: bool = True
    colour: Literal["red", "blue"] = "red"
    names: tuple[Annotated[str, Meta(max_length=3)], ...] = ()
    secret: str = ""


SHAPE = Shape(
    cls=Table, readers={"secret": lambda value: text_of(value, "a word")}, aliases={"number": "count"}
)


def read(raw: object) -> tuple[dict[str, Any], list[str]]:
    report = Report()
    return read_table(SHAPE, raw, "[t]", report), report.errors


def test_gives_only_the_keys_that_are_set() -> None:
    assert read({"count": 3, "names": ["a"]}) == ({"count": 3, "names": ("a",)}, [])


def test_gives_what_is_right_beside_what_is_wrong() -> None:
    found, errors = read({"count": 0, "share": 1, "on": "no", "nmaes": []})
    assert found == {"share": 1.0}
    assert errors == [
        "[t] count: 0 is not allowed; a whole number, at least 1",
        '[t] on: "no" is not allowed; true or false',
        '[t] nmaes: unknown key; did you mean "names"?',
    ]


def test_an_alias_is_told_under_the_name_that_the_file_uses() -> None:
    assert read({"number": 0}) == ({}, ["[t] number: 0 is not allowed; a whole number, at least 1"])
    assert read({"number": 2, "count": 2}) == ({"count": 2}, [])
    assert read({"number": 2, "count": 3})[1] == [
        "[t] count: is another name for number, with another value: keep one"
    ]


@pytest.mark.parametrize("value", ["sk-live-0123456789abcdef", ["sk-live-0123456789abcdef"]])
def test_long_values_are_not_quoted(value: object) -> None:
    for key in ("count", "share", "on", "colour"):
        (error,) = read({key: value})[1]
        assert "sk-live" not in error


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (int, "a whole number"),
        (Annotated[int, Meta(ge=1, le=9)], "a whole number, at least 1 and at most 9"),
        (Annotated[float, Meta(gt=0)] | None, "a number, above 0"),
        (Annotated[int, Meta(ge=0, le=2**53)], "a whole number, at least 0"),
        (bool, "true or false"),
        (str, "a text"),
        (Annotated[str, Meta(min_length=1, max_length=8)], "a text of 1 to 8 characters"),
        (Annotated[str, Meta(pattern="x", extra={"allowed": "an x"})], "allowed: an x"),
        (Annotated[str, Meta(description="no words of its own")], "a text"),
        (Literal["a", "b"], 'one of "a", "b"'),
        (Colour, 'one of "red"'),
        (tuple[int, ...], "a list, each item a whole number"),
        (dict[str, int], "a table"),
    ],
)
def test_says_what_a_type_allows(kind: Any, words: str) -> None:
    assert allowed(inspect.type_info(kind)) == words


def test_knows_when_there_is_nothing_to_suggest() -> None:
    assert unknown("model", "x", ()) == "unknown model; there are none here"


@st.composite
def misspelt_keys(draw: st.DrawFn) -> tuple[type[Struct], str, str]:
    """A table, one of its keys, and that key after one slip of the finger."""
    table = draw(st.sampled_from(TABLES))
    key = draw(st.sampled_from(table.__struct_fields__))
    at, letter = draw(st.integers(0, len(key) - 1)), draw(st.sampled_from(LETTERS))
    slips = {
        "left out": key[:at] + key[at + 1 :],
        "one more": key[:at] + letter + key[at:],
        "another": key[:at] + letter + key[at + 1 :],
        "swapped": key[:at] + key[at : at + 2][::-1] + key[at + 2 :],
        "upper case": key.upper(),
        "dashes": key.replace("_", "-"),
    }
    return table, key, draw(st.sampled_from(sorted(slips.values())))


@given(slip=misspelt_keys())
def test_any_misspelt_key_is_answered_with_a_valid_one(slip: tuple[type[Struct], str, str]) -> None:
    table, key, word = slip
    if word in table.__struct_fields__:
        return
    report = Report()
    assert read_table(Shape(cls=table), {word: 1}, "[t]", report) == {}
    (error,) = report.errors
    assert error.startswith(f"[t] {word}: unknown key; did you mean ")
    suggested = error.split('"')[1]
    assert suggested in table.__struct_fields__
    assert _likeness(suggested, word) >= _likeness(key, word)  # rpm and tpm are one slip apart


def _likeness(key: str, word: str) -> float:
    return SequenceMatcher(None, key, word.lower().replace("-", "_")).ratio()
