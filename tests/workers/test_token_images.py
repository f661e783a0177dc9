import base64
import struct

import pytest

from theo_workers.tokens.families import family_for
from theo_workers.tokens.images import ImageTokens, image_size, image_tokens


def data_url(data: bytes) -> str:
    return "data:image/any;base64," + base64.b64encode(data).decode()


def png(width: int, height: int) -> str:
    return data_url(b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, height) + bytes(9))


def jpeg(width: int, height: int) -> bytes:
    app = b"\xff\xe0" + struct.pack(">H", 16) + bytes(14)
    frame = b"\xff\xc0" + struct.pack(">HBHH", 17, 8, height, width) + bytes(10)
    return b"\xff\xd8" + app + frame


def webp(kind: bytes, payload: bytes) -> bytes:
    return b"RIFF" + bytes(4) + b"WEBP" + kind + bytes(4) + payload


@pytest.mark.parametrize(
    ("url", "size"),
    [
        (png(640, 480), (640, 480)),
        (data_url(b"GIF89a" + struct.pack("<HH", 3, 4)), (3, 4)),
        (data_url(jpeg(1_000, 700)), (1_000, 700)),
        (data_url(webp(b"VP8X", bytes(4) + b"\x1f\x00\x00" + b"\x0f\x00\x00")), (32, 16)),
        (data_url(webp(b"VP8L", b"\x2f" + ((99 << 14) | 49).to_bytes(4, "little"))), (50, 100)),
        (data_url(webp(b"VP8 ", bytes(6) + struct.pack("<HH", 20, 10))), (20, 10)),
        (png(0, 5), None),
        (data_url(jpeg(10, 10)[:12]), None),
        (data_url(b"\x89PNG\r\n\x1a\n"), None),
        (data_url(b"BM whatever"), None),
        ("data:image/png;base64,***", None),
        ("https://example.org/cat.png", None),
        ("", None),
    ],
)
def test_the_size_is_read_from_the_data(url: str, size: tuple[int, int] | None) -> None:
    assert image_size(url) == size


@pytest.mark.parametrize(
    ("provider", "model", "image", "tokens"),
    [
        ("openai", "gpt-4o", {"url": png(512, 512)}, 85 + 170),  # never scaled up
        ("openai", "gpt-4o", {"url": png(1_024, 1_024)}, 85 + 170 * 4),
        ("openai", "gpt-4o", {"url": png(2_048, 4_096)}, 85 + 170 * 6),
        ("openai", "gpt-4o", {"url": png(4_000, 4_000), "detail": "low"}, 85),
        ("openai", "gpt-4o-mini", {"url": png(1_024, 1_024)}, 2_833 + 5_667 * 4),
        ("openai", "gpt-5", {"url": png(1_024, 1_024)}, 70 + 140 * 4),
        ("openai", "gpt-4.1-mini", {"url": png(320, 320)}, 162),
        ("anthropic", "claude-sonnet-4-5", {"url": png(1_000, 750)}, 1_000),
        ("anthropic", "claude-sonnet-4-5", {"url": png(8_000, 8_000)}, 1_640),
        ("anthropic", "claude-opus-5", {"url": png(8_000, 8_000)}, 4_784),
        ("gemini", "gemini-2.5-flash", {"url": png(300, 200)}, 258),
        ("gemini", "gemini-2.5-flash", {"url": png(1_536, 1_536)}, 258 * 4),
    ],
)
def test_an_image_costs_what_its_provider_says(
    provider: str, model: str, image: dict[str, str], tokens: int
) -> None:
    counted = image_tokens(family_for(provider, model), model, image)
    assert counted.tokens == tokens
    assert counted.at_most >= tokens


def test_an_image_of_unknown_size_counts_as_a_usual_one_and_is_bounded_by_the_limit() -> None:
    image = {"url": "https://example.org/cat.png"}
    assert image_tokens(family_for("openai", "gpt-4o"), "gpt-4o", image) == ImageTokens(765, 85 + 8 * 170)
    assert image_tokens(family_for("anthropic", "claude-3-opus"), "claude-3-opus", image).at_most == 1_640
