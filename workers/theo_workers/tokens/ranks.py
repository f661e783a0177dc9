"""tiktoken's encodings from rank files inside the wheel: no network, no cache directory."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import lzma
import threading
from importlib.resources import files
from typing import Any, Final

from msgspec import Struct
from tiktoken import Encoding

from theo_workers.errors import RouterError

_PUBLIC = "tiktoken_ext.openai_public"


class RanksDamagedError(RouterError):
    """A rank file is missing, altered, or not the one this tiktoken wants: reinstall the package."""


class RankFile(Struct, frozen=True, kw_only=True):
    """The two forms of one vocabulary, as sha256 in hex."""

    published_sha256: str  # of the `.tiktoken` file that OpenAI serves and tiktoken expects
    packed_sha256: str  # of what our `.ranks.xz` decompresses to


RANK_FILES: dict[str, RankFile] = {
    "o200k_base": RankFile(
        published_sha256="446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
        packed_sha256="bac143fe7fe950090c6e4ed9a2f80de5412a92495758b52becbbe5a7eea25ecb",
    ),
    "cl100k_base": RankFile(
        published_sha256="223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        packed_sha256="6bfd43f7b31b50b645b3228413547e662af1ae4801e9b192b9791680a71d650c",
    ),
    "p50k_base": RankFile(
        published_sha256="94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069",
        packed_sha256="454dd285ca79936cc589d453cc0e373e9cdfd971d6cee74a0b8f349c518a60fc",
    ),
    "r50k_base": RankFile(
        published_sha256="306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930",
        packed_sha256="b83936794d5c58d4bf7f24cb0100cd291b9306d80ba0e2ff11988886d2d9c1ec",
    ),
}


def pack(published: bytes) -> bytes:
    """A `.tiktoken` file as one length byte and the token per rank, in rank order; length 0 is a gap."""
    packed, expected = bytearray(), 0
    for line in published.splitlines():
        encoded, _, rank = line.partition(b" ")
        token = base64.b64decode(encoded)
        packed += bytes(int(rank) - expected)
        packed.append(len(token))
        packed += token
        expected = int(rank) + 1
    return bytes(packed)


def unpack(packed: bytes) -> dict[bytes, int]:
    """The inverse of `pack`, as tiktoken's table from token to rank."""
    ranks: dict[bytes, int] = {}
    at = rank = 0
    while at < len(packed):
        start = at + 1
        at = start + packed[at]
        if at > start:
            ranks[packed[start:at]] = rank
        rank += 1
    return ranks


def published(ranks: dict[bytes, int]) -> bytes:
    """The `.tiktoken` file of these ranks, byte for byte."""
    return b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for token, rank in ranks.items())


def load_ranks(name: str) -> dict[bytes, int]:
    """Unpack one vocabulary. Raises RanksDamagedError."""
    try:
        packed = lzma.decompress(read_packed(name))
    except (OSError, lzma.LZMAError) as error:
        raise RanksDamagedError(f"the rank file of {name} cannot be read: {error}") from error
    if hashlib.sha256(packed).hexdigest() != RANK_FILES[name].packed_sha256:
        raise RanksDamagedError(f"the rank file of {name} does not have its sha256")
    return unpack(packed)


def read_packed(name: str) -> bytes:
    """The compressed file as the wheel carries it."""
    return (files("theo_workers.tokens") / "data" / f"{name}.ranks.xz").read_bytes()


class Encodings:
    """Encodings loaded on first use and kept: o200k_base takes about 0.25 s and 80 MB. Thread-safe."""

    def __init__(self) -> None:
        self._loaded: dict[str, Encoding] = {}
        self._lock = threading.Lock()

    def get(self, name: str) -> Encoding:
        """Raises RanksDamagedError. Blocks while the encoding loads: call it in a thread first."""
        encoding = self._loaded.get(name)
        if encoding is None:
            with self._lock:
                encoding = self._loaded.get(name)
                if encoding is None:
                    encoding = self._loaded[name] = _build(name)
        return encoding


# All who count in this process share them, and what it forks finds them loaded.
ENCODINGS: Final = Encodings()


def _build(name: str) -> Encoding:
    # A private copy of tiktoken's own definitions (patterns, special tokens), whose loader is ours: the
    # shared module stays as it is, and a tiktoken with another vocabulary is noticed by its sha256.
    spec = importlib.util.find_spec(_PUBLIC)
    if spec is None or spec.loader is None:
        raise RanksDamagedError("this tiktoken has no public encodings")
    definitions = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(definitions)
    vars(definitions)["load_tiktoken_bpe"] = _load_for_tiktoken
    constructors: dict[str, Any] = vars(definitions)["ENCODING_CONSTRUCTORS"]
    return Encoding(**constructors[name]())


def _load_for_tiktoken(url: str, expected_hash: str | None = None) -> dict[bytes, int]:
    name = url.rpartition("/")[2].removesuffix(".tiktoken")
    if name not in RANK_FILES or expected_hash != RANK_FILES[name].published_sha256:
        raise RanksDamagedError(f"this tiktoken wants another vocabulary for {name} than the wheel carries")
    return load_ranks(name)
