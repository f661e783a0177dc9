"""The one exit for text: secrets are masked, long text is cut in the middle, foreign types become text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote

import msgspec
from msgspec import Struct

MASK = "***"
MAX_BYTES = 2048
# Of a longer text only both ends are looked at, so that a huge one costs no more than a long one.
_HALF = 8_192
_HEAD, _TAIL = 1_200, 720  # a traceback tells most at its end
_SHORTEST = 4
_MAX_DEPTH, _MAX_ITEMS, _MAX_KNOWN = 6, 64, 4_096

_KEY_PREFIXES = ("sk-", "sk_", "pk_", "rk_", "gsk_", "xai-", "hf_", "ghp_", "glpat-", "AIza")
_SCHEMES = ("bearer", "Bearer", "BEARER", "Basic", "BASIC")
_LABELS = tuple(
    form
    for word in (
        "api_key",
        "api-key",
        "apikey",
        "access_token",
        "auth_token",
        "password",
        "passwd",
        "authorization",
    )
    for form in (word, word.title(), word.upper())
)


def _any(words: tuple[str, ...]) -> str:
    return "|".join(map(re.escape, words))


# Each with the part to keep as its group. Runs are bounded and do not nest: no text is slow to look at.
_SHAPES = (
    rf"(?<![A-Za-z0-9])({_any(_KEY_PREFIXES)})[A-Za-z0-9_\-]{{6,}}",
    rf"\b((?:{_any(_SCHEMES)})\s{{1,4}})[A-Za-z0-9._~+/=\-]{{6,}}",
    r"(://[^\s:/@\"']{0,256}:)[^\s\"']{1,512}(?=@)",  # to the last @: a password may hold one
    (
        rf"((?:[?&]key|{_any(_LABELS)})[\"']?\s{{0,4}}[=:]\s{{0,4}}[\"']?)"
        rf"(?!(?:{_any(_SCHEMES)})\s)[^\s\"'&,;{{}}()\[\]]{{6,}}"
    ),
)
# One of these literals is in every text that a shape matches, and looking for literals is ten times as fast.
_HINTS = (*_KEY_PREFIXES, *_SCHEMES, *_LABELS, "://", "?key", "&key")


class Redactor:
    """Masks registered secrets and what looks like one. Register at the start; all else is thread-safe."""

    def __init__(self) -> None:
        self._secrets: set[str] = set()
        self._known: dict[str, str] = {}
        self._edge = 0
        self._hint = self._pattern = re.compile("")
        self._compile()

    def register_secret(self, value: str) -> None:
        """Mask `value` from now on, also as a URL writes it.

        Less than four characters are ignored: they occur in every line. In a URL they are masked still.
        """
        if len(value) >= _SHORTEST:
            self._secrets |= {value, quote(value, safe="")}
            self._compile()

    def text(self, text: str) -> str:
        """`text` as it may leave the process: at most 2 KiB of UTF-8, nothing secret, no lone surrogates."""
        if len(text) <= 2 * _HALF:
            return _cut(self._mask(text))
        # What an inner edge cuts in two is no longer recognisable as a secret: those characters go.
        head, tail = self._mask(text[:_HALF]), self._mask(text[-_HALF:])
        return _cut(head[: -self._edge] + "…" + tail[self._edge :])

    def known(self, text: str) -> str:
        """As `text`, remembered: for names out of the configuration and other small sets."""
        clean = self._known.get(text)
        if clean is None:
            clean = self.text(text)
            if len(self._known) < _MAX_KNOWN:
                self._known[text] = clean
        return clean

    def value(self, value: object, depth: int = 0) -> object:
        """`value` as JSON types, every text in it cleaned."""
        if isinstance(value, str):
            return self.text(value)
        if value is None or isinstance(value, (bool, float)):
            return value
        if isinstance(value, int) and -(2**63) <= value < 2**63:
            return value
        return "…" if depth >= _MAX_DEPTH else self._composite(value, depth + 1)

    def _composite(self, value: object, depth: int) -> object:
        match value:
            case Struct():
                return self._composite(msgspec.structs.asdict(value), depth)
            case Mapping():
                items = list(value.items())[:_MAX_ITEMS]
                return {self.text(str(key)): self.value(item, depth) for key, item in items}
            case list() | tuple() | set() | frozenset():
                return [self.value(item, depth) for item in list(value)[:_MAX_ITEMS]]
            case _:
                return self.text(str(value))

    def _mask(self, text: str) -> str:
        return text if self._hint.search(text) is None else self._pattern.sub(_masked, text)

    def _compile(self) -> None:
        # Longest first, so that a secret that begins with another one is masked whole.
        secrets = tuple(sorted(self._secrets, key=len, reverse=True))
        self._hint = re.compile(_any((*secrets, *_HINTS)))
        self._pattern = re.compile("|".join([*map(re.escape, secrets), *_SHAPES]))
        self._known.clear()
        self._edge = max([256, *map(len, self._secrets)])


def _masked(match: re.Match[str]) -> str:
    return (match.group(match.lastindex) if match.lastindex else "") + MASK


def _cut(text: str) -> str:
    if len(text) <= MAX_BYTES // 4 and text.isprintable():
        return text
    encoded = text.encode("utf-8", "replace")
    if len(encoded) > MAX_BYTES:
        middle = f"… {len(encoded) - _HEAD - _TAIL} bytes cut …".encode()
        encoded = encoded[:_HEAD] + middle + encoded[-_TAIL:]
    return encoded.decode("utf-8", "ignore")
