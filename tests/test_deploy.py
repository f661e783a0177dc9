"""What lies in deploy/ fits the program: its configurations are accepted, and no drain is cut short."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from tests.bench.contender import CONFIG as BENCH_CONFIG
from theo_daemon.config import Config
from theo_daemon.config_file import load_config

DEPLOY = Path(__file__).parents[1] / "deploy"
ENV = {"OPENAI_API_KEY": "sk-test", "THEO_BENCH_KEY": "bench"}


def compose_config() -> str:
    """The configuration inside compose.yaml: the indented block after `content: |`."""
    found = re.search(r"content: \|\n((?: {6}.*\n|\n)+)", (DEPLOY / "compose.yaml").read_text())
    assert found
    return textwrap.dedent(found[1])


def bench_config(ledger: str) -> str:
    return BENCH_CONFIG.format(
        redis="redis://127.0.0.1:1/0", upstream="http://127.0.0.1:2/v1", http_port=3, ledger=ledger
    )


def loaded(text: str, folder: Path) -> Config:
    path = folder / "theo-router.toml"
    path.write_text(text)
    return load_config(path, ENV)


CONFIGS = {
    "compose.yaml": compose_config(),
    **{f"bench {ledger}": bench_config(ledger) for ledger in ("sqlite:///./ledger.db", "redis")},
}


@pytest.mark.parametrize("text", CONFIGS.values(), ids=CONFIGS)
def test_the_configuration_is_accepted_and_serves_its_default_model(text: str, tmp_path: Path) -> None:
    config = loaded(text, tmp_path)
    assert config.routing.default in {model.name for model in config.models}


@pytest.mark.parametrize(
    ("file", "setting"),
    [
        ("compose.yaml", r"stop_grace_period: (\d+)s # above"),
        ("theo-router.service", r"TimeoutStopSec=(\d+)s"),
    ],
)
def test_a_drain_ends_before_the_process_is_killed(file: str, setting: str, tmp_path: Path) -> None:
    found = re.search(setting, (DEPLOY / file).read_text())
    assert found
    assert int(found[1]) > loaded(compose_config(), tmp_path).ingress.drain_s


def test_the_image_and_the_compose_file_agree_on_where_the_ledger_lies(tmp_path: Path) -> None:
    volume = re.search(r"^VOLUME (\S+)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert volume
    assert f"ledger:{volume[1]}" in (DEPLOY / "compose.yaml").read_text()
    ledger = loaded(compose_config(), tmp_path).ledger.url
    assert isinstance(ledger, Path)
    assert ledger.parent == Path(volume[1])
