"""The pages tell the truth: their examples run, their names exist, and their tables are those of the code."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct, structs
from typer.main import get_command

from theo_daemon.cli import app
from theo_daemon.cli.commands import COMMANDS, load
from theo_daemon.config import BudgetConfig, Config, ModelConfig, RoutingConfig
from theo_daemon.config_file import load_config
from theo_daemon.entry import FIELDS
from theo_daemon.redis_link import RedisLink
from theo_daemon.schema import json_schemas
from theo_workers.errors import ConfigError, GenerationError

ROOT = Path(__file__).parents[1]
README, DOCS = ROOT / "README.md", ROOT / "deploy" / "docs"
PAGES = [README, *sorted(DOCS.glob("*.md")), ROOT / "CHANGELOG.md", ROOT / ".github" / "CONTRIBUTING.md"]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(str(ROOT / name) for name in ("daemon", "workers")),
}


def blocks(page: Path, language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    return [text for kind, text in fenced if kind == language]


def section(page: Path, heading: str) -> str:
    found = re.search(rf"^## {heading}$(.*?)(?=^## |\Z)", page.read_text(), re.DOTALL | re.MULTILINE)
    assert found, f"{page.name} has no section {heading}"
    return found[1]


def loaded(text: str, folder: Path) -> Config:
    path = folder / "theo-router.toml"
    path.write_text(text)
    path.chmod(0o600)
    return load_config(path, dict.fromkeys(re.findall(r"env:(\w+)", text), "sk-test"))


# -- examples -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_configuration_is_accepted_without_a_warning(page: Path, tmp_path: Path) -> None:
    for text in blocks(page, "toml"):
        assert loaded(text, tmp_path).warnings == ()


def test_the_program_in_the_readme_prints_what_the_readme_says(tmp_path: Path) -> None:
    (program,) = blocks(README, "python")
    (rehearsal,) = (text for text in blocks(README, "toml") if "scripted" in text)
    (tmp_path / "rehearsal.toml").write_text(rehearsal)
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.stdout in blocks(README, "")


@pytest.mark.parametrize("program", ["client.mjs", "client.sh"])
def test_a_client_is_free_of_syntax_errors(program: str) -> None:
    command = {".mjs": ["node", "--check"], ".sh": ["bash", "-n"]}[Path(program).suffix]
    if shutil.which(command[0]) is None:
        pytest.skip(f"there is no {command[0]} here")
    subprocess.run([*command, str(ROOT / "deploy" / "clients" / program)], check=True)


# -- names ----------------------------------------------------------------------------------------------------------


def commands_named(page: Path) -> Iterator[list[str]]:
    """Every command line of a page, in blocks and in the text, from the word after `theo-router` on."""
    text = page.read_text()
    lines = [line.split(" #")[0] for line in text.splitlines() if line.startswith("    ")]
    lines += re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE))
    for line in lines:
        words = shlex.split(line.replace("'", "")) if line.count('"') % 2 == 0 else line.split()
        if words[:1] == ["theo-router"] and len(words) > 1:
            yield words[1:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_option_exists(page: Path) -> None:
    for name, *words in commands_named(page):
        assert name in COMMANDS or name.startswith("-"), f"theo-router {name}"
        command: Any = load(name) if name in COMMANDS else get_command(app)
        options = {opt for parameter in command.params for opt in parameter.opts}
        if words and hasattr(command, "commands"):
            for part in words[0].split("|"):
                assert part in command.commands, f"theo-router {name} {part}"
                options |= {opt for parameter in command.commands[part].params for opt in parameter.opts}
        for word in words:
            if word.startswith("--"):
                assert word in {*options, "--help"}, f"theo-router {name} {word}"


def test_the_readme_names_every_command() -> None:
    text = README.read_text()
    assert [name for name in COMMANDS if not re.search(rf"\b{name}\b", text)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_target_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^    |`)make ([a-z]+)", page.read_text(), re.MULTILINE)) <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_inside_the_project_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_tour_of_the_code_names_files_that_exist() -> None:
    named = set(re.findall(r"`([a-z_/]+\.py)`", (DOCS / "architecture.md").read_text()))
    assert len(named) > 20
    there = [
        path.as_posix() for place in ("daemon", "workers", "tests") for path in (ROOT / place).rglob("*.py")
    ]
    assert [name for name in named if not any(path.endswith(f"/{name}") for path in there)] == []


def test_the_readme_is_short_enough_to_be_read() -> None:
    assert len(README.read_text().splitlines()) <= 250


# -- what is not there yet ------------------------------------------------------------------------------------------


def cannot_open(url: str) -> bool:
    try:
        RedisLink(url, prefix="{theo}")
    except ConfigError:
        return True
    return False


def test_what_the_readme_says_is_missing_is_missing_and_nothing_else() -> None:
    missing = {
        "redis+sentinel://": cannot_open("redis+sentinel://127.0.0.1:1/main/0"),
        "redis+cluster://": cannot_open("redis+cluster://127.0.0.1:1"),
    }
    sentences = re.split(r"(?<=[.;]) ", " ".join(README.read_text().split()))
    told = {name: any(name in one and "not available yet" in one for one in sentences) for name in missing}
    assert told == missing, "README.md, `Run` and `What it does not do`"


# -- the contract ---------------------------------------------------------------------------------------------------


def test_the_schemas_on_file_are_those_of_the_code(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "theo_daemon", "schema", "--out", str(tmp_path)]
    known = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("THEO_")}
    subprocess.run(command, check=True, cwd=tmp_path, env=known)
    for folder in (".", "schemas"):
        written = {path.name: path.read_text() for path in (tmp_path / folder).glob("*.json")}
        on_file = {path.name: path.read_text() for path in (DOCS / folder).glob("*.json")}
        assert written
        assert written == on_file, "run `theo-router schema --out deploy/docs`"


def leaves(root: type[GenerationError]) -> Iterator[type[GenerationError]]:
    for child in root.__subclasses__():
        yield from leaves(child)
        if not child.__subclasses__():
            yield child


ERRORS: list[type[GenerationError]] = list(leaves(GenerationError))


@pytest.mark.parametrize("error", ERRORS, ids=lambda one: one.code)
def test_the_contract_lists_each_error_code_as_it_is(error: type[GenerationError]) -> None:
    (row,) = re.findall(
        rf"^\| `{error.code}` \|(.*)\|$", section(DOCS / "contract.md", "A reply"), re.MULTILINE
    )
    _, retryable, remembered, shared = (cell.strip() for cell in row.split("|"))
    ran = remembered != "–"
    assert (remembered == "yes", shared not in ("no", "–")) == (error.remembered, error.shared)
    assert ran or not (error.remembered or error.shared or error.default_retryable)
    if error.code != "budget_exceeded":  # that one depends on its window
        assert retryable == str(int(error.default_retryable))
    assert f"`{error.code}`" in section(README, "Jobs and replies")


@pytest.mark.parametrize("name", FIELDS)
def test_both_pages_list_each_field_of_a_job(name: str) -> None:
    assert f"`{name}`" in section(DOCS / "contract.md", "A job")
    assert f"`{name}`" in section(README, "Jobs and replies")


@pytest.mark.parametrize("reply", ["OkReply", "ErrorReply", "DeltaReply"])
def test_both_pages_list_each_field_of_a_reply(reply: str) -> None:
    fields = set(json_schemas()[reply]["properties"])
    in_full, in_short = section(DOCS / "contract.md", "A reply"), section(README, "Jobs and replies")
    assert [name for name in fields if f"`{name}`" not in in_full] == []
    assert [name for name in fields - {"reply_error"} if f"`{name}`" not in in_short] == []


def test_the_contract_lists_each_key_of_the_configuration() -> None:
    page = section(DOCS / "contract.md", "Configuration")
    parts = [getattr(Config(), name) for name in Config.__struct_fields__]
    tables: list[type[Struct]] = [type(part) for part in parts if isinstance(part, Struct)]
    tables += [ModelConfig, RoutingConfig, BudgetConfig]
    keys = {key.name for table in tables for key in structs.fields(table)}
    assert [key for key in sorted(keys) if not re.search(rf"[`.]{key}`", page)] == []


def test_a_python_client_is_readable_by_the_oldest_python_that_is_supported() -> None:
    ast.parse((ROOT / "deploy" / "clients" / "client.py").read_text(), feature_version=(3, 11))
