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
        """`each` per token and `rare` on top of it per rare token, but not more than one per byte."""
        ids = self._encode(text)
        weight = each * len(ids) + (rare * sum(map(_is_rare, ids)) if rare else 0.0)
        return min(weight, byte_length(text))


def byte_length(text: str) -> int:
    """UTF-8 bytes: no byte-level tokenizer makes more tokens of a text."""
    # "surrogatepass" keeps the function total; jobs are valid UTF-8.
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
