"""The list of commands, and what all of them have in common."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from theo_daemon import __version__
from theo_daemon.cli.commands import COMMANDS, load

HEAVY = (
    "redis",
    "apsw",
    "aiohttp",
    "msgspec",
    "structlog",
    "opentelemetry",
    "genai_prices",
    "tiktoken",
    "asyncio",
)


def leaves() -> list[tuple[str, Any]]:
    """Every command that does something, with its whole name."""
    found: list[tuple[str, Any]] = []
    for name in COMMANDS:
        command = load(name)
        below = getattr(command, "commands", None)
        found += [(f"{name} {sub}", one) for sub, one in below.items()] if below else [(name, command)]
    return found


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_import_nothing_that_a_command_needs(flag: str) -> None:
    script = (
        "import sys\n"
        "from theo_daemon.cli import main\n"
        f"sys.argv = ['theo-router', '{flag}']\n"
        "try:\n    main()\n"
        f"finally:\n    sys.stderr.write(' '.join(name for name in {HEAVY!r} if name in sys.modules))\n"
    )
    environment = {"PYTHONPATH": ":".join(sys.path), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    expected = list(COMMANDS) if flag == "--help" else [f"theo-router {__version__}"]
    assert [text for text in expected if text not in done.stdout] == []


@pytest.mark.parametrize("name", list(COMMANDS))
def test_the_line_in_the_list_is_the_command_s_own_first_line(name: str) -> None:
    first, *_ = load(name).help.split("\n")
    assert first == COMMANDS[name][1]


@pytest.mark.parametrize(("name", "command"), leaves(), ids=[name for name, _ in leaves()])
def test_every_command_takes_an_address_and_a_configuration_and_explains_itself(
    name: str, command: Any
) -> None:
    flags = {flag for parameter in command.params for flag in parameter.opts}
    assert {"--redis-url", "--config"} <= flags
    assert command.help


@pytest.mark.parametrize(
    "name",
    [
        "status",
        "spend",
        "latency",
        "submit",
        "check-config",
        "dead ls",
        "dead show",
        "budget show",
        "ledger unknown",
        "doctor",
        "cancel",
    ],
)
def test_what_programs_may_read_has_json(name: str) -> None:
    (command,) = (command for known, command in leaves() if known == name)
    assert "--json" in {flag for parameter in command.params for flag in parameter.opts}
