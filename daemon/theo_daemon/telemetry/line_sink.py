"""Log lines to a file descriptor: a tick's lines in one write, never waiting for a slow reader.

Lines wait in memory while the reader is slow (4 MiB by default); what comes beyond that is dropped and
counted. A terminal or pipe is opened anew without blocking, since the flag on the inherited description
would be set for every process that shares it. Where that is not possible (no /proc, another user's pipe),
the descriptor is asked before each write of at most PIPE_BUF bytes; then only a reader that stops for
good while another process fills the same pipe in between could hold us. A file on a disk that hangs can
hold us, too.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import stat
import threading
from collections import deque
from collections.abc import Callable
from functools import partial

_RETRY_S = 0.05
_FILE_CHUNK = 1 << 20
_CHUNK = select.PIPE_BUF  # atomic: lines of processes that share a pipe do not mix

Write = Callable[[bytes], int]  # raises BlockingIOError when it would have to wait


class LineSink:
    """Whole lines in, from any thread; bytes out. Nothing here raises for what the reader does."""

    def __init__(self, fd: int = 2, *, limit_bytes: int = 4 << 20) -> None:
        self.dropped = 0  # lines lost since the start
        self.notice: Callable[[int], bytes] | None = None  # a line that says how many were lost
        self._told = 0
        self._limit = limit_bytes
        self._fd = fd
        self._write, self._chunk, self._close = _writer(fd)
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._scheduled = False

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on write once per tick of `loop`. To be called in its thread."""
        self._loop, self._thread = loop, threading.get_ident()

    def put(self, line: bytes) -> None:
        """Take one line, its newline included."""
        if self._size + len(line) > self._limit:
            self.dropped += 1
            return
        self._lines.append(line)
        self._size += len(line)
        if self._scheduled:
            return
        if self._loop is None:
            self.flush()
        elif threading.get_ident() == self._thread:
            self._scheduled = True
            self._loop.call_soon(self._tick)
        else:
            self._loop.call_soon_threadsafe(self.flush)

    def flush(self) -> bool:
        """Write what can be written without waiting. True when nothing is left."""
        with self._lock:
            emptied = self._drain()
            if emptied and self.notice is not None and self.dropped > self._told:
                lost, self._told = self.dropped - self._told, self.dropped
                self._lines.append(self.notice(lost))
                emptied = self._drain()
            return emptied

    def _drain(self) -> bool:
        while self._lines:
            chunk = self._take()
            try:
                written = self._write(chunk)
            except BlockingIOError:
                written = 0
            except OSError:  # the reader is gone: there is nobody left to tell
                self.dropped += chunk.count(b"\n")
                written = len(chunk)
            self._size -= written
            if written < len(chunk):
                self._lines.appendleft(chunk[written:])
                return False
        self._size = 0  # threads add to it without a lock: what they lost of each other is forgotten here
        return True

    def close(self) -> None:
        """Give the reader up to a second to take what is left, then let go."""
        self._loop = None
        for _ in range(10):
            if self.flush():
                break
            select.select([], [self._fd], [], 0.1)
        self._close()
        self._write = partial(os.write, self._fd)  # for late lines: our own number may be reused

    def _tick(self) -> None:
        self._scheduled = False
        if not self.flush() and self._loop is not None:
            self._scheduled = True
            self._loop.call_later(_RETRY_S, self._tick)

    def _take(self) -> bytes:
        first = self._lines.popleft()
        if not self._lines or len(first) >= self._chunk:
            return first
        taken, size = [first], len(first)
        while self._lines and size + len(self._lines[0]) <= self._chunk:
            line = self._lines.popleft()
            taken.append(line)
            size += len(line)
        return b"".join(taken)


def _writer(fd: int) -> tuple[Write, int, Callable[[], None]]:
    """How to write to `fd` without waiting, in chunks of how many bytes, and how to let go of it."""
    try:
        mode = os.fstat(fd).st_mode
    except OSError:  # closed by whoever started us
        return len, _FILE_CHUNK, _nothing
    if stat.S_ISREG(mode):
        return partial(os.write, fd), _FILE_CHUNK, _nothing
    if stat.S_ISSOCK(mode):  # the journal
        journal = socket.socket(fileno=os.dup(fd))
        return lambda data: journal.send(data, socket.MSG_DONTWAIT), _CHUNK, journal.close
    try:
        own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return _asking_first(fd), _CHUNK, _nothing
    return partial(os.write, own), _CHUNK, partial(os.close, own)


def _asking_first(fd: int) -> Write:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)

    def write(data: bytes) -> int:
        if not poll.poll(0):
            raise BlockingIOError
        return os.write(fd, data[:_CHUNK])

    return write


def _nothing() -> None:
    """Nothing of ours to let go of."""
