"""Dead letters as the commands read them."""

from __future__ import annotations

import pytest

from theo_daemon.cli.letters import ABOUT, is_job_stream, parse_letter
from theo_daemon.cli.target import Target
from theo_daemon.config import Config, RedisConfig


def letter(*job: bytes, code: bytes = b"invalid_job") -> list[bytes]:
    about = (b"why", code, b"2", b"5-1", b"theo:jobs:high", b"1700000000000")
    return [*job, *(word for pair in zip(map(str.encode, ABOUT), about, strict=True) for word in pair)]


def test_the_job_s_own_fields_come_back_as_they_were() -> None:
    found = parse_letter("9-0", letter(b"prompt", b"\xff\x00", b"dead_code", b"mine"))
    assert found.fields == [b"prompt", b"\xff\x00", b"dead_code", b"mine"]
    assert (found.code, found.reason, found.deliveries) == ("invalid_job", "why", 2)
    assert (found.entry_id, found.stream, found.at_ms) == ("5-1", "theo:jobs:high", 1_700_000_000_000)
    assert not found.cut


@pytest.mark.parametrize(
    "flat",
    [letter(b"prompt", b"x", code=b"payload_too_large"), letter(b"prompt", b"x", b"dead_fields_cut", b"7")],
)
def test_a_letter_that_holds_only_a_part_of_the_job_says_so(flat: list[bytes]) -> None:
    found = parse_letter("9-0", flat)
    assert found.cut
    assert found.fields == [b"prompt", b"x"]


@pytest.mark.parametrize("flat", [[], [b"a", b"b"], [*letter()[2:], b"x", b"y"]])
def test_what_somebody_else_wrote_there_can_still_be_shown(flat: list[bytes]) -> None:
    found = parse_letter("1700000000000-3", flat)
    assert (found.fields, found.stream, found.at_ms) == (flat, "", 1_700_000_000_000)


@pytest.mark.parametrize(
    ("fields", "identity"),
    [
        ((b"prompt", b"x"), ("", None)),
        ((b"prompt", b"x", b"id", b"a", b"tenant", b"t"), ("t", "a")),
        ((b"job", b'{"id": "b", "prompt": "x"'), ("", "b")),
        ((b"id", b"a", b"id", b"b"), ("", None)),
    ],
)
def test_the_id_to_forget_is_read_from_whatever_can_be_read(
    fields: tuple[bytes, ...], identity: tuple[str, str | None]
) -> None:
    assert parse_letter("9-0", letter(*fields)).identity() == identity


@pytest.mark.parametrize(
    ("stream", "ours"),
    [("{t}:jobs", True), ("{t}:jobs:high", True), ("{t}:jobsx", False), ("{t}:control", False), ("", False)],
)
def test_only_job_streams_are_replayed_into(stream: str, ours: bool) -> None:
    target = Target(config=Config(redis=RedisConfig(prefix="{t}")))
    assert is_job_stream(target, stream) is ours
