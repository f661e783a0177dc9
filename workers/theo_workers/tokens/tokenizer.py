"""The length of a text in tokens of one encoding."""

from __future__ import annotations

from collections.abc import Callable

from tiktoken import Encoding

Tokens = Callable[[str], int]

_RARE = 65_000  # the size of Claude's older vocabulary: tokens beyond this rank it has to split
_is_rare = _RARE.__lt__


class Tokenizer:
    """Calls are thread-safe. A user's text never means special tokens."""

    def __init__(self, encoding: Encoding) -> None:
        self._encode = encoding.encode_ordinary

    def __call__(self, text: str) -> int:
        return len(self._encode(text))

    def weigh(self, text: str, *, each: float, rare: float) -> float:
        """`each` per token and `rare` on top of it per rare token."""
        if not rare:
            return each * len(self._encode(text))
        ids = self._encode(text)
        return each * len(ids) + rare * sum(map(_is_rare, ids))
