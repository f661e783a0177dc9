"""What lies in a lane beyond what has been read, as far as it was looked at: whose jobs, and where. Pure.

One pass over the backlog finds every kind of job in it; after that only what is pushed anew is looked at. Kinds that
nobody wants at the moment are passed over, and looked for again from there when they are wanted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

KINDS = 1_024  # of jobs that are told apart in one lane; more come with their turn
LINE = 256  # ids remembered of each


class Kind(NamedTuple):
    """What a job says of itself; "" where it says nothing."""

    tenant: str
    model: str
    workflow: str


class _Line:
    """The jobs of one kind that were found and not taken yet."""

    __slots__ = ("ids", "left_at", "seen_to")

    def __init__(self) -> None:
        self.ids: deque[str] = deque()
        self.seen_to = (0, 0)  # jobs up to here are in `ids`, or were
        self.left_at: str | None = None  # after this one it was lost track of; None: it was not

    def note(self, entry_id: str) -> None:
        if self.left_at is not None or _order(entry_id) <= self.seen_to:
            return
        if len(self.ids) >= LINE:
            self.left_at = self.ids[-1]
            return
        self.ids.append(entry_id)
        self.seen_to = _order(entry_id)


class Backlog:
    """One lane's."""

    def __init__(self) -> None:
        self.cursor = "0-0"  # what was looked at
        self._lines: dict[Kind, _Line] = {}

    def unwanted(self, wants: Callable[[Kind], int]) -> list[Kind]:
        """The kinds to pass over in the next look, which must be told to `looked`.

        Of a kind that is wanted and was lost track of, the next look begins where that was.
        """
        skip = []
        for kind, line in self._lines.items():
            if wants(kind) <= 0 or len(line.ids) >= LINE:
                skip.append(kind)
            elif line.left_at is not None and not line.ids:
                if _order(line.left_at) < _order(self.cursor):
                    self.cursor = line.left_at
                line.left_at = None
        return skip

    def looked(
        self, found: Iterable[tuple[str, Kind]], *, to: str, delivered: str, skipped: Iterable[Kind]
    ) -> None:
        """A look found these, in their order; `to` is where it ended, `delivered` the last id that has been read."""
        for kind in skipped:
            line = self._lines.get(kind)
            if line is not None and line.left_at is None:
                line.left_at = self.cursor
        for entry_id, kind in found:
            line = self._lines.get(kind)
            if line is None:
                if len(self._lines) >= KINDS:
                    continue
                line = self._lines[kind] = _Line()
            line.note(entry_id)
        self.cursor = to
        self._forget_to(delivered)

    def take(self, kind: Kind, count: int) -> list[str]:
        """The first jobs of a kind, to be taken early."""
        line = self._lines.get(kind)
        if line is None:
            return []
        return [line.ids.popleft() for _ in range(min(count, len(line.ids)))]

    def known(self) -> Mapping[Kind, int]:
        """How many jobs of each kind can be taken."""
        return {kind: len(line.ids) for kind, line in self._lines.items() if line.ids}

    def _forget_to(self, delivered: str) -> None:
        """What has been read is not ahead any more."""
        limit = _order(delivered)
        for kind, line in list(self._lines.items()):
            while line.ids and _order(line.ids[0]) <= limit:
                line.ids.popleft()
            if not line.ids and (line.left_at is None or _order(self.cursor) <= limit):
                del self._lines[kind]


def _order(entry_id: str) -> tuple[int, int]:
    """Entry ids as they follow one another."""
    ms, _, number = entry_id.partition("-")
    return int(ms), int(number)
