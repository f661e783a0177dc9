"""The container, the compose file and the systemd unit: read as those who run them read them, without an engine."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from theo_daemon.cli.commands import load

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"

Instructions = list[tuple[str, str]]


def instructions() -> Instructions:
    """The Dockerfile as (instruction, arguments), continued lines joined, comments dropped."""
    lines = [line for line in (DEPLOY / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines())]


def of(word: str) -> list[str]:
    return [rest for found, rest in instructions() if found == word]


def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / "compose.yaml").read_text()))


def unit() -> dict[str, list[str]]:
    """The settings of the unit, all sections together: no name is used in two of them."""
    found: dict[str, list[str]] = {}
    for line in (DEPLOY / "theo-router.service").read_text().splitlines():
        if line and not line.startswith(("#", "[")):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path from the build: the last pattern that fits it decides."""
    verdict = False
    for pattern in (ROOT / ".dockerignore").read_text().splitlines():
        if pattern and not pattern.startswith("#"):
            body = pattern.removeprefix("!")
            inside = body == "*" or path == body or path.startswith(f"{body}/")
            below = body.startswith("**/") and body.removeprefix("**/") in path.split("/")
            if inside or below:
                verdict = not pattern.startswith("!")
    return verdict


# The command lines


def serve_lines() -> dict[str, list[str]]:
    return {
        "image": json.loads(of("CMD")[-1]),
        "compose": compose()["services"]["theo-router"]["command"],
        "unit": shlex.split(unit()["ExecStart"][0])[1:],
    }


@pytest.mark.parametrize("where", ["image", "compose", "unit"])
def test_the_command_line_is_one_that_serve_understands(where: str) -> None:
    name, *arguments = serve_lines()[where]
    with load(name).make_context(name, list(arguments)) as context:
        assert str(context.params["config"]) == "/etc/theo-router/config.toml"


# The image


