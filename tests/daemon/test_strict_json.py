from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from theo_daemon.strict_json import LONGEST_QUOTE, MAX_DEPTH, NotStrict, canonical, loads, quote

TEXT = st.text(max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def strictly(raw: bytes) -> Any:
    """The same rules by way of the standard library, slowly."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({name for name, _ in pairs}) == len(pairs)
        return dict(pairs)

    def never(constant: str) -> Any:
        raise AssertionError(constant)

    def deep(value: Any, level: int) -> None:
        if isinstance(value, (dict, list)):
            assert level < MAX_DEPTH
            for child in value.values() if isinstance(value, dict) else value:
                deep(child, level + 1)
        elif isinstance(value, (int, float)):
            assert math.isfinite(value)

    value = json.loads(raw.decode(), object_pairs_hook=once, parse_constant=never)
    json.dumps(value, ensure_ascii=False).encode()
    deep(value, 0)
    return value


MARKS = [
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b" ",
    b"-",
    b"1",
    b"1e999",
    b"NaN",
    b"\xff",
    b"[" * 70,
    b"]" * 70,
]
TEXTS = [b'"a"', b'"a":', b'":"', b'"\\u003a"', b'"\\ud800"']
OBJECTS = [b'{"a":1}', b'{"a":1,"a":2}', b'{"\\u0061":":","a":2}']
PIECES = st.sampled_from([*MARKS, *TEXTS, *OBJECTS])
DOCUMENTS = VALUES.map(lambda value: json.dumps(value).encode())


@given(st.binary(max_size=30) | st.lists(PIECES, max_size=12).map(b"".join) | DOCUMENTS)
@example(b'{"\\u003a":":","a":1,"a":1}')
@example(b'{"a":":","a":"\\u003a"}')
@example(b'{"a":{"b":1},"c":{"b":1,"b":1}}')
@example(b"[" * 64 + b"]" * 64)
@example(b"[" * 65 + b"]" * 65)
@example(b'{"a":' * 65 + b"1" + b"}" * 65)
@example(b"1" + b"0" * 308)
@example(b"2" + b"0" * 308)
@example(b"9" * 5000)
def test_takes_and_refuses_what_the_slow_way_takes_and_refuses(raw: bytes) -> None:
    try:
        expected = strictly(raw)
    except (AssertionError, ValueError, OverflowError, RecursionError):
        with pytest.raises(NotStrict):
            loads(raw)
    else:
        assert loads(raw) == expected


@pytest.mark.parametrize(
    "raw",
    [
        b"[" * 1_000_000,
        b'{"a":' * 200_000,
        b"[" + b"[" * 500_000 + b"]" * 500_000,
        b'{"a":"' + b'\\"' * 500_000,
        b"-" * 1_000_000,
        b"9" * 1_000_000,
        b"{" + b'"a":1,' * 150_000 + b'"a":1}',
    ],
    ids=["brackets", "braces", "balanced", "quotes", "minus", "digits", "duplicates"],
)
def test_a_hostile_megabyte_is_refused_and_nothing_else_is_raised(raw: bytes) -> None:
    with pytest.raises(NotStrict) as refused:
        loads(raw)
    assert len(str(refused.value)) < 200


@given(VALUES)
def test_the_canonical_form_means_the_same_and_is_its_own(value: Any) -> None:
    spelled = canonical(value)
    assert json.loads(spelled) == value
    assert canonical(loads(spelled)) == spelled


@given(VALUES | st.binary(max_size=200) | st.text())
@example("\ud800" * 100)
@example("x" * 61)
@example("x" * 58)
def test_a_quote_is_short_and_on_one_line(value: Any) -> None:
    assert len(quote(value)) <= LONGEST_QUOTE
    assert quote(value).isprintable()
