from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theo_workers.upstreams.sse import EventTooLongError, SseEvent, SseParser


def parse(*pieces: bytes, **limits: int) -> list[SseEvent]:
    parser = SseParser(**limits)
    return [event for piece in pieces for event in parser.feed(piece)]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\n", [(b"", b"a")]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [(b"", b"a"), (b"", b"b")]),
        (b"data: a\r\rdata: b\r\r", [(b"", b"a"), (b"", b"b")]),
        (b"event: error\ndata: a\n\ndata: b\n\n", [(b"error", b"a"), (b"", b"b")]),
        (b"data: a\ndata: b\n\n", [(b"", b"a\nb")]),
        (b"data: a\r\ndata: b\r\n\r\n", [(b"", b"a\nb")]),
        (b"data:a\n\n", [(b"", b"a")]),
        (b"data:  a\n\n", [(b"", b" a")]),
        (b"data\n\n", [(b"", b"")]),
        (b": comment\n\n: another\ndata: a\n\n", [(b"", b"a")]),
        (b"\xef\xbb\xbfdata: a\n\n", [(b"", b"a")]),
        (b"id: 1\nretry: 5\nwhatever: x\ndata: a\n\n", [(b"", b"a")]),
        (b"event: lonely\n\ndata: a\n\n", [(b"", b"a")]),
        (b"data: unfinished\n", []),
        (b"data: a:b\n\n", [(b"", b"a:b")]),
        (b"\n\n\r\n", []),
    ],
)
def test_reads_what_the_standard_says(stream: bytes, events: list[tuple[bytes, bytes]]) -> None:
    assert parse(stream) == events
    assert parse(*(stream[at : at + 1] for at in range(len(stream)))) == events


LINES = st.sampled_from(
    [
        b"data: a",
        b"data: {\xc3\xa4}",
        b"data",
        b"event: e",
        b": c",
        b"",
        b"",
        b"id: 3",
        b"\xef\xbb\xbfdata: x",
    ]
) | st.binary(max_size=20)


@given(
    lines=st.lists(st.tuples(LINES, st.sampled_from([b"\n", b"\r\n", b"\r"])), max_size=30),
    cuts=st.lists(st.integers(0, 400), max_size=20),
)
def test_where_the_bytes_were_cut_does_not_matter(lines: list[tuple[bytes, bytes]], cuts: list[int]) -> None:
    stream = b"".join(line + end for line, end in lines)
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    pieces = [stream[a:b] for a, b in itertools.pairwise(places)]
    whole, cut = SseParser(), SseParser()
    assert whole.feed(stream) + whole.close() == [e for p in pieces for e in cut.feed(p)] + cut.close()


@given(st.binary(max_size=300))
def test_any_bytes_are_survived(stream: bytes) -> None:
    parser = SseParser(max_event_bytes=64)
    try:
        events = parser.feed(stream) + parser.close()
    except EventTooLongError:
        return
    assert all(len(event.data) <= 64 for event in events)


def test_close_gives_what_lacks_its_blank_line() -> None:
    parser = SseParser()
    assert parser.feed(b"data: [DONE]") == []
    assert parser.close() == [SseEvent(b"", b"[DONE]")]
    assert parser.close() == []


@pytest.mark.parametrize(
    "pieces",
    [[b"data: " + b"x" * 100], [b"x"] * 100, [b"data: xxxx\n"] * 30, [b"data: " + b"x" * 100 + b"\n\n"]],
    ids=["line without end", "byte by byte", "event without end", "line in one piece"],
)
def test_lines_and_events_are_bounded(pieces: list[bytes]) -> None:
    with pytest.raises(EventTooLongError):
        parse(*pieces, max_event_bytes=64)


def test_a_long_line_in_small_pieces_takes_linear_time() -> None:
    parser = SseParser()
    for _ in range(30_000):
        assert parser.feed(b"x" * 100) == []
    assert parser.feed(b"\n\n") == []
