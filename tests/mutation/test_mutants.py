"""The gate: every planted bug is caught by the suite. A suite that lets one pass proves nothing by being green."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutation.mutants import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 90.0


def planted(mutant: Mutant, folder: Path) -> Path:
    """A copy of the project with the bug in it. Files are linked, compiled ones with them, so it takes no time."""
    for name in ("daemon", "workers", "tests"):
        shutil.copytree(ROOT / name, folder / name, copy_function=os.link)
    for name in ("pyproject.toml", "README.md", "CHANGELOG.md", "Makefile", "deploy"):
        (folder / name).symlink_to(ROOT / name)
    target = folder / mutant.file
    source = target.read_text()
    assert source.count(mutant.old) == 1, f"{mutant.file} has changed: plant {mutant.name!r} anew"
    target.unlink()
    target.write_text(source.replace(mutant.old, mutant.new))
    return folder


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_planted_bug_is_caught(mutant: Mutant, tmp_path: Path) -> None:
    folder = planted(mutant, tmp_path / "project")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    known = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "THEO_"))}
    done = subprocess.run(
        [*command, "--rootdir", str(folder), "-c", str(folder / "pyproject.toml"), *mutant.tests],
        check=False,
        cwd=folder,
        env=known,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 1, f"not caught (exit status {done.returncode}):\n{done.stdout[-3000:]}"
    assert " failed" in done.stdout
    assert " error" not in done.stdout.splitlines()[-1], done.stdout[-3000:]
