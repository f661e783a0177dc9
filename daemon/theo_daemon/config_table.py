"""Reads one table of the configuration strictly, and words what is wrong with it for a tired operator."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

import msgspec
from msgspec import Struct, inspect

Reader = Callable[[Any], Any]
"""Turns a key's TOML value into what the Struct holds. Raises ValueError with what is wrong."""

_HUGE = 2**53


class Report:
    """What is wrong with a configuration, collected so that it can be told at once."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []

    def error(self, at: str, text: str) -> None:
        """`at` is table and key, as `[ingress] lease_s`."""
        self.errors.append(f"{at}: {text}")

    def warn(self, at: str, text: str) -> None:
        """For what works, but hardly as it was meant."""
        self.warnings.append(f"{at}: {text}")


class Shape(Struct, frozen=True, kw_only=True):
    """How a table is read into `cls`: keys that need more than their type, keys beside the Struct's, aliases."""

    cls: type[Struct]
    readers: Mapping[str, Reader] = {}
    extras: Mapping[str, Any] = {}  # key -> type
    aliases: Mapping[str, str] = {}
    hidden: frozenset[str] = frozenset()  # fields of the Struct that are no keys


def read_table(shape: Shape, raw: object, at: str, report: Report) -> dict[str, Any]:
    """The values of the keys that are set and right; everything else goes to `report`.

    `at` names the table, as `[ingress]`. What is missing is the caller's to find: an unset key is not in the result.
    """
    if not isinstance(raw, Mapping):
        report.error(at, f"this is {_kind(raw)}, it must be a table")
        return {}
    types = {name: kind for name, kind in _types(shape.cls).items() if name not in shape.hidden}
    types |= shape.extras
    valid = [*types, *shape.aliases]
    read: dict[str, Any] = {}
    written: dict[str, str] = {}  # key -> how the file spells it
    for spelling, value in raw.items():
        key = shape.aliases.get(spelling, spelling)
        if key not in types:
            report.error(f"{at} {spelling}", unknown("key", spelling, valid))
            continue
        try:
            parsed = _read(types[key], shape.readers.get(key), value)
        except ValueError as error:
            report.error(f"{at} {spelling}", str(error))
            continue
        if key in read and read[key] != parsed:
            report.error(
                f"{at} {spelling}", f"is another name for {written[key]}, with another value: keep one"
            )
            continue
        read[key], written[key] = parsed, spelling
    return read


def read_value(kind: Any, value: object) -> Any:
    """`value` as a `kind` (a type, perhaps Annotated). Raises ValueError with what is allowed."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        raise ValueError(f"{_shown(value)} is not allowed; {allowed(inspect.type_info(kind))}") from None


def text_of(value: object, wanted: str) -> str:
    """`value` if it is a text. Raises ValueError that says what is `wanted`."""
    match value:
        case str():
            return value
        case _:
            raise ValueError(f"{_kind(value)} is not allowed; {wanted}")


def allowed(kind: inspect.Type) -> str:  # noqa: PLR0911  # one for each kind there is
    """What a type allows, in words: `a whole number, at least 1`."""
    match kind:
        case inspect.Metadata(extra={"allowed": str(text)}):
            return f"allowed: {text}"
        case inspect.Metadata(type=inner):
            return allowed(inner)
        case inspect.UnionType(types=kinds):
            return " or ".join(allowed(one) for one in kinds if not isinstance(one, inspect.NoneType))
        case inspect.IntType() | inspect.FloatType():
            return f"{'a whole number' if isinstance(kind, inspect.IntType) else 'a number'}{_range(kind)}"
        case inspect.BoolType():
            return "true or false"
        case inspect.StrType(min_length=least, max_length=most):
            return "a text" + (f" of {least or 0} to {most} characters" if most else "")
        case inspect.LiteralType(values=values):
            return "one of " + ", ".join(f'"{value}"' for value in values)
        case inspect.EnumType(cls=enum):
            return "one of " + ", ".join(f'"{member.value}"' for member in enum)
        case inspect.VarTupleType(item_type=item):
            return f"a list, each item {allowed(item)}"
        case _:
            return "a table"


def unknown(what: str, word: str, valid: Iterable[str]) -> str:
    """`unknown key; did you mean "rpm"?`, or the whole list when nothing is near."""
    names = sorted(set(valid))
    if not names:
        return f"unknown {what}; there are none here"
    wanted = word.lower().replace("-", "_")
    nearest = difflib.get_close_matches(wanted, names, n=1, cutoff=0.0)[0]
    if difflib.SequenceMatcher(None, nearest, wanted).ratio() >= 0.6:
        return f'unknown {what}; did you mean "{nearest}"?'
    return f'unknown {what}; the nearest is "{nearest}", valid are: {", ".join(names)}'


@cache
def _types(cls: type[Struct]) -> dict[str, Any]:
    return {one.name: one.type for one in msgspec.structs.fields(cls)}


def _read(kind: Any, reader: Reader | None, value: object) -> Any:
    return read_value(kind, value) if reader is None else reader(value)


def _range(kind: inspect.IntType | inspect.FloatType) -> str:
    parts = []
    if kind.gt is not None:
        parts.append(f"above {kind.gt:.15g}")
    if kind.ge is not None:
        parts.append(f"at least {kind.ge:.15g}")
    if kind.le is not None and kind.le < _HUGE:
        parts.append(f"at most {kind.le:.15g}")
    return ", " + " and ".join(parts) if parts else ""


def _kind(value: object) -> str:
    match value:
        case Mapping():
            return "a table"
        case list():
            return "a list"
        case str():
            return "a text"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case _:
            return "a date or time"


def _shown(value: object) -> str:
    """Numbers as they are and short words quoted; anything longer might be a key pasted into the wrong place."""
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return f"{value:.15g}" if isinstance(value, float) else str(value)[:24]
        case str() if len(value) <= 16:
            return f'"{value}"'
        case _:
            return _kind(value)
