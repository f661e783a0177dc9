from __future__ import annotations

import json
import random
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from theo_daemon.key import cache_key, content_bytes
from theo_daemon.strict_json import loads

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NUMBERS = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
LEAVES = st.none() | st.booleans() | NUMBERS | TEXT
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)
PARAMS = st.dictionaries(TEXT, VALUES, max_size=4)
NAMES = st.text("ab:,0123456789", min_size=1, max_size=8)


def content(**changes: Any) -> bytes:
    parts: dict[str, Any] = {"workflow": "w", "tenant": None, "system": "", "params": {}, "prompt": "x"}
    return content_bytes(**{**parts, **changes})


def by_value(value: Any) -> Any:
    """Equal for equal JSON values, and only for those: Python takes True for 1, and 0.0 for -0.0 rightly."""
    match value:
        case dict():
            return {"object": sorted((name, repr(by_value(item))) for name, item in value.items())}
        case list():
            return [by_value(item) for item in value]
        case float() if value.is_integer() and abs(value) < 2**53:
            return int(value)
        case _:
            return (type(value).__name__, value) if isinstance(value, (bool, float)) else value


def shuffled(value: Any, rng: random.Random) -> Any:
    match value:
        case dict():
            items = list(value.items())
            rng.shuffle(items)
            return {name: shuffled(item, rng) for name, item in items}
        case list():
            return [shuffled(item, rng) for item in value]
        case _:
            return value


FIELDS = st.tuples(NAMES, st.none() | NAMES, TEXT, NAMES, TEXT)


@given(FIELDS, FIELDS)
def test_no_two_sets_of_fields_share_a_key(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    def key(fields: tuple[Any, ...]) -> str:
        workflow, tenant, system, route, prompt = fields
        return cache_key(route, content(workflow=workflow, tenant=tenant, system=system, prompt=prompt))

    assert (key(one) == key(other)) == (one == other)


@given(st.lists(st.text("ab:,{}1", max_size=6), min_size=4, max_size=4), st.data())
def test_moving_the_boundary_between_two_fields_makes_another_key(
    parts: list[str], data: st.DataObject
) -> None:
    joined = "".join(parts)
    assume(joined)

    def split() -> list[str]:
        cuts = sorted(data.draw(st.integers(0, len(joined))) for _ in range(3))
        return [joined[start:end] for start, end in zip([0, *cuts], [*cuts, len(joined)], strict=True)]

    one, other = split(), split()
    assume(one != other)

    def key(pieces: list[str]) -> str:
        route, workflow, system, prompt = pieces
        return cache_key(route, content(workflow=workflow, system=system, prompt=prompt))

    assert key(one) != key(other)


@given(PARAMS, st.randoms(use_true_random=False), st.sampled_from([None, 0, 3]), st.booleans())
def test_order_white_space_and_escapes_make_no_difference(
    params: dict[str, Any], rng: random.Random, indent: int | None, ascii_only: bool
) -> None:
    respelled = json.dumps(shuffled(params, rng), indent=indent, ensure_ascii=ascii_only).encode()
    assert content(params=loads(respelled)) == content(params=params)


@given(PARAMS, PARAMS)
def test_other_params_make_another_content(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert (content(params=one) == content(params=other)) == (by_value(one) == by_value(other))


@given(VALUES, VALUES)
def test_any_change_of_a_value_makes_another_content(one: Any, other: Any) -> None:
    assert (content(params={"a": one}) == content(params={"a": other})) == (by_value(one) == by_value(other))


def test_numbers_count_by_value() -> None:
    spellings = [b'{"a":100}', b'{"a":100.0}', b'{"a":1e2}', b'{"a":1E+2}', b'{"a":0.1e3}']
    assert len({content(params=loads(raw)) for raw in spellings}) == 1
    assert content(params={"a": 0.0}) == content(params={"a": -0.0})
    assert content(params={"a": 1}) != content(params={"a": True})
    assert content(params={"a": 1}) != content(params={"a": "1"})


def test_a_float_that_may_stand_for_several_integers_is_none_of_them() -> None:
    assert content(params={"a": 2.0**53 + 2, "b": 1.0}) != content(params={"a": 2**53 + 2, "b": 1})


def test_a_key_is_32_hex_digits_and_stays_the_same_over_releases() -> None:
    # A change of this value empties every user's cache and forgets every id: raise the version tag, and say so.
    assert cache_key("fast", content(params={"b": 1.0, "a": "é"})) == "5448d6f343aa713cc21335fe47e5e062"


def test_a_prompt_is_not_the_list_of_messages_with_the_same_bytes() -> None:
    assert content(prompt="[]") != content(prompt=None, messages=())
