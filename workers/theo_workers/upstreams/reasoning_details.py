"""OpenRouter's `reasoning_details` of a streamed answer, put together from their pieces. Pure."""

from __future__ import annotations

from typing import Any

from theo_workers.upstreams.gathered import Gathered

MOST_DETAILS = 512  # one for each block of thinking and for each call; who sends more sends something else

# Fields that come in pieces. A signature comes whole, after the text that it signs, and covers all of it.
_JOINED = frozenset({"text", "summary", "data"})


class Details:
    """Pieces in, the details as a plain answer has them out."""

    def __init__(self) -> None:
        self._details: list[_Detail] = []

    def add(self, pieces: Any) -> bool:
        """What one delta has; whatever is no list of objects is passed over. Was there anything new in it but text?"""
        new = False
        for piece in pieces if isinstance(pieces, list) else ():
            if isinstance(piece, dict) and len(self._details) <= MOST_DETAILS:
                new |= self._detail_of(piece).add(piece)
        return new

    def whole(self) -> list[dict[str, Any]]:
        """All of them by `index`, else as they came; none if they are too many. Nothing is kept."""
        details, self._details = self._details, []
        if len(details) > MOST_DETAILS:
            return []
        if all(isinstance(detail.index, int) for detail in details):
            details.sort(key=_index_of)
        return [detail.joined() for detail in details]

    def _detail_of(self, piece: dict[str, Any]) -> _Detail:
        """The one that a piece continues, or a new one."""
        # Without an index, only what came last can go on.
        known = self._details if piece.get("index") is not None else self._details[-1:]
        for detail in reversed(known):
            if detail.is_continued_by(piece):
                return detail
        self._details.append(_Detail(piece))
        return self._details[-1]


class _Detail:
    """One while its pieces arrive."""

    def __init__(self, first: dict[str, Any]) -> None:
        self.index = first.get("index")
        self._fields: dict[str, Any] = {}  # in the order in which they came
        self._texts: dict[str, Gathered] = {}

    def is_continued_by(self, piece: dict[str, Any]) -> bool:
        """Same index and type; of one index there may be several, as signatures of parallel calls, by their ids."""
        mine, other = self._fields.get("id"), piece.get("id")
        return (
            piece.get("index") == self.index
            and piece.get("type") == self._fields.get("type")
            and (mine is None or other is None or mine == other)
            and (self.index is not None or self._fields.get("signature") is None)
        )

    def add(self, piece: dict[str, Any]) -> bool:
        """Was there a field in it that none had before?"""
        before = len(self._fields)
        for name, value in piece.items():
            if name in _JOINED and isinstance(value, str):
                self._fields[name] = None
                self._texts.setdefault(name, Gathered()).add(value)
            elif self._fields.get(name) is None or (name == "signature" and value):
                self._fields[name] = value
        return len(self._fields) > before

    def joined(self) -> dict[str, Any]:
        return {**self._fields, **{name: text.whole() for name, text in self._texts.items()}}


def _index_of(detail: _Detail) -> Any:
    return detail.index
