"""The example file shows every key, and shows defaults as what they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from msgspec import NODEFAULT, Struct, structs

from theo_daemon.config import BudgetConfig, Config, ModelConfig
from theo_daemon.config_file import load_config
from theo_workers.errors import ConfigError

EXAMPLE = Path(__file__).parents[2] / "deploy" / "theo-router.example.toml"
ENV = {"OPENAI_API_KEY": "sk-openai", "ANTHROPIC_API_KEY": "sk-anthropic"}
SECTIONS = ["redis", "ingress", "reply", "dead", "events", "control", "ledger", "routing", "telemetry"]
EXAMPLES = {("redis", "url"), ("routing", "default"), ("routing", "spend_ceiling"), ("ledger", "url")}


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(EXAMPLE, ENV)


def test_loads_with_nothing_to_warn_of_but_the_files_mode(config: Config) -> None:
    assert [one for one in config.warnings if "may change this file" not in one] == []
    assert [model.name for model in config.models] == ["fast", "claude", "rehearsal"]


def test_needs_its_keys_set() -> None:
    with pytest.raises(ConfigError, match="OPENAI_API_KEY is not set") as caught:
        load_config(EXAMPLE, {})
    assert "ANTHROPIC_API_KEY is not set" in str(caught.value)


@pytest.mark.parametrize("section", SECTIONS)
def test_shows_the_default_of_every_key(config: Config, section: str) -> None:
    shown = getattr(config, section)
    for key in structs.fields(type(shown)):
        if (section, key.name) not in EXAMPLES:
            default = key.default if key.default is not NODEFAULT else key.default_factory()
            assert getattr(shown, key.name) == default, key.name


def _section_text(title: str) -> str:
    found = re.search(
        rf"^\[+{re.escape(title)}\]+$(.*?)(?=^\[|\Z)", EXAMPLE.read_text(), re.DOTALL | re.MULTILINE
    )
    assert found is not None, title
    return found[1]


@pytest.mark.parametrize("section", SECTIONS)
def test_writes_out_and_explains_every_key_of_a_section(config: Config, section: str) -> None:
    _assert_explained(_section_text(section), type(getattr(config, section)))


@pytest.mark.parametrize(("name", "table"), [("models", ModelConfig), ("budgets", BudgetConfig)])
def test_writes_out_and_explains_every_key_of_a_table_in_a_list(name: str, table: type[Struct]) -> None:
    texts = re.findall(rf"^\[\[{name}\]\]$(.*?)(?=^\[|\Z)", EXAMPLE.read_text(), re.DOTALL | re.MULTILINE)
    _assert_explained("\n".join(texts), table)


def _assert_explained(text: str, table: type[Struct]) -> None:
    for key in table.__struct_fields__:
        explained = re.search(rf"^#.*\n(?:(?:# )?\w+ = .*\n)?(?:# )?{key} = ", text, re.MULTILINE)
        assert explained, f"{table.__name__}.{key} has no comment above it"


def test_keeps_every_line_readable_in_a_narrow_terminal() -> None:
    assert all(len(line) <= 120 for line in EXAMPLE.read_text().splitlines())
