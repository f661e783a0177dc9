"""A connection over a transport in memory: what a response is, however it is cut into pieces."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theo_workers.upstreams.connection import (
    MAX_HEAD_BYTES,
    CutShort,
    HttpConnection,
    NotHttp,
    Unanswered,
)

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nT: t\r\n\r\n"
UNTIL_END = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nhello"
ONE_O = b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello"
GOODBYE = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello"
INTERIM = b"HTTP/1.1 100 Continue\r\nX: 1\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + OK
NOTHING = b"HTTP/1.1 204 No Content\r\n\r\n"


class Transport:
    """Writes nothing down but what was sent; `unsent` bytes of it are still to go."""

    def __init__(self) -> None:
        self.sent, self.unsent, self.closed = b"", 0, False

    def set_protocol(self, protocol: object) -> None:
        pass

    def get_extra_info(self, name: str) -> None:
        return None

    def write(self, data: bytes) -> None:
        self.sent += data

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True


class Link:
    def close(self) -> None:
        pass


class Kept:
    """Takes a response, and how often it was told to wait."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.status, self.headers, self.body, self.waited = 0, {}, b"", 0  # type: ignore[var-annotated]
        self._refuses = refuses

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        assert not self.status
        if self._refuses:
            raise ValueError("no")
        self.status, self.headers = status, dict(headers)

    def data(self, piece: bytes) -> None:
        assert self.status
        self.body += piece

    def waits(self) -> None:
        self.waited += 1


class Scene:
    def __init__(self) -> None:
        self.transport = Transport()
        loop = asyncio.get_running_loop()
        self.connection = HttpConnection(Link(), self.transport, loop)  # type: ignore[arg-type]

    def ask(self, taker: Kept | None = None) -> tuple[Kept, asyncio.Future[bool]]:
        taker = taker or Kept()
        return taker, self.connection.exchange(b"POST", taker)

    def comes(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.connection.data_received(piece)


def run(scenario: Any) -> None:
    async def with_a_loop() -> None:
        scenario(Scene())

    asyncio.run(with_a_loop())


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    marks = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(marks) if start < end]


@pytest.mark.parametrize(
    ("response", "body", "reusable"),
    [
        (OK, b"hello", True),
        (CHUNKED, b"hello", True),
        (INTERIM, b"hello", True),
        (ONE_O, b"hello", False),
        (GOODBYE, b"hello", False),
        (NOTHING, b"", True),
    ],
    ids=["length", "chunked with a trailer", "after interim ones", "1.0", "goodbye", "no content"],
)
@given(places=st.lists(st.integers(0, 500), max_size=12))
def test_a_response_is_the_same_however_it_is_cut(
    response: bytes, body: bytes, reusable: bool, places: list[int]
) -> None:
    def scenario(scene: Scene) -> None:
        taker, done = scene.ask()
        scene.comes(*cut(response, places))
        assert done.result() is reusable
        assert (taker.body, taker.status) == (body, 204 if response is NOTHING else 200)

    run(scenario)


@given(places=st.lists(st.integers(0, 500), max_size=12))
def test_one_that_ends_with_the_connection_is_whole_and_the_connection_is_not_used_again(
    places: list[int],
) -> None:
    def scenario(scene: Scene) -> None:
        taker, done = scene.ask()
        scene.comes(*cut(UNTIL_END, places))
        assert not done.done()
        scene.connection.eof_received()
        assert done.result() is False
        assert taker.body == b"hello"
        assert not scene.connection.alive

    run(scenario)


def test_several_exchanges_follow_one_another() -> None:
    def scenario(scene: Scene) -> None:
        for response in (OK, CHUNKED, INTERIM, OK):
            taker, done = scene.ask()
            scene.comes(response)
            assert done.result() is True
            assert taker.body == b"hello"
        assert scene.transport.sent == b"POST" * 4

    run(scenario)


