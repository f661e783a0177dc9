"""Many rows in few statements, of few distinct sizes: each size is a prepared statement of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import apsw

_CHUNK = 64  # rows of one statement
Bind = str | int | float | None
_BindT = TypeVar("_BindT", str, int)


def insert_rows(db: apsw.Connection, head: str, rows: Sequence[tuple[Bind, ...]], tail: str = "") -> None:
    """`head VALUES (?, ...), (?, ...) tail`, in chunks of few distinct sizes."""
    start = 0
    while start < len(rows):
        size = chunk(len(rows) - start)
        one = "(" + ",".join("?" * len(rows[0])) + ")"
        sql = f"{head} VALUES {','.join([one] * size)} {tail}"
        db.execute(sql, [value for row in rows[start : start + size] for value in row])
        start += size


def chunk(left: int) -> int:
    """The largest power of two that fits, so that seven statements serve every batch size."""
    return min(_CHUNK, 1 << (left.bit_length() - 1))


def marks(count: int) -> str:
    """Of an IN list of so many values."""
    return ",".join("?" * count)


def padded(values: Iterable[_BindT]) -> list[_BindT]:
    """The values, repeated up to a power of two: an IN list of few distinct sizes."""
    found = list(dict.fromkeys(values))
    if found:
        found += [found[0]] * ((1 << (len(found) - 1).bit_length()) - len(found))
    return found
