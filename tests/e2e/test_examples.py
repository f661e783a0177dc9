"""What the README tells to type, and the clients in deploy/clients, against a daemon that has the demo's models."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.e2e.processes import ROOT, Serve, until
from theo_daemon.demo.settings import demo_config
from theo_daemon.embedded_valkey import EmbeddedValkey

CLIENTS = ROOT / "deploy" / "clients"


@pytest.fixture
def demo(own_valkey: EmbeddedValkey, tmp_path: Path) -> Iterator[str]:
    """A daemon over a server of its own, with the default prefix; the server's address."""
    path = tmp_path / "theo-router.toml"
    path.write_text(demo_config(redis_url=own_valkey.url, prefix="theo", http="127.0.0.1:0"))
    known = {name: value for name, value in os.environ.items() if not name.startswith("THEO_")}
    paths = f"{ROOT / 'daemon'}{os.pathsep}{ROOT / 'workers'}"
    command = [sys.executable, "-m", "theo_daemon", "serve", "--config", str(path)]
    serve = Serve("demo", command, tmp_path, {**known, "PYTHONPATH": paths})
    serve.wait_ready()
    yield own_valkey.url
    serve.close()


def readme_lines() -> list[list[str]]:
    """The words of each redis-cli line, from the Redis command on."""
    (block,) = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    lines = [shlex.split(line) for line in block.splitlines()]
    assert {tuple(words[:3]) for words in lines} == {("redis-cli", "-p", "6390")}
    return [words[3:] for words in lines]


def test_the_readmes_redis_lines_do_what_it_says(demo: str) -> None:
    *pushes, read = readme_lines()
    with redis.Redis.from_url(demo, decode_responses=True, socket_timeout=20) as client:
        server: Any = client
        ids = [(words[1], server.execute_command(*words)) for words in pushes]  # an id is its stream's only
        until(lambda: server.xlen("theo:reply:me") == len(ids), 20, "four replies")
        ((_, entries),) = server.execute_command(*read)
        assert len(entries) == len(ids)
        replies = {
            (reply["job_stream"], reply["entry_id"]): reply for _, reply in server.xrange("theo:reply:me")
        }
    assert {reply["status"] for reply in replies.values()} == {"ok"}
    first, again, failed_over = (replies[pushed] for pushed in ids[1:])
    # One call: the other push shared it while it ran (cost 0), or came later and got the very same reply again.
    assert len({reply["attempts"] for reply in (first, again) if reply["cost"] != "0"}) == 1
    assert first["output"] == again["output"]
    assert "provider_unavailable" in failed_over["attempts"]


CLIENT_COMMANDS = [
    pytest.param([sys.executable, str(CLIENTS / "client.py")], id="python"),
    pytest.param(["bash", str(CLIENTS / "client.sh")], id="shell"),
]


@pytest.mark.parametrize("command", CLIENT_COMMANDS)
def test_a_client_prints_the_answer_and_leaves_no_stream_behind(demo: str, command: list[str]) -> None:
    done = subprocess.run(
        [*command, "Say hi"],
        check=True,
        env={**os.environ, "REDIS_URL": demo},
        capture_output=True,
        text=True,
        timeout=30,
    )
    *answer, bill = done.stdout.splitlines()
    assert answer == ["This answer comes from a script, not from a model."]
    assert re.fullmatch(r"smol, \d+ tokens, 0\.\d+ USD", bill)
    with redis.Redis.from_url(demo, decode_responses=True) as client:
        assert list(client.scan_iter("theo:reply:*")) == []
