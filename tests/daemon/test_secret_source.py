from __future__ import annotations

from pathlib import Path

import pytest

from theo_daemon.secret_source import SecretSource, is_reference
from theo_workers.secret import Secret

VALUE = "sk-0123"


def source(tmp_path: Path, **env: str) -> SecretSource:
    return SecretSource(env, tmp_path)


def test_reads_an_environment_variable_without_the_white_space_round_it(tmp_path: Path) -> None:
    assert source(tmp_path, KEY=f" {VALUE}\r\n").resolve("env:KEY") == Secret(VALUE)


def test_reads_a_file_in_the_configurations_folder_and_one_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{VALUE}\n")
    elsewhere = SecretSource({}, tmp_path / "other")
    assert source(tmp_path).resolve("file:key") == Secret(VALUE)
    assert source(tmp_path).resolve("file:./key") == Secret(VALUE)
    assert elsewhere.resolve(f"file:{tmp_path}/key") == Secret(VALUE)


@pytest.mark.parametrize(
    "value", [f"{VALUE} {VALUE}", f"{VALUE}\n{VALUE}", f"{VALUE}\t{VALUE}", f"{VALUE}é", f"{VALUE}\x7f"]
)
def test_refuses_what_a_header_cannot_carry_without_quoting_it(tmp_path: Path, value: str) -> None:
    (tmp_path / "key").write_text(value)
    for reference in ("env:KEY", "file:key"):
        with pytest.raises(ValueError, match=f"{reference} holds something") as caught:
            source(tmp_path, KEY=value).resolve(reference)
        assert VALUE not in str(caught.value)


@pytest.mark.parametrize("value", ["", " \n"])
def test_refuses_an_empty_secret(tmp_path: Path, value: str) -> None:
    (tmp_path / "key").write_text(value)
    for reference in ("env:KEY", "file:key"):
        with pytest.raises(ValueError, match=f"{reference} is empty"):
            source(tmp_path, KEY=value).resolve(reference)


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("env:NOPE", "the environment variable NOPE is not set"),
        ("env:", "must be followed by the name"),
        ("env::KEY", "must be followed by the name"),
        ("file:", "must be followed by a path"),
        ("file:\0", "must be followed by a path"),
        ("file:nope", "nope cannot be read: No such file"),
        ("file:.", "cannot be read: Is a directory"),
    ],
)
def test_says_what_is_wrong_with_the_source(tmp_path: Path, reference: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        source(tmp_path).resolve(reference)


def test_a_key_pasted_behind_env_is_not_quoted(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name of an environment variable") as caught:
        source(tmp_path).resolve(f"env:{VALUE}")
    assert VALUE not in str(caught.value)


def test_refuses_a_file_that_is_far_too_large(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"x" * 70_000)
    with pytest.raises(ValueError, match="too large for a secret"):
        source(tmp_path).resolve("file:key")


def test_a_header_value_may_have_blanks_inside_but_no_line_ends(tmp_path: Path) -> None:
    assert source(tmp_path, A="Bearer x\n").resolve_header("env:A") == "Bearer x"
    with pytest.raises(ValueError, match="visible ASCII"):
        source(tmp_path, A="Bearer\nx").resolve_header("env:A")


@pytest.mark.parametrize(
    ("text", "yes"), [("env:A", True), ("file:a", True), ("sk-env:", False), ("ENV:A", False)]
)
def test_knows_a_reference_when_it_sees_one(text: str, yes: bool) -> None:
    assert is_reference(text) is yes
