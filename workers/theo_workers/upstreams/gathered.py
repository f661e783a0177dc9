"""The text of a streamed answer while its pieces arrive: once it is long, it is kept as JSON."""

from __future__ import annotations

from msgspec import Raw

from theo_workers.texts import Text, plain, quoted

LONG_CHARS = 65_536


class Gathered:
    """Pieces in, one text out."""

    __slots__ = ("_long", "_loose", "_pieces", "size")

    def __init__(self) -> None:
        self.size = 0  # characters
        self._pieces: list[str] = []  # those that are not in `_long` yet
        self._loose = 0  # characters of these
        self._long = bytearray()  # a JSON string without its closing quote

    def __bool__(self) -> bool:
        return self.size > 0

    def add(self, piece: str) -> None:
        """Raises UnicodeEncodeError for half a surrogate pair in a long text."""
        self._pieces.append(piece)
        self.size += len(piece)
        self._loose += len(piece)
        if self._loose > LONG_CHARS:
            self._pack()

    def whole(self) -> Text:
        """All of it; nothing is kept."""
        if not self._long:
            return "".join(self._pieces)
        self._pack()
        long, self._long = self._long, bytearray()
        long += b'"'
        return Raw(long)

    def so_far(self) -> str:
        """All of it, and everything is kept."""
        long = Raw(bytes(self._long) + b'"') if self._long else ""
        return plain(long) + "".join(self._pieces)

    def _pack(self) -> None:
        self._long += quoted("".join(self._pieces))[1 if self._long else 0 : -1]
        self._pieces, self._loose = [], 0
