"""What we hand out: a wheel of our two packages, locks without gaps, and nothing of the machine it was made on."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
LOCKS = sorted((ROOT / "deploy" / "locks").glob("*.txt"))
PACKAGES = ("daemon/theo_daemon", "workers/theo_workers")
FOLDERS = {"daemon", "workers", "tests", "deploy"}
TOP_LEVEL = {"pyproject.toml", "README.md", "Makefile", "LICENSE", "CHANGELOG.md"} | FOLDERS

PINNED = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9-]*)==(?P<version>[^ ;\\]+)(?: ; (?P<marker>[^\\]+?))?(?P<hashes>(?: --hash=\S+)+)"
)
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")

MACHINE_PATH = re.compile(r"(?<![\w.$}-])/(?:tmp|work|root|home|Users)/[\w.-]")
REGISTRY = re.compile(r"pypi\.org|pythonhosted\.org|npmjs\.org|index-url\s*=?\s*\w+:")


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def tracked() -> list[Path]:
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z"], check=True, capture_output=True, text=True
    )
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def pins(lock: Path) -> Iterator[re.Match[str]]:
    """A match for each requirement; fails on a line that is not a pinned, hashed one."""
    for line in lock.read_text().replace("\\\n", "").splitlines():
        found = PINNED.fullmatch(re.sub(r" +", " ", line).strip())
        assert found, f"{lock.name}: {line[:80]}"
        yield found


def versions(lock: Path) -> dict[str, str]:
    return {found["name"]: found["version"] for found in pins(lock)}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as pip would, with the hatchling that is installed and no network."""
    target = tmp_path_factory.mktemp("wheel")
    return Path(next(WheelBuilder(str(ROOT)).build(directory=str(target), versions=["standard"])))


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def dist_info(wheel: Path, name: str) -> str:
    with zipfile.ZipFile(wheel) as archive:
        (found,) = (entry for entry in archive.namelist() if entry.endswith(f".dist-info/{name}"))
        return archive.read(found).decode()


def test_the_wheel_holds_our_two_packages_and_nothing_else(wheel: Path, names: list[str]) -> None:
    version = wheel.name.split("-")[1]
    assert {name.split("/")[0] for name in names} == {
        "theo_daemon",
        "theo_workers",
        f"theo_router-{version}.dist-info",
    }


def test_the_wheel_is_for_any_machine_and_hooks_into_no_start(wheel: Path, names: list[str]) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    assert not [name for name in names if name.endswith(".pth")]


def test_the_wheel_holds_every_file_of_the_packages(names: list[str]) -> None:
    ours = [path.relative_to(ROOT) for path in tracked()]
    wanted = {"/".join(path.parts[1:]) for path in ours if "/".join(path.parts[:2]) in PACKAGES}
    assert {"theo_daemon/py.typed", "theo_workers/py.typed"} <= wanted
    assert wanted <= set(names)


def test_the_wheel_says_how_to_start_and_what_is_allowed(wheel: Path) -> None:
    assert "theo-router = theo_daemon.cli:main" in dist_info(wheel, "entry_points.txt").splitlines()
    metadata = Parser().parsestr(dist_info(wheel, "METADATA"))
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert dist_info(wheel, "licenses/LICENSE") == (ROOT / "LICENSE").read_text()


def digests(folder: Path, files: list[Path]) -> dict[Path, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files}


def test_installs_beside_python_daemon_and_leaves_it_as_it_was(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    site = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    theirs: list[Path] = []
    for name in ("python-daemon", "lockfile"):  # the real one, of the lock, copied as it is installed here
        for file in importlib.metadata.distribution(name).files or ():
            if ".." not in file.parts and file.suffix != ".pyc":
                (site / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(str(file.locate()), site / file)
                theirs.append(Path(file))
    assert Path("daemon/__init__.py") in theirs
    before = digests(site, theirs)

    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "-qq", "--no-deps", "--no-index", str(wheel)], check=True)
    asked = (
        "import daemon, theo_daemon, theo_workers; print(daemon.__file__, theo_daemon.__file__, sep='\\n')"
    )
    seen = subprocess.run(
        [python, "-P", "-c", asked], check=True, capture_output=True, text=True
    ).stdout.split()
    assert [Path(path).relative_to(site).as_posix() for path in seen] == [
        "daemon/__init__.py",
        "theo_daemon/__init__.py",
    ]
    assert digests(site, theirs) == before

    subprocess.run([*pip, "uninstall", "-qq", "--yes", "theo-router"], check=True)
    assert digests(site, theirs) == before
    assert not list(site.glob("theo_*"))


@pytest.mark.parametrize("folder", ["daemon", "workers"])
def test_the_source_folders_are_not_packages_themselves(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists()


def test_the_top_level_is_as_it_was_agreed() -> None:
    seen = {path.relative_to(ROOT).parts[0] for path in tracked()}
    assert {name for name in seen if not name.startswith(".")} == TOP_LEVEL


def test_no_tracked_file_names_a_machine_or_a_registry() -> None:
    found = []
    for path in tracked():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue  # packed data
        for number, line in enumerate(text.splitlines(), 1):
            if MACHINE_PATH.search(line) or REGISTRY.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert found == []


def test_there_is_a_lock_for_building_for_development_for_the_local_model_and_for_running() -> None:
    assert [lock.name for lock in LOCKS] == ["build.txt", "dev.txt", "local.txt", "runtime.txt"]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: str(lock.name))
def test_every_line_of_a_lock_is_one_version_with_hashes(lock: Path) -> None:
    count = 0
    for found in pins(lock):
        hashes = found["hashes"].split()
        assert all(HASH.fullmatch(each) for each in hashes), found["name"]
        assert len(set(hashes)) == len(hashes)
        count += 1
    assert count >= 2


def test_the_locks_hold_what_pyproject_asks_for() -> None:
    data = project()
    development = versions(ROOT / "deploy" / "locks" / "dev.txt")
    wanted = {
        "runtime.txt": data["project"]["dependencies"],
        "dev.txt": [
            *data["project"]["dependencies"],
            *data["project"]["optional-dependencies"]["embedded"],
            *(entry for entry in data["dependency-groups"]["dev"] if isinstance(entry, str)),
            *data["dependency-groups"]["build"],
        ],
        "build.txt": [*data["build-system"]["requires"], *data["dependency-groups"]["build"]],
        "local.txt": [
            *data["project"]["optional-dependencies"]["local"],
            *data["dependency-groups"]["weights"],
        ],
    }
    for lock, requirements in wanted.items():
        pinned = versions(ROOT / "deploy" / "locks" / lock)
        for text in requirements:
            requirement = Requirement(text)
            assert requirement.specifier.contains(pinned[requirement.name.lower()]), f"{lock}: {text}"
    for lock in ("runtime.txt", "build.txt"):
        pinned = versions(ROOT / "deploy" / "locks" / lock)
        assert {name: development.get(name) for name in pinned} == pinned, "make lock renews them together"


def test_ci_runs_the_same_command_as_a_developer() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().splitlines()[-1] == "make test"
