from __future__ import annotations

from pathlib import Path

import pytest

from tests.pace import in_encodings
from theo_daemon import config_file
from theo_daemon.config_file import ConfigNotFound, find_config, load_config
from theo_daemon.config_parse import Overrides
from theo_workers.errors import ConfigError
from theo_workers.secret import Secret

GOOD = '[[models]]\nname = "fast"\nprovider = "scripted"\n'


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, and a system file that is not there."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(config_file, "SYSTEM_FILE", tmp_path / "etc" / "config.toml")
    monkeypatch.delenv("THEO_REDIS_URL", raising=False)
    return folder


def write(path: Path, text: str | bytes = GOOD) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(0o600)
    return path


def test_looks_in_the_flag_then_the_environment_then_here_then_in_etc(tmp_path: Path) -> None:
    system, local = write(config_file.SYSTEM_FILE), Path("theo-router.toml")
    assert find_config(None, {}) == system
    write(local)
    assert find_config(None, {}) == local
    named, flagged = write(tmp_path / "env.toml"), write(tmp_path / "flag.toml")
    assert find_config(None, {"THEO_CONFIG": str(named)}) == named
    assert find_config(flagged, {"THEO_CONFIG": str(named)}) == flagged
    assert find_config(None, {"THEO_CONFIG": ""}) == local


def test_says_where_it_looked(nowhere: Path) -> None:
    with pytest.raises(ConfigNotFound) as caught:
        load_config(env={})
    for place in (str(nowhere / "theo-router.toml"), str(config_file.SYSTEM_FILE), "--config", "THEO_CONFIG"):
        assert place in str(caught.value)


@pytest.mark.parametrize(
    ("path", "env", "blamed"), [("x.toml", {}, "^"), (None, {"THEO_CONFIG": "x.toml"}, "^THEO_CONFIG: ")]
)
def test_a_named_file_that_is_missing_is_an_error_even_if_another_exists(
    nowhere: Path, path: str | None, env: dict[str, str], blamed: str
) -> None:
    write(nowhere / "theo-router.toml")
    with pytest.raises(ConfigNotFound, match=f"{blamed}there is no file {nowhere}/x.toml"):
        load_config(path, env)


def test_loads_a_file_with_paths_from_its_own_folder(tmp_path: Path) -> None:
    write(tmp_path / "conf" / "key", "sk-1\n")
    path = write(tmp_path / "conf" / "a.toml", GOOD + 'api_key = "file:key"\n')
    config = load_config(path, {})
    assert config.source == path
    assert config.ledger.url == tmp_path / "conf" / "theo-ledger.db"
    assert config.models[0].api_key == Secret("sk-1")


def test_uses_the_environment_of_the_process_unless_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THEO_CONFIG", str(write(tmp_path / "a.toml")))
    monkeypatch.setenv("THEO_REDIS_URL", "redis://h:1/0")
    assert load_config().redis.url == Secret("redis://h:1/0")
    assert load_config(overrides=Overrides(redis_url="redis://h:2/0")).redis.url == Secret("redis://h:2/0")


def test_names_the_file_in_what_it_complains_about(tmp_path: Path) -> None:
    path = write(tmp_path / "a.toml", "[ingress]\nlease = 1\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path, {})
    assert str(caught.value).startswith(f"{path}: 2 problems\n")
    assert '[ingress] lease: unknown key; did you mean "lease_s"?' in str(caught.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[ingress\n", "is not valid TOML: .*line 1"),
        (b'a = "sk-secret\n', "is not valid TOML"),
        (b"[ingress]\nlease_s = 1\nlease_s = 2\n", "is not valid TOML: .*line 3"),
        (b"a = '\xff'\n", "is not UTF-8: see byte 5"),
        (b"a = " + b"[" * 20_000, "is nested too deep|is not valid TOML"),
        (b"#" * 5_000_000, "is larger than 4000000 bytes"),
    ],
)
def test_a_file_that_cannot_be_parsed_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        load_config(write(tmp_path / "a.toml", content), {})
    assert "sk-secret" not in str(caught.value)


def test_a_folder_is_no_configuration_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_config(tmp_path, {})


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    assert load_config(write(tmp_path / "a.toml", b"\xef\xbb\xbf" + GOOD.encode()), {}).models


@pytest.mark.parametrize(
    ("mode", "who"),
    [(0o600, None), (0o644, None), (0o664, "its group"), (0o666, "everyone"), (0o602, "everyone")],
)
def test_warns_of_a_file_that_others_may_change(tmp_path: Path, mode: int, who: str | None) -> None:
    path = write(tmp_path / "a.toml")
    path.chmod(mode)
    warnings = [one for one in load_config(path, {}).warnings if "may change this file" in one]
    assert warnings == (
        [] if who is None else [f"{path}: {who} may change this file (mode {mode:04o}); chmod go-w is safer"]
    )


def test_a_large_configuration_loads_in_a_blink(tmp_path: Path) -> None:
    models = "".join(
        f'[[models]]\nname = "m{n}"\nprovider = "openai"\nmodel = "x"\nrouting = {{ weight = 2 }}\n'
        for n in range(20)
    )
    path = write(tmp_path / "a.toml", models)
    assert in_encodings(lambda: load_config(path, {}), rounds=5) < 4_000  # 500 are usual: 2 ms
