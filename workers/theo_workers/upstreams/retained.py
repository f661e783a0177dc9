"""How much of a process's memory the values of a stream take, of those that stay until its end. Pure.

Decoded, `{}` takes thirty times its bytes. Text is not meant here: it stays as it came, and is counted as `kept`.
"""

from __future__ import annotations

from typing import Final

from theo_workers.upstreams.long_strings import MOST_BYTES, decoded_bytes

TOO_MUCH: Final = "the stream has too many values"
_MOST: Final = MOST_BYTES // 2
_UNWEIGHED_BYTES: Final = 65_536


class Retained:
    """Of one answer."""

    __slots__ = ("_bytes",)

    def __init__(self) -> None:
        self._bytes = 0

    def too_much(self, data: bytes) -> bool:
        """Some of this event stays: is it more now than one answer may take?"""
        self._bytes += decoded_bytes(data)
        return self._bytes > _MOST


def is_too_much(data: bytes) -> bool:
    """Is one event, decoded, more than an answer may take even for a moment?"""
    return len(data) > _UNWEIGHED_BYTES and decoded_bytes(data) > _MOST