def test_every_source_of_the_image_exists_and_reaches_the_build() -> None:
    copied = [line.split()[:-1] for line in of("COPY") if not line.startswith("--from=")]
    sources = [source.rstrip("/") for words in copied for source in words]
    assert {"daemon", "workers", "pyproject.toml"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert not ignored(source), source
    assert ignored("deploy/compose.yaml"), "the pattern matcher says that nothing is ignored"
    assert ignored("daemon/theo_daemon/__pycache__/wire.pyc")


def test_the_image_installs_nothing_that_no_hash_vouches_for() -> None:
    installs = [part for line in of("RUN") for part in line.split("&&") if "pip install" in part]
    assert len(installs) == 3
    for install in installs:
        locked = "--require-hashes" in install and "--only-binary :all:" in install
        own_wheel = "--no-index" in install and "--no-deps" in install
        assert locked or own_wheel, install
    assert not of("ADD")
    assert "curl" not in "".join(of("RUN"))


def test_every_base_image_has_a_version() -> None:
    images = [line.split()[0] for line in of("FROM")]
    assert set(images) == {"python:3.13-slim"}
    assert re.fullmatch(r"valkey/valkey:\d+\.\d+-alpine", compose()["services"]["valkey"]["image"])


def test_the_image_runs_as_a_number_that_owns_the_ledgers_folder() -> None:
    uid, gid = of("USER")[-1].split(":")
    assert int(uid) > 10_000
    folder = of("VOLUME")[0]
    assert any(f"--owner {uid} --group {gid} --mode 0750 {folder}" in line for line in of("RUN"))
    assert instructions().index(("USER", f"{uid}:{gid}")) > max(
        number for number, (word, _) in enumerate(instructions()) if word in {"RUN", "COPY"}
    ), "what runs as the user must not own the program"


def test_signals_reach_the_program_and_not_a_shell() -> None:
    assert json.loads(of("ENTRYPOINT")[-1]) == ["theo-router"]
    assert of("STOPSIGNAL") == ["SIGTERM"]


def test_the_health_check_asks_the_port_that_is_exposed_for_life_not_for_redis() -> None:
    check = json.loads(of("HEALTHCHECK")[0].partition(" CMD ")[2])
    assert check[:2] == ["python", "-c"]
    compile(check[2], "HEALTHCHECK", "exec")
    assert f"127.0.0.1:{of('EXPOSE')[0]}/healthz" in check[2]


# The compose file


@pytest.mark.parametrize("service", ["valkey", "theo-router"])
def test_a_service_comes_back_and_fills_neither_disk_nor_memory(service: str) -> None:
    settings = compose()["services"][service]
    assert settings["restart"] == "unless-stopped"
    assert settings["logging"]["options"] == {"max-size": "20m", "max-file": "5"}
    assert settings["mem_limit"] == "2g"
    assert "no-new-privileges:true" in settings["security_opt"]


@pytest.mark.parametrize("service", ["valkey", "theo-router"])
def test_no_port_is_open_to_other_hosts(service: str) -> None:
    for port in compose()["services"][service]["ports"]:
        assert str(port).startswith("127.0.0.1:")


def test_the_router_may_write_its_ledger_and_nothing_else() -> None:
    settings = compose()["services"]["theo-router"]
    assert settings["read_only"] is True
    assert settings["cap_drop"] == ["ALL"]
    assert settings["volumes"] == [f"ledger:{of('VOLUME')[0]}"]
    assert settings["build"] == {"context": "..", "dockerfile": "deploy/Dockerfile"}
    assert set(compose()["volumes"]) == {"valkey", "ledger"}


def test_the_router_waits_for_a_valkey_that_keeps_what_it_accepts() -> None:
    services = compose()["services"]
    assert services["theo-router"]["depends_on"] == {"valkey": {"condition": "service_healthy"}}
    assert services["valkey"]["healthcheck"]["test"] == ["CMD", "valkey-cli", "-e", "ping"]
    words = shlex.split(services["valkey"]["command"])
    options = dict(zip(words[1::2], words[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--appendfsync"] == "everysec"
    assert options["--maxmemory-policy"] == "noeviction"


def test_each_process_has_a_status_port_of_its_own_that_is_published() -> None:
    settings = compose()["services"]["theo-router"]
    processes = int(settings["command"][-1])
    assert settings["command"][-2] == "--processes"
    assert settings["ports"] == [f"127.0.0.1:9464-{9463 + processes}:9464-{9463 + processes}"]


def test_no_secret_is_written_in_the_compose_file() -> None:
    settings = compose()["services"]["theo-router"]
    assert all(value.startswith("${") for value in settings["environment"].values())


# The unit


def test_systemd_knows_every_line_of_the_unit() -> None:
    """systemd's own check, where there is one; the program itself is not installed here."""
    tool = shutil.which("systemd-analyze")
    if tool is None:
        assert set(unit()) >= {"ExecStart", "Restart", "TimeoutStopSec", "DynamicUser"}
        return
    command = [tool, "verify", "--man=no", str(DEPLOY / "theo-router.service")]
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stderr
    lines = [line for line in said.splitlines() if "theo-router.service" in line]
    assert [line for line in lines if "is not executable" not in line] == []


def test_the_unit_starts_the_router_again_unless_its_configuration_is_wrong() -> None:
    settings = unit()
    assert settings["Restart"] == ["on-failure"]
    assert settings["RestartPreventExitStatus"] == ["2"]
    assert settings["StartLimitIntervalSec"] == ["0"], "a long absence of Redis would stop it for good"
    assert "ExecStartPre" not in settings, (
        "its exit status would not be looked at by RestartPreventExitStatus"
    )


def test_one_process_that_outgrows_the_memory_does_not_stop_the_others() -> None:
    assert unit()["OOMPolicy"] == ["continue"]


def test_a_stop_asks_the_supervisor_first_and_it_asks_the_others() -> None:
    assert unit()["KillMode"] == ["mixed"]
    assert unit()["KillSignal"] == ["SIGTERM"]


def test_the_units_user_has_no_name_no_rights_and_one_folder() -> None:
    settings = unit()
    assert settings["DynamicUser"] == ["yes"]
    assert settings["CapabilityBoundingSet"] == [""]
    assert settings["NoNewPrivileges"] == ["yes"]
    assert settings["ProtectSystem"] == ["strict"]
    assert settings["StateDirectory"] == ["theo-router"]
