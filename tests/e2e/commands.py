"""The command line as a person has it: processes, their output, their exit status."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Self
from unittest import mock

import pytest
import redis as redis_client

from tests.e2e.processes import ROOT, until
from theo_daemon.cli import app

CONFIG = """\
[redis]
url = "{url}"
prefix = "{prefix}"

[telemetry]
http = "127.0.0.1:{http}"

[ingress]
drain_s = 20.0

[routing]
default = "echo"

[[models]]
name = "echo"
provider = "scripted"
max_output_tokens = 10
input_cost_per_mtok = 100.0
output_cost_per_mtok = 100.0
routing = {{ spend_ceiling = 5.0, spend_window = "1d" }}

[[models]]
name = "words"
provider = "scripted"
script = [{{ chunks = ["one ", "two ", "three"], chunk_interval_ms = 30 }}]

[[models]]
name = "spare"
provider = "scripted"

[[models]]
name = "slow"
provider = "scripted"
script = [{{ latency_ms = 800, text = "at last" }}]

[[models]]
name = "hangs"
provider = "scripted"
script = [{{ hang = true }}]
"""


class Shell:
    """A folder with a configuration, and commands run in it."""

    def __init__(self, folder: Path, url: str, prefix: str, *, http: int) -> None:
        self.folder, self.url, self.prefix = folder, url, prefix
        self.config = folder / "theo-router.toml"
        self.config.write_text(CONFIG.format(url=url, prefix=prefix, http=http))
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("THEO_")}
        self.environment |= {
            "PYTHONPATH": f"{ROOT / 'daemon'}{os.pathsep}{ROOT / 'workers'}",
            "COLUMNS": "200",
            "XDG_DATA_HOME": str(folder / "data"),
            "TMPDIR": tempfile.gettempdir(),
        }

    def run(self, *words: str, stdin: str = "", timeout_s: float = 30.0) -> subprocess.CompletedProcess[str]:
        """One command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "theo_daemon", *words], check=False, cwd=self.folder, env=self.environment,
            input=stdin, capture_output=True, text=True, timeout=timeout_s,
        )  # fmt: skip

    def here(self, *words: str) -> tuple[int, str, str]:
        """Status, output and errors of a command run in this process: most of a short one's time is its start."""
        out, errors, here = io.StringIO(), io.StringIO(), Path.cwd()
        os.chdir(self.folder)
        try:
            with (
                mock.patch.dict(os.environ, self.environment, clear=True),
                contextlib.redirect_stdout(out),
                contextlib.redirect_stderr(errors),
                pytest.raises(SystemExit) as ended,
            ):
                app(list(words), prog_name="theo-router")
        finally:
            os.chdir(here)
        assert isinstance(ended.value.code, int)
        return ended.value.code, out.getvalue(), errors.getvalue()

    def ok(self, *words: str) -> str:
        """Its output; it must succeed."""
        status, out, errors = self.here(*words)
        assert status == 0, f"{words}: {status}\n{out}\n{errors}"
        return out

    def json(self, *words: str) -> Any:
        """The one document that it prints."""
        return json.loads(self.ok(*words, "--json"))

    def refused(self, *words: str) -> tuple[int, str]:
        """Exit status, and what it said on standard error: words for people, never a traceback."""
        if words[0] == "serve":  # it changes the process that it runs in
            done = self.run(*words)
            status, errors = done.returncode, done.stderr
        else:
            status, _, errors = self.here(*words)
        assert "Traceback" not in errors
        return status, errors


class Background:
    """A command that goes on, and its log."""

    def __init__(self, shell: Shell, *words: str) -> None:
        self._path = shell.folder / f"{'-'.join(words[:2]).replace('/', '_')}.log"
        with self._path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "theo_daemon", *words], cwd=shell.folder, env=shell.environment,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def __enter__(self) -> Self:
        """Ends the command at the latest with the block."""
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    @property
    def log(self) -> str:
        return self._path.read_text("utf-8", "replace")

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log lines of one event."""
        lines = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def wait_for(self, event: str, count: int = 1) -> list[dict[str, Any]]:
        def found() -> list[dict[str, Any]]:
            assert self.process.poll() is None, self.log
            seen = self.events(event)
            return seen if len(seen) >= count else []

        return until(found, 20.0, lambda: self.log)

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def wait(self, timeout_s: float = 20.0) -> int:
        return self.process.wait(timeout_s)


def alive(pid: int) -> bool:
    """Is it running? A dead process that nobody has waited for is not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def reply_to(client: redis_client.Redis, shell: Shell, entry_id: str) -> dict[str, str]:
    """The final reply on the default stream."""

    def found() -> dict[str, str] | None:
        entries = [fields for _, fields in client.xrange(f"{shell.prefix}:replies")]
        return next((one for one in entries if one["entry_id"] == entry_id), None)

    reply = until(found, 10.0, entry_id)
    assert reply is not None
    return reply


def running(shell: Shell, model: str) -> bool:
    """Has a call been sent? A job that was only read is handed back by a drain."""
    return any(one["running"] for one in shell.json("status")["models"] if one["name"] == model)
