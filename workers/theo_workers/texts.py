"""Long texts stay the JSON strings that they came as and go out as: a `str` takes up to four bytes a character.

A `Text` is a `str`, or, of a large answer, a `Raw` that holds one JSON string, quotes and all, in valid UTF-8.
What is done to a long one is done piece by piece.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

import msgspec
from msgspec import Raw

Text = str | Raw

PIECE_BYTES = 65_536

Held = bytes | bytearray | memoryview
Json = bytes | tuple[Held, ...]
"""JSON to be kept; of what is large, the pieces that it is made of, which share the memory of what it tells."""

_decode_piece = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode
_utf8 = codecs.getincrementaldecoder("utf-8")

_BACKSLASH = re.compile(rb"\\")
_ESCAPING = ord("\\")
_ESCAPE_OF_SIX = re.compile(rb"\\u")
_CONTROLS = bytes(range(32))
_LONGEST_ESCAPE = 12  # bytes: two halves of a surrogate pair
# As far as escapes are whole; the halves of a pair belong together, and none stands alone.
_WHOLE = re.compile(
    rb"(?:[^\\]++|\\[^u]|\\u(?:[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(?![dD][89a-fA-F])[0-9a-fA-F]{4}))*+",
    re.DOTALL,
)


def clean(text: str) -> str:
    """NUL is the one character left, after decoding, that ends strings early in other people's code."""
    return text.replace("\0", "\ufffd") if "\0" in text else text


def joined(kept: Json) -> bytes:
    """In one piece."""
    return kept if isinstance(kept, bytes) else b"".join(kept)


def length(kept: Json) -> int:
    """Bytes."""
    return len(kept) if isinstance(kept, bytes) else sum(map(len, kept))


def start_within(part: Json, whole: Json) -> int | None:
    """The byte at which `whole` has `part` in it, if both are made of the same long pieces; None if not.

    Nothing long is compared: the same memory says the same.
    """
    if isinstance(part, bytes) or isinstance(whole, bytes) or len(part) != len(whole):
        return None
    head, tail = bytes(whole[0]), bytes(whole[-1])
    around = head.endswith(bytes(part[0])) and tail.startswith(bytes(part[-1]))
    if not around or not all(map(_same, part[1:-1], whole[1:-1])):
        return None
    return len(head) - len(part[0])


def _same(one: Held, other: Held) -> bool:
    if isinstance(one, memoryview) and isinstance(other, memoryview):
        return one.obj is other.obj and len(one) == len(other)
    return not isinstance(one, memoryview) and not isinstance(other, memoryview) and one == other


def text_pieces(text: Raw) -> Iterator[str]:
    """What it says, a piece at a time."""
    held = memoryview(text)
    return _pieces(held, 1, len(held) - 1)


def plain(text: Text) -> str:
    """As a `str`, for those who must have one."""
    return text if isinstance(text, str) else "".join(text_pieces(text))


def utf8(text: Raw) -> memoryview:
    """Its UTF-8, without a copy where nothing in it is escaped."""
    held = memoryview(text)
    if _BACKSLASH.search(held) is None:
        return held[1:-1]
    told = bytearray()
    for piece in text_pieces(text):
        told += piece.encode()
    return memoryview(told)


def json_content(body: bytes | bytearray, start: int, end: int) -> Held:
    """The content of the JSON string between these places of `body`, clean, as it can be put between quotes again.

    Raises ValueError for what is no such content.
    """
    if body.find(b"\\", start, end) < 0:
        held = memoryview(body)[start:end]
        check = _utf8()
        for place in range(0, len(held), PIECE_BYTES):
            piece = bytes(held[place : place + PIECE_BYTES])
            check.decode(piece)
            if len(piece.translate(None, _CONTROLS)) < len(piece):
                raise ValueError("a control character in a string")
        check.decode(b"", final=True)
        return held
    told = bytearray()
    for text in _pieces(body, start, end):
        told += quoted(text)[1:-1]
    return told


def quoted(piece: str) -> bytes:
    """A piece of a text as a JSON string, clean. Raises UnicodeEncodeError for half a surrogate pair."""
    return _encode(clean(piece))


def _pieces(held: Held, start: int, end: int) -> Iterator[str]:
    """Raises ValueError."""
    while start < end:
        stop = _boundary(held, start, end)
        yield _decode_piece(b"".join((b'"', held[start:stop], b'"')))
        start = stop


def _boundary(held: Held, start: int, end: int) -> int:
    """The end of a piece: within no escape and no character."""
    stop = start + PIECE_BYTES
    if stop >= end:
        return end
    if _ESCAPE_OF_SIX.search(held, stop - _LONGEST_ESCAPE, stop) is not None:
        whole = _WHOLE.match(held, start, stop)
        stop = start if whole is None else whole.end()
    else:
        run = 0
        while stop - run > start and held[stop - run - 1] == _ESCAPING:
            run += 1
        stop -= run % 2
    while stop > start and held[stop] & 0xC0 == 0x80:
        stop -= 1
    if stop <= start:
        raise ValueError("a string with a broken escape")
    return stop
