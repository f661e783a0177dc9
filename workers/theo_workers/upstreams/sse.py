"""Server-sent events, sans I/O: bytes in, events out, however the bytes were cut."""

from __future__ import annotations

from typing import NamedTuple

_BOM = b"\xef\xbb\xbf"


class SseEvent(NamedTuple):
    """One event. `event` is empty when the stream did not name it; several data lines are joined by \\n."""

    event: bytes
    data: bytes


class EventTooLongError(ValueError):
    """A line or an event beyond the parser's limit."""


class SseParser:
    """Feed it what the socket gives. Memory is bounded by `max_event_bytes` and one piece of input."""

    def __init__(self, *, max_event_bytes: int = 4_194_304) -> None:
        self._limit = max_event_bytes
        self._partial = bytearray()  # a line whose end has not come yet
        self._after_cr = False  # the last byte was CR: an LF that follows belongs to it
        self._at_start = True
        self._event = b""
        self._data: list[bytes] = []
        self._size = 0

    @property
    def kept(self) -> int:
        """Bytes of what has begun and is not whole."""
        return len(self._partial) + self._size

    @property
    def midway(self) -> bool:
        """Has an event or a comment begun that is not whole?"""
        return bool(self._partial or self._data)

    def feed(self, data: bytes) -> list[SseEvent]:
        """The events that `data` completes. Raises EventTooLongError."""
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")
        if b"\n" not in data and b"\r" not in data:
            self._keep(data)
            return []
        if self._partial:
            data = bytes(self._partial) + data
            self._partial.clear()
        self._after_cr = data.endswith(b"\r")
        lines = data.splitlines(keepends=True)
        if not data.endswith((b"\n", b"\r")):
            self._keep(lines.pop())
        events: list[SseEvent] = []
        for line in lines:
            self._line(line.rstrip(b"\r\n"), events)
        return events

    def close(self) -> list[SseEvent]:
        """The stream has ended: what came without its closing blank line, as some servers leave it."""
        events: list[SseEvent] = []
        if self._partial:
            line = bytes(self._partial)
            self._partial.clear()
            self._line(line, events)
        self._line(b"", events)
        return events

    def _keep(self, data: bytes) -> None:
        if len(self._partial) + len(data) > self._limit:
            raise EventTooLongError
        self._partial += data

    def _line(self, line: bytes, events: list[SseEvent]) -> None:
        if len(line) > self._limit:
            raise EventTooLongError
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(_BOM)
        if not line:
            if self._data:
                events.append(SseEvent(self._event, b"\n".join(self._data)))
            self._event, self._data, self._size = b"", [], 0
            return
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._size += len(value) + 1
            if self._size > self._limit:
                raise EventTooLongError
            self._data.append(value)
        elif name == b"event":
            self._event = value
        # comments (an empty name), id, retry and names nobody knows: nothing to do
