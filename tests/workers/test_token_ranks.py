import base64
import hashlib
import lzma
import socket
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theo_workers.tokens import ranks
from theo_workers.tokens.count import TokenCounter
from theo_workers.tokens.ranks import (
    RANK_FILES,
    Encodings,
    RanksDamagedError,
    load_ranks,
    pack,
    published,
    unpack,
)


@pytest.mark.parametrize("name", RANK_FILES)
def test_a_packed_file_gives_back_the_published_file_byte_for_byte(name: str) -> None:
    file = published(load_ranks(name))
    assert hashlib.sha256(file).hexdigest() == RANK_FILES[name].published_sha256
    assert pack(file) == lzma.decompress(ranks.read_packed(name))


@given(
    st.dictionaries(st.binary(min_size=1, max_size=40), st.integers(0, 60), max_size=20).filter(
        lambda table: len(set(table.values())) == len(table)
    )
)
def test_packing_keeps_every_token_its_rank_and_the_gaps(table: dict[bytes, int]) -> None:
    by_rank = dict(sorted(table.items(), key=lambda item: item[1]))
    assert unpack(pack(published(by_rank))) == by_rank


@pytest.mark.parametrize(
    ("name", "ids"),
    [
        ("o200k_base", [13225, 11, 2375, 0]),
        ("o200k_harmony", [13225, 11, 2375, 0]),
        ("cl100k_base", [9906, 11, 1917, 0]),
        ("p50k_base", [15496, 11, 995, 0]),
        ("r50k_base", [15496, 11, 995, 0]),
    ],
)
def test_encodings_work_without_network_or_cache_directory(
    name: str, ids: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def no_network(*args: object, **kwargs: object) -> None:
        raise OSError("no network here")

    monkeypatch.setattr(socket, "socket", no_network)
    monkeypatch.setattr(socket, "create_connection", no_network)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    assert Encodings().get(name).encode_ordinary("Hello, world!") == ids
    assert list(tmp_path.iterdir()) == []


def test_ordinary_text_is_the_same_in_the_harmony_encoding() -> None:
    encodings = Encodings()
    text = "def f(x): return x + 1  # Größe, 東京, <|start|> \n\n"
    assert encodings.get("o200k_harmony").encode_ordinary(text) == encodings.get(
        "o200k_base"
    ).encode_ordinary(text)


def altered(name: str) -> bytes:
    packed = bytearray(lzma.decompress(ranks_as_shipped(name)))
    packed[1] ^= 1
    return lzma.compress(bytes(packed))


ranks_as_shipped = ranks.read_packed


@pytest.mark.parametrize(
    "stored", [altered("r50k_base"), b"not xz at all", ranks_as_shipped("r50k_base")[:-40], b""]
)
def test_a_damaged_file_is_refused(stored: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "read_packed", lambda name: stored)
    with pytest.raises(RanksDamagedError, match="r50k_base"):
        load_ranks("r50k_base")


def test_a_missing_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> bytes:
        raise FileNotFoundError(name)

    monkeypatch.setattr(ranks, "read_packed", missing)
    with pytest.raises(RanksDamagedError, match="cannot be read"):
        load_ranks("r50k_base")


def test_a_tiktoken_with_another_vocabulary_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    other = ranks.RankFile(published_sha256="0" * 64, packed_sha256=RANK_FILES["r50k_base"].packed_sha256)
    monkeypatch.setitem(RANK_FILES, "r50k_base", other)
    with pytest.raises(RanksDamagedError, match="another vocabulary"):
        Encodings().get("r50k_base")


async def test_warming_says_that_a_file_is_damaged_and_counting_falls_back_to_characters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ranks, "read_packed", lambda name: b"")
    counter = TokenCounter(Encodings())
    with pytest.raises(RanksDamagedError):
        await counter.warm(["gpt-4o"])
    count = counter.count_text("a" * 40, "gpt-4o")
    assert (count.tokens, count.source, count.exact) == (10, "characters", False)


def test_threads_that_ask_at_once_load_an_encoding_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    load = ranks.load_ranks

    def counted(name: str) -> dict[bytes, int]:
        loads.append(name)
        return load(name)

    monkeypatch.setattr(ranks, "load_ranks", counted)
    encodings = Encodings()
    threads = [threading.Thread(target=encodings.get, args=("r50k_base",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loads == ["r50k_base"]


def test_the_licence_notice_lies_beside_the_files() -> None:
    notice = Path(ranks.__file__).with_name("data") / "NOTICE.txt"
    assert "MIT License" in notice.read_text()


def test_the_published_form_is_base64_and_rank_per_line() -> None:
    assert published({b"a": 0, b"\xff\x00": 2}) == b"YQ== 0\n" + base64.b64encode(b"\xff\x00") + b" 2\n"
