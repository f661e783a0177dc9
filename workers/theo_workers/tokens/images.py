"""What an image costs in prompt tokens, by each provider's published rule."""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Mapping
from math import ceil, sqrt
from typing import Any, NamedTuple

from theo_workers.tokens.encodings import bare_name
from theo_workers.tokens.families import Family, OpenAI

_HEADER_CHARS = 262_144  # base64 characters looked at for the size; a JPEG may begin with a large profile


class ImageTokens(NamedTuple):
    """`at_most` is the provider's limit where the size or the model's own rule is not known."""

    tokens: int
    at_most: int


class Tiles(NamedTuple):
    """OpenAI's older rule: a base, and a price per tile of 512 pixels."""

    base: int
    tile: int


# Models that count patches of 32 pixels instead, by what a patch is multiplied with.
_PATCHES = {
    "gpt-4.1-mini": 1.62,
    "gpt-4.1-nano": 2.46,
    "gpt-5-mini": 1.62,
    "gpt-5-nano": 2.46,
    "o4-mini": 1.72,
}
_MAX_PATCHES = 1_536
_TILES = {
    "gpt-4o-mini": Tiles(2_833, 5_667),
    "o1": Tiles(75, 150),
    "o3": Tiles(75, 150),
    "gpt-5": Tiles(70, 140),
    "computer-use": Tiles(65, 129),
}
_DEFAULT_TILES = Tiles(85, 170)


def image_tokens(family: Family, model: str, image: Mapping[str, Any]) -> ImageTokens:
    """`image` is the `image_url` object of OpenAI's chat form: `url` and perhaps `detail`."""
    rule = "openai" if isinstance(family, OpenAI) else family.images
    if rule == "gemini":
        return gemini_image(bare_name(model), image)
    if rule == "openai":
        return openai_image(bare_name(model), image)
    return claude_image(image, high_resolution=rule == "claude_large")


def image_size(url: str) -> tuple[int, int] | None:
    """Width and height in pixels of a `data:` URL with a PNG, GIF, JPEG or WebP; None for anything else."""
    head, comma, payload = url[: _HEADER_CHARS + 128].partition(",")
    if not comma or not head.startswith("data:") or "base64" not in head:
        return None
    usable = payload[:_HEADER_CHARS]
    try:
        data = base64.b64decode(usable[: len(usable) // 4 * 4])
    except (binascii.Error, ValueError):
        return None
    size = _size(data)
    return size if size and min(size) > 0 else None


def openai_image(model: str, image: Mapping[str, Any]) -> ImageTokens:
    """Tiles of 512 pixels after scaling, or patches of 32; low detail is the base alone."""
    size = image_size(str(image.get("url", "")))
    for prefix, factor in _PATCHES.items():
        if model.startswith(prefix):
            at_most = ceil(_MAX_PATCHES * factor)
            return ImageTokens(ceil(_patches(size) * factor) if size else at_most, at_most)
    rule = next((rule for prefix, rule in _TILES.items() if model.startswith(prefix)), _DEFAULT_TILES)
    newest = not model.startswith(("gpt-4", "gpt-3", "chatgpt", "o1", "o3"))
    at_most = max(rule.base + 8 * rule.tile, 16_384 if newest else 0)  # rules of the newest models change
    if image.get("detail") == "low":
        return ImageTokens(rule.base, at_most if newest else rule.base)
    tokens = rule.base + rule.tile * (_tiles(size) if size else 4)
    return ImageTokens(tokens, max(tokens, at_most))


def claude_image(image: Mapping[str, Any], *, high_resolution: bool) -> ImageTokens:
    """A pixel in 750, after scaling down to what the model looks at."""
    edge, limit = (2_576, 4_784) if high_resolution else (1_568, 1_640)
    size = image_size(str(image.get("url", "")))
    if size is None:
        return ImageTokens(limit, limit)
    scale = min(1.0, edge / max(size))
    return ImageTokens(min(limit, ceil(size[0] * scale * size[1] * scale / 750)), limit)


def gemini_image(model: str, image: Mapping[str, Any]) -> ImageTokens:
    """258 for a small image or each tile of it; from Gemini 3 on a budget by media resolution."""
    if not model.startswith(("gemini-1", "gemini-2")):
        return ImageTokens(1_100, 2_560)
    size = image_size(str(image.get("url", "")))
    if size is None or max(size) <= 384:
        return ImageTokens(258, 258 if size else 258 * 64)
    unit = min(768, max(256, int(min(size) / 1.5)))
    tokens = 258 * ceil(size[0] / unit) * ceil(size[1] / unit)
    return ImageTokens(tokens, tokens * 2)


def _tiles(size: tuple[int, int]) -> int:
    # Into a square of 2048, then the shorter side down to 768.
    scale = min(1.0, 2_048 / max(size))
    scale = min(scale, 768 / min(size))
    return ceil(size[0] * scale / 512) * ceil(size[1] * scale / 512)


def _patches(size: tuple[int, int]) -> int:
    count = ceil(size[0] / 32) * ceil(size[1] / 32)
    if count <= _MAX_PATCHES:
        return count
    scale = sqrt(_MAX_PATCHES * 1_024 / (size[0] * size[1]))
    return min(_MAX_PATCHES, ceil(size[0] * scale / 32) * ceil(size[1] * scale / 32))


def _size(data: bytes) -> tuple[int, int] | None:
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            width, height = struct.unpack(">II", data[16:24])
            return width, height
        if data.startswith((b"GIF87a", b"GIF89a")):
            width, height = struct.unpack("<HH", data[6:10])
            return width, height
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _webp(data)
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data)
    except (struct.error, IndexError):
        return None  # cut short
    return None


def _webp(data: bytes) -> tuple[int, int] | None:
    match data[12:16]:
        case b"VP8X":
            return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
        case b"VP8L":
            bits = int.from_bytes(data[21:25], "little")
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        case b"VP8 ":
            width, height = struct.unpack("<HH", data[26:30])
            return width & 0x3FFF, height & 0x3FFF
    return None


def _jpeg(data: bytes) -> tuple[int, int] | None:
    at = 2
    while data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        at += 2 + length
    return None
