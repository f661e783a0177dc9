"""Long texts stay JSON: what they say, piece by piece, is what was said."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from theo_workers import texts
from theo_workers.texts import json_content, length, plain, quoted, utf8

TEXTS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('\\"\n\t/ué汉😀'), max_size=400)


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "PIECE_BYTES", 16)


@settings(max_examples=300)
@given(text=TEXTS, ascii_only=st.booleans(), around=st.binary(max_size=5))
def test_content_cut_anywhere_says_the_same(text: str, ascii_only: bool, around: bytes) -> None:
    told = json.dumps(text, ensure_ascii=ascii_only).encode()
    body = around + told + around
    content = json_content(body, len(around) + 1, len(around) + len(told) - 1)
    whole = Raw(b'"%b"' % bytes(content))
    said = text.replace("\0", "\ufffd")
    assert plain(whole) == said
    assert bytes(utf8(whole)).decode() == said
    assert msgspec.json.decode(whole) == said


@pytest.mark.parametrize(
    "content",
    [
        *(
            b"ab\xff",
            b"\xf0\x9f\x98",
            b"a\nb",
            b"\\x",
            b"\\ud83d",
            b"\\ude00",
            b"\\ud83d\\u0041",
            b"\\",
            b"\\u12",
        ),
        b"x" * 40 + b"\xe6\xb1" + b"x" * 40,
        b"\\n" * 30 + b"\\ud83d" + b"\\n" * 30,
        b"\\u00e9" * 9 + b"\\uzzzz" + b"x" * 99,
    ],
)
def test_what_is_no_content_of_a_string_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of several kinds
        json_content(content, 0, len(content))


def test_a_text_without_escapes_is_not_copied() -> None:
    body = bytearray(b'{"a":"' + "汉字".encode() * 100 + b'"}')
    content = json_content(body, 6, len(body) - 2)
    assert isinstance(content, memoryview)
    assert content.obj is body
    whole = Raw(memoryview(body)[5:-1])
    assert utf8(whole).obj is whole


@given(text=TEXTS)
def test_a_quoted_piece_is_clean_json(text: str) -> None:
    assert json.loads(quoted(text)) == text.replace("\0", "\ufffd")


def test_the_length_of_pieces_is_that_of_the_whole() -> None:
    pieces = (b"ab", memoryview(b"cde"), bytearray(b"f"))
    assert length(pieces) == len(texts.joined(pieces)) == 6


LONG, OTHER = Raw(b'"long"'), Raw(b'"long"')


@pytest.mark.parametrize(
    ("part", "whole", "start"),
    [
        ((b'{"a":', memoryview(LONG), b"}"), (b'["of",{"a":', memoryview(LONG), b"}]"), 6),
        ((b"{", memoryview(LONG), b",", memoryview(OTHER), b"}"),) * 2 + (0,),
        ((b"{", memoryview(LONG), b"}"), (b"{", memoryview(OTHER), b"}"), None),  # it says the same by chance
        ((b"{", memoryview(LONG), b"}"), (b"[", memoryview(LONG), b"}"), None),
        ((b"{", memoryview(LONG), b"}"), (b"{", memoryview(LONG), b"]"), None),
        ((b"{", memoryview(LONG), b"}"), (b"{", memoryview(LONG), b",", memoryview(LONG), b"}"), None),
        (b'{"a":1}', b'[{"a":1}]', None),  # short texts are not looked through
    ],
)
def test_a_large_text_is_found_in_another_by_the_memory_that_they_share(
    part: texts.Json, whole: texts.Json, start: int | None
) -> None:
    assert texts.start_within(part, whole) == start
    if start is not None:
        assert texts.joined(whole)[start : start + length(part)] == texts.joined(part)