def test_the_first_of_headers_with_one_name_counts_and_names_are_in_lower_case() -> None:
    def scenario(scene: Scene) -> None:
        taker, _ = scene.ask()
        scene.comes(b"HTTP/1.1 200 OK\r\nX-Id:  one \r\nx-id: two\r\nContent-Length: 0\r\n\r\n")
        assert taker.headers == {"x-id": "one", "content-length": "0"}

    run(scenario)


@pytest.mark.parametrize(
    ("came", "fault"),
    [
        (b"", Unanswered),
        (b"HTTP/1.1 200 OK\r\nContent-Le", Unanswered),
        (OK[:-1], CutShort),
        (CHUNKED[:-5], CutShort),
    ],
)
@pytest.mark.parametrize("error", [None, ConnectionResetError()])
def test_an_end_before_the_response_is_whole_says_how_far_it_came(
    came: bytes, fault: type[Exception], error: Exception | None
) -> None:
    def scenario(scene: Scene) -> None:
        _, done = scene.ask()
        scene.comes(*([came] if came else []))
        scene.connection.connection_lost(error)
        assert type(done.exception()) is (fault if error is None else ConnectionResetError)

    run(scenario)


def test_a_reset_does_not_make_a_response_whole_that_ends_with_the_connection() -> None:
    def scenario(scene: Scene) -> None:
        _, done = scene.ask()
        scene.comes(UNTIL_END)
        scene.connection.connection_lost(ConnectionResetError())
        assert isinstance(done.exception(), ConnectionResetError)

    run(scenario)


@pytest.mark.parametrize(
    "came",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * MAX_HEAD_BYTES + b"\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * MAX_HEAD_BYTES,
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
    ],
    ids=["another protocol", "a large header", "endless headers", "two lengths", "a negative length"],
)
def test_what_is_not_http_ends_the_exchange(came: bytes) -> None:
    def scenario(scene: Scene) -> None:
        _, done = scene.ask()
        scene.comes(came)
        assert isinstance(done.exception(), NotHttp)

    run(scenario)


def test_a_status_is_heard_even_if_garbage_follows_in_the_same_piece() -> None:
    def scenario(scene: Scene) -> None:
        taker, done = scene.ask()
        scene.comes(b"HTTP/1.1 503 X\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
        assert isinstance(done.exception(), NotHttp)
        assert taker.status == 503

    run(scenario)


def test_an_answer_too_many_is_not_taken_for_the_next_one() -> None:
    def scenario(scene: Scene) -> None:
        taker, done = scene.ask()
        scene.comes(OK + OK.replace(b"hello", b"other"))
        assert done.result() is False
        assert taker.body == b"hello"

    run(scenario)


def test_what_comes_while_nothing_was_asked_closes_the_connection() -> None:
    def scenario(scene: Scene) -> None:
        scene.comes(OK)
        assert scene.transport.closed
        _, done = scene.ask()
        assert isinstance(done.exception(), Unanswered)
        assert scene.transport.sent == b""

    run(scenario)


def test_one_whose_request_has_not_gone_out_is_not_used_again() -> None:
    def scenario(scene: Scene) -> None:
        scene.transport.unsent = 7
        _, done = scene.ask()
        scene.comes(OK)
        assert done.result() is False

    run(scenario)


def test_a_refusal_of_the_taker_ends_the_exchange() -> None:
    def scenario(scene: Scene) -> None:
        _, done = scene.ask(Kept(refuses=True))
        scene.comes(OK)
        assert isinstance(done.exception(), ValueError)

    run(scenario)


def test_a_switch_of_protocols_ends_the_response() -> None:
    def scenario(scene: Scene) -> None:
        taker, done = scene.ask()
        scene.comes(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
        assert done.result() is False
        assert taker.status == 101

    run(scenario)


def test_the_taker_is_told_when_there_is_more_to_come() -> None:
    def scenario(scene: Scene) -> None:
        taker, done = scene.ask()
        scene.comes(OK[:20])
        assert taker.waited == 1
        scene.comes(OK[20:-1])
        assert (taker.waited, taker.body) == (2, b"hell")
        scene.comes(OK[-1:])
        assert (taker.waited, done.result()) == (2, True)

    run(scenario)
