import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from theo_daemon.telemetry.line_sink import LineSink


class Pipe:
    def __init__(self) -> None:
        self.out, self.into = os.pipe()
        os.set_blocking(self.out, False)

    def read(self) -> bytes:
        chunks = []
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self.out, 65536):
                chunks.append(chunk)
        return b"".join(chunks)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    for fd in (pipe.out, pipe.into):
        with contextlib.suppress(OSError):
            os.close(fd)


async def test_writes_the_lines_of_a_tick_at_once(pipe: Pipe) -> None:
    sink = LineSink(pipe.into)
    sink.attach(asyncio.get_running_loop())
    sink.put(b"one\n")
    sink.put(b"two\n")
    assert pipe.read() == b""
    await asyncio.sleep(0)
    assert pipe.read() == b"one\ntwo\n"


def test_writes_at_once_where_no_loop_runs(pipe: Pipe) -> None:
    LineSink(pipe.into).put(b"one\n")
    assert pipe.read() == b"one\n"


def test_leaves_the_inherited_descriptor_blocking_for_others(pipe: Pipe) -> None:
    LineSink(pipe.into).put(b"one\n")
    assert os.get_blocking(pipe.into)


@pytest.mark.parametrize("own_description", [True, False])
async def test_a_blocked_reader_holds_nobody_and_gets_whole_lines_in_order_later(
    pipe: Pipe, own_description: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not own_description:

        def refuse(*_: object) -> int:
            raise PermissionError

        monkeypatch.setattr(os, "open", refuse)
    sink = LineSink(pipe.into)
    sink.attach(asyncio.get_running_loop())
    lines = [b"%06d %s\n" % (number, b"x" * 300) for number in range(1_000)]  # five times what a pipe holds
    for line in lines:
        sink.put(line)
    await asyncio.sleep(0)  # returns: the write did not wait
    read = pipe.read()
    assert 0 < len(read) < sum(map(len, lines))
    while not sink.flush():
        read += pipe.read()
    read += pipe.read()
    assert read == b"".join(lines)
    assert sink.dropped == 0


async def test_counts_what_it_must_drop_and_says_so_once_the_reader_is_back(pipe: Pipe) -> None:
    sink = LineSink(pipe.into, limit_bytes=200_000)
    sink.notice = lambda count: b"lost %d\n" % count
    for _ in range(3_000):
        sink.put(b"x" * 99 + b"\n")
    assert sink.dropped > 0
    read = b""
    while not sink.flush():
        read += pipe.read()
    read += pipe.read()
    assert read.endswith(b"\nlost %d\n" % sink.dropped)
    assert read.count(b"\n") - 1 + sink.dropped == 3_000


def test_a_reader_that_is_gone_raises_nothing(pipe: Pipe) -> None:
    sink = LineSink(pipe.into)
    os.close(pipe.out)
    sink.put(b"one\n")
    assert sink.dropped == 1


def test_a_standard_error_that_is_closed_raises_nothing() -> None:
    fd = os.open(os.devnull, os.O_WRONLY)
    os.close(fd)
    sink = LineSink(fd)
    sink.put(b"one\n")
    sink.close()


def test_writes_to_a_file_behind_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"zero\n")
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    LineSink(fd).put(b"one\n")
    os.close(fd)
    assert path.read_bytes() == b"zero\none\n"


def test_a_full_socket_such_as_the_journal_holds_nobody() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sink = LineSink(ours.fileno())
        line = b"y" * 999 + b"\n"
        for _ in range(1_000):
            sink.put(line)
        theirs.setblocking(False)
        read = b""
        done = False
        while not done:
            done = sink.flush()
            with contextlib.suppress(BlockingIOError):
                while chunk := theirs.recv(65536):
                    read += chunk
        assert read == line * 1_000


async def test_takes_lines_from_other_threads(pipe: Pipe) -> None:
    sink = LineSink(pipe.into)
    sink.attach(asyncio.get_running_loop())

    def put_many() -> None:
        for _ in range(100):
            sink.put(b"line\n")

    writers = [threading.Thread(target=put_many) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    await asyncio.sleep(0)
    sink.flush()
    assert pipe.read() == b"line\n" * 400


def test_closing_writes_what_is_left_and_late_lines_still_arrive(pipe: Pipe) -> None:
    sink = LineSink(pipe.into)
    sink.put(b"one\n")
    sink.close()
    sink.put(b"late\n")
    assert pipe.read() == b"one\nlate\n"
