from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pace import in_encodings
from theo_daemon.telemetry.redaction import MASK, MAX_BYTES, Redactor


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Incorrect API key provided: sk-proj-abc123DEF456.", "Incorrect API key provided: sk-***."),
        ("key gsk_0123456789abcdef", "key gsk_***"),
        ("Authorization: Bearer abc.def-ghi", "Authorization: Bearer ***"),
        ("BEARER abcdefgh", "BEARER ***"),
        ("authorization: Basic dXNlcjpwYXNz", "authorization: Basic ***"),
        ("redis://:hunter2@host:6379/0", "redis://:***@host:6379/0"),
        ("rediss://user:p@ss/w:rd@host:6379/0", "rediss://user:***@host:6379/0"),
        ("GET https://host/v1?key=AbCdEf123&alt=sse", "GET https://host/v1?key=***&alt=sse"),
        ('{"api_key": "abcdefgh"}', '{"api_key": "***"}'),
        ("x-api-key: abcdefgh", "x-api-key: ***"),
        ("AIzaSyA0123456789abcdefghijklmnop", "AIza***"),
        ("password=correcthorse", "password=***"),
    ],
)
def test_masks_what_looks_like_a_secret(text: str, clean: str) -> None:
    assert Redactor().text(text) == clean


@pytest.mark.parametrize(
    "text",
    [
        "task-12345678 of desk-abcdefgh",
        "Timed out waiting for inflight generation (key: abc123def456..., status: waiting)",
        "unknown key: 'circuit_braker_threshold'",
        "http://127.0.0.1:9464/status",
        "redis+sentinel://h1:26379,h2:26379/SERVICE/0",
        "550e8400-e29b-41d4-a716-446655440000",
        "a basic understanding",
    ],
)
def test_leaves_harmless_text_alone(text: str) -> None:
    assert Redactor().text(text) == text


@pytest.mark.parametrize(
    "secret", ["hunter2", 'with "quotes" and \\', "ünïcode-gehéim", "p@ss/word", "12345678"]
)
def test_masks_registered_secrets_raw_and_as_urls_write_them(secret: str) -> None:
    redactor = Redactor()
    redactor.register_secret(secret)
    assert redactor.text(f"a {secret} b") == f"a {MASK} b"
    assert redactor.text(f"a {quote(secret, safe='')} b") == f"a {MASK} b"


def test_masks_the_longer_secret_whole_when_one_begins_with_another() -> None:
    redactor = Redactor()
    redactor.register_secret("abcd")
    redactor.register_secret("abcdefgh")
    assert redactor.text("abcdefgh") == MASK


def test_remembers_nothing_from_before_a_secret_was_registered() -> None:
    redactor = Redactor()
    assert redactor.known("hunter2") == "hunter2"
    redactor.register_secret("hunter2")
    assert redactor.known("hunter2") == MASK


def test_cleans_keys_values_and_foreign_types_at_any_depth() -> None:
    class Foreign:
        def __str__(self) -> str:
            return "Bearer abcdefgh"

    redactor = Redactor()
    redactor.register_secret("hunter2")
    cleaned = redactor.value({"hunter2": [{"a": ("hunter2", Foreign(), b"hunter2", 1, None, True)}]})
    assert cleaned == {MASK: [{"a": [MASK, "Bearer ***", "b'***'", 1, None, True]}]}


def test_ends_what_contains_itself() -> None:
    endless: list[object] = []
    endless.append(endless)
    assert "…" in str(Redactor().value(endless))


def test_numbers_beyond_what_json_readers_take_become_text() -> None:
    assert Redactor().value({"n": 2**70}) == {"n": str(2**70)}


@given(st.text(max_size=30_000))
def test_text_is_never_longer_than_its_limit_and_always_encodable(text: str) -> None:
    assert len(Redactor().text(text).encode()) <= MAX_BYTES


@pytest.mark.parametrize("size", [100, 2_000, 20_000, 200_000])
@pytest.mark.parametrize("length", [8, 60, 400])
def test_no_part_of_a_secret_survives_a_cut_wherever_it_stands(size: int, length: int) -> None:
    secret = ("Zq" * length)[:length]
    redactor = Redactor()
    redactor.register_secret(secret)
    for position in (*range(0, size, max(1, size // 97)), *range(max(0, 8_192 - length), 8_192, 7)):
        text = "." * position + secret + "." * max(0, size - position)
        assert "Zq" not in redactor.text(text)
    # Many secrets shrink the text: the cut then falls elsewhere.
    assert "Zq" not in redactor.text((secret + " ") * (size // length + 1))


@pytest.mark.parametrize(
    "unit", ["://a:", "sk-", "api_key=", "Bearer ", "://a:b@", "password" * 2, "?key=", "\\", "é"]
)
def test_no_text_is_slow_to_look_at(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    assert in_encodings(lambda: Redactor().text(text), rounds=1) < 100_000  # 14,000 at most are usual: 60 ms
