"""The long strings of a large body are cut out before it is decoded, and put back as they are. Pure.

So what decodes it builds small things only, whatever its format and size. In each string's place stands a mark: a
character for private use that the rest of the body does not have, and a number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from msgspec import Raw

from theo_workers.texts import Text, json_content, quoted

LONG_BYTES = 4_096
# As far as the next long string, in a body in which no quote is escaped.
_NEXT = re.compile(
    rb'(?:[^"]*+"[^"]{0,%d}+")*+[^"]*+"([^"]{%d,}+)"' % (LONG_BYTES, LONG_BYTES + 1),
)
_PRIVATE = range(0xE000, 0xF900)

# Decoded, `{}` takes thirty times its bytes, and a short string a dozen times.
MOST_BYTES = 96_000_000
_CONTAINER_BYTES, _VALUE_BYTES = 96, 64


class Cuttings:
    """What was cut out of one body, and `rest`, which is JSON like it. Garbage may come out as other garbage."""

    def __init__(self, body: bytes | bytearray) -> None:
        """Raises ValueError for a body in which any mark could be mistaken."""
        self._body = body
        self._spans = list(_long_strings(body))
        self.rest: bytes | bytearray = body
        if self._spans:
            gaps = _gaps(body, self._spans)
            mark = _unused_in(gaps)
            self.rest = _marked(gaps, mark)
            self._marks = re.compile(rb"%b(\d+);" % mark)

    @property
    def too_much(self) -> bool:
        """Would the rest, decoded, take more than a process should give to one answer?"""
        return _decoded_bytes(self.rest) > MOST_BYTES

    def text(self, told: str) -> Text:
        """A text made of strings of the rest, whole again. Raises ValueError for what was not valid in it."""
        if not self._spans:
            return told
        if (only := self._marks.fullmatch(told.encode())) is not None:
            start, end = self._spans[int(only[1])]
            content = json_content(self._body, start, end)
            if isinstance(content, memoryview):  # as it lies in the body
                return Raw(memoryview(self._body)[start - 1 : end + 1])
        held = quoted(told)
        return told if self._marks.search(held) is None else self._whole(held)

    def json(self, told: Raw) -> Raw:
        """JSON made of values of the rest, whole again. Raises ValueError."""
        if not self._spans or self._marks.search(told) is None:
            return told
        return self._whole(told, nested=True)

    def _whole(self, told: bytes | Raw, *, nested: bool = False) -> Raw:
        held, whole, at = memoryview(told), bytearray(), 0
        for found in self._marks.finditer(held):
            whole += held[at : found.start()]
            content = json_content(self._body, *self._spans[int(found[1])])
            quote = bytes(held[found.start() - 2 : found.start()])
            if nested and quote == b'\\"':  # in JSON that is itself a string
                content = bytes(content).replace(b"\\", b"\\\\").replace(b'"', b'\\"')
            whole += content
            at = found.end()
        whole += held[at:]
        return Raw(whole)


def decoded_bytes(body: bytes) -> int:
    """What the values of this JSON take once decoded, more or less; of long strings nothing."""
    if len(body) <= LONG_BYTES:
        return _decoded_bytes(body)
    return sum(map(_decoded_bytes, map(bytes, _gaps(body, list(_long_strings(body))))))


def _decoded_bytes(body: bytes | bytearray) -> int:
    containers = body.count(b"{") + body.count(b"[")
    return containers * _CONTAINER_BYTES + body.count(b",") * _VALUE_BYTES


def _long_strings(body: bytes | bytearray) -> Iterator[tuple[int, int]]:
    """Where their contents begin and end."""
    if b"\\" in body:
        body = body.replace(b"\\\\", b"__").replace(b'\\"', b"__")
    found = _NEXT.match(body)
    while found is not None:
        yield found.span(1)
        found = _NEXT.match(body, found.end())


def _gaps(body: bytes | bytearray, spans: Sequence[tuple[int, int]]) -> list[memoryview]:
    held = memoryview(body)
    starts, ends = [0, *(end for _, end in spans)], [*(start for start, _ in spans), len(body)]
    return [held[start:end] for start, end in zip(starts, ends, strict=True)]


def _unused_in(gaps: Sequence[memoryview]) -> bytes:
    for number in _PRIVATE:
        mark = chr(number).encode()
        said = re.compile(rb"%b|\\u%04x" % (mark, number), re.IGNORECASE)
        if not any(map(said.search, gaps)):
            return mark
    raise ValueError("a body with every character for private use")


def _marked(gaps: Sequence[memoryview], mark: bytes) -> bytearray:
    rest = bytearray(gaps[0])
    for number, gap in enumerate(gaps[1:]):
        rest += b"%b%d;" % (mark, number)
        rest += gap
    return rest
