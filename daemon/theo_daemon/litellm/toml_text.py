"""Writes TOML: tables of plain values, with comments that cannot end before their line does."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")
WIDTH = 118


def toml_value(value: Any) -> str:
    """On one line."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return repr(int(value)) + ".0" if value.is_integer() and abs(value) < 1e15 else repr(value)
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case Mapping():
            inside = ", ".join(f"{toml_key(key)} = {toml_value(one)}" for key, one in value.items())
            return f"{{ {inside} }}" if inside else "{}"
        case Sequence():
            return f"[{', '.join(map(toml_value, value))}]"
        case _:
            raise TypeError(f"no TOML for {type(value).__name__}")


def toml_key(key: str) -> str:
    return key if _BARE.fullmatch(key) else toml_value(key)


def toml_table(head: str, values: Mapping[str, Any]) -> list[str]:
    """`head` with its brackets, then a line for each key."""
    return [head, *(f"{toml_key(key)} = {toml_value(value)}" for key, value in values.items())]


def comment(text: str, *, mark: str = "") -> list[str]:
    """`text` as comment lines; `mark` stands before the first, and the others are indented like it."""
    shown = _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    first, rest = f"# {mark}", f"# {' ' * len(mark)}"
    return textwrap.wrap(
        shown,
        WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    ) or ["#"]
