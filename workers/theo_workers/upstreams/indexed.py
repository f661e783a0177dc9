"""The parts of a streamed answer (calls, blocks, items) while their pieces arrive, each found at once. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Generic, TypeVar

P = TypeVar("P")

MOST_PARTS: Final = 4_096
"""Of one answer: each takes a hundred times the bytes of the shortest event that begins one."""
TOO_MANY: Final = f"the stream has more than {MOST_PARTS} parts"


class Indexed(Generic[P]):
    """In the order in which they began. Of those that a server gave the same index, the latest counts."""

    __slots__ = ("_by_index", "_parts")

    def __init__(self) -> None:
        self._parts: list[P] = []
        self._by_index: dict[str, P] = {}

    def __iter__(self) -> Iterator[P]:
        return iter(self._parts)

    def __bool__(self) -> bool:
        return bool(self._parts)

    @property
    def full(self) -> bool:
        """There may be no more."""
        return len(self._parts) >= MOST_PARTS

    @property
    def latest(self) -> P | None:
        return self._parts[-1] if self._parts else None

    def named(self, index: Any) -> P | None:
        """The one that a piece with this index belongs to."""
        return self._by_index.get(_name(index))

    def begin(self, index: Any, part: P) -> P:
        self._parts.append(part)
        self._by_index[_name(index)] = part
        return part


def _name(index: Any) -> str:
    """A key whose hash nobody can choose, as that of a number; hexadecimal, since that takes a number of any length.

    What is neither a number nor a text is no index, and names the same part each time.
    """
    if isinstance(index, int):
        return hex(index)
    return repr(index) if isinstance(index, str | float) else type(index).__name__
