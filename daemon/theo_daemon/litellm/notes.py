"""What an import could not take over as it was, place by place."""

from __future__ import annotations

from msgspec import Struct


class Note(Struct, frozen=True):
    """`where` is a place in LiteLLM's file. `lost`: something does not hold any more; else it is good to know."""

    where: str
    text: str
    lost: bool = True

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


class Notes:
    """Collected in the order in which they were found; each once."""

    def __init__(self) -> None:
        self.all: list[Note] = []

    def lost(self, where: str, text: str) -> None:
        """It has no equivalent, or not quite."""
        self._add(Note(where, text))

    def told(self, where: str, text: str) -> None:
        """It holds, in another way than before."""
        self._add(Note(where, text, lost=False))

    def _add(self, note: Note) -> None:
        if note not in self.all:
            self.all.append(note)
