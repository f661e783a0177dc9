"""JSON as strangers send it: msgspec's decoder, and a check for the three things that it lets pass.

msgspec refuses NaN, Infinity, floats beyond a double, lone surrogates, invalid UTF-8 and trailing text. It takes
an object's key given twice (the last wins), nesting down to Python's recursion limit, and whole numbers beyond a
double. The check costs a few counts over the bytes for an ordinary document; a document that looks odd is looked
at again, in time and memory linear in its size.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

MAX_DEPTH = 64
MAX_DIGITS = 308  # a whole number with more digits may be beyond a double
LONGEST_QUOTE = 60  # characters of a client's input that an error message may repeat

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_encode_ordered = msgspec.json.Encoder(order="deterministic").encode

_LONG_NUMBER = re.compile(rb"[0-9]{%d}" % (MAX_DIGITS + 1))
_AT_BYTE = re.compile(r"\(byte (\d+)\)")
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


class NotStrict(ValueError):
    """The bytes are not JSON as the contract wants it; the text says why, for a person."""


def loads(raw: bytes) -> Any:
    """One JSON document. Raises NotStrict and nothing else, whatever the bytes are."""
    try:
        value = _decode(raw)
    except RecursionError:
        raise NotStrict(_TOO_DEEP) from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise NotStrict(_explain(raw, error)) from None
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _is_deep(value):
        raise NotStrict(_TOO_DEEP)
    # Decoding and encoding keeps every colon, within strings and between key and value, unless a key was given
    # twice: then the first of the two is gone, and its colon. Only an escaped colon could make up for it.
    if raw.count(b":") != _encode(value).count(b":") or b"\\u003" in raw:
        _refuse_duplicates(raw)
    if len(raw) > MAX_DIGITS and _LONG_NUMBER.search(raw) and _has_huge_number(value):
        raise NotStrict("has a number beyond a double")
    return value


def canonical(value: Any) -> bytes:
    """One spelling for equal JSON values: keys in order, no white space, escapes only where JSON needs them.

    Numbers count by value: a float that is whole and below 2**53 is written as an integer, so 1.0 and 1 are the
    same, and so are 1e2 and 100. Takes what `loads` returns and the Structs made of it.
    """
    encoded = _encode_ordered(value)
    if b".0" not in encoded:  # how every whole float below 1e16 ends; in a text it is a false alarm
        return encoded
    return _encode_ordered(_whole_floats_as_integers(_decode(encoded)))


def quote(value: object) -> str:
    """`value` as an error message may repeat it: at most LONGEST_QUOTE characters, on one printable line."""
    if isinstance(value, bytes):
        value = value[: 4 * LONGEST_QUOTE].decode("utf-8", "replace")
    if isinstance(value, str):
        text = repr(value[:LONGEST_QUOTE]) + "…" * (len(value) > LONGEST_QUOTE)
    else:
        text = _encode(value)[: 4 * LONGEST_QUOTE].decode("utf-8", "ignore")
        if not text.isprintable():
            text = ascii(text)[1:-1]
    return text if len(text) <= LONGEST_QUOTE else text[: LONGEST_QUOTE - 1] + "…"


_TOO_DEEP = f"is nested deeper than {MAX_DEPTH}"


def _explain(raw: bytes, error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "is not valid UTF-8"
    if isinstance(error, msgspec.ValidationError):  # the untyped decoder has no other reason for it
        return "has a number beyond a double"
    return f"is not JSON: {_where_it_breaks(raw, error)}"


def _where_it_breaks(raw: bytes, error: Exception) -> str:
    if not raw.strip():
        return "it is empty"
    if raw.startswith(b"\xef\xbb\xbf"):
        return "it begins with a byte order mark"
    text = str(error).removeprefix("JSON is malformed: ")
    if (found := _AT_BYTE.search(text)) is not None:
        rest = raw[int(found[1]) :]
        if rest.startswith((b"N", b"I")):
            return f"NaN and Infinity are no numbers there {found[0]}"
    if ("surrogate" in text or "truncated" in text or "hex escape" in text) and _SURROGATE_ESCAPE.search(raw):
        return "it is cut short or has a lone surrogate"
    return text


def _children(value: Any) -> Iterable[Any]:
    if type(value) is dict:
        return value.values()
    return value if type(value) is list else ()


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for parent in level for child in _children(parent) if type(child) in (dict, list)]
        if not level:
            return False
    return True


def _everything_in(value: Any) -> Iterator[Any]:
    waiting = [value]
    while waiting:
        item = waiting.pop()
        yield item
        waiting.extend(_children(item))


def _has_huge_number(value: Any) -> bool:
    return any(
        type(item) is int and item.bit_length() > 1000 and _overflows(item) for item in _everything_in(value)
    )


def _overflows(number: int) -> bool:
    try:
        float(number)
    except OverflowError:
        return True
    return False


def _refuse_duplicates(raw: bytes) -> None:
    def checked(pairs: list[tuple[str, Any]]) -> None:
        if len(pairs) > 1 and len(dict(pairs)) != len(pairs):
            seen: set[str] = set()
            twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            raise NotStrict(f"has the key {quote(twice)} twice")

    json.loads(raw.decode(), object_pairs_hook=checked)


def _whole_floats_as_integers(value: Any) -> Any:
    if type(value) is float:
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    if type(value) is dict:
        return {name: _whole_floats_as_integers(item) for name, item in value.items()}
    if type(value) is list:
        return [_whole_floats_as_integers(item) for item in value]
    return value
