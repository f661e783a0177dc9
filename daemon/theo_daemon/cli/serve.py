"""`serve`: one process, or a supervisor of several."""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from msgspec import structs
from redis.exceptions import RedisError

from theo_daemon import open_files, process_memory
from theo_daemon.cli.options import ConfigFile, RedisUrl, new_app
from theo_daemon.cli.target import NO_ADDRESS
from theo_daemon.config import Config
from theo_daemon.config_file import ConfigNotFound, load_config
from theo_daemon.config_parse import Overrides
from theo_daemon.redis_link import RedisLink
from theo_workers.clock import SystemClock
from theo_workers.errors import ConfigError

EMBEDDED_PORT = 6390  # tried first, so that clients find a private server again after a restart
_EMBEDDED = "No Redis at hand? `theo-router serve --embedded` starts a private one."
_PR_SET_PDEATHSIG = 1  # prctl(2)

app = new_app()


@app.command()
def serve(
    config: ConfigFile = None,
    redis_url: RedisUrl = None,
    processes: Annotated[
        int, typer.Option("--processes", metavar="N", min=1, max=256, help="How many processes to run.")
    ] = 1,
    embedded: Annotated[
        bool,
        typer.Option("--embedded", help="Start a private Redis when no address of one is configured."),
    ] = False,
    supervisor: Annotated[int | None, typer.Option("--supervisor", hidden=True)] = None,
) -> None:
    """Run the daemon: read jobs, call models, publish replies.

    SIGTERM (or Ctrl-C) drains: no more is read, unsent jobs go back at once, sent calls finish. A second one
    stops at once. Logs are JSON lines on standard error.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold API keys and prompts
    if supervisor is not None:
        _end_with(supervisor)
    # Until the daemon's own handler is there, nothing has been read and there is nothing to drain.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    settings = _settings(config, redis_url)
    with ExitStack() as stack:
        settings, url = _with_redis(settings, embedded, stack)
        if processes > 1:
            status = _serve_many(settings, url, processes)
        else:
            status = _serve_one(settings, url, supervised=supervisor is not None)
    raise typer.Exit(status)


def _settings(config: Path | None, redis_url: str | None) -> Config:
    """Raises ConfigError, which says all that is missing: of the address, too, where there is no file."""
    try:
        return load_config(config, overrides=Overrides(redis_url=redis_url))
    except ConfigNotFound as missing:
        if redis_url or os.environ.get("THEO_REDIS_URL"):
            raise
        raise ConfigNotFound(f"{missing}\nThere is {NO_ADDRESS}.\n{_EMBEDDED}") from None


def _with_redis(settings: Config, embedded: bool, stack: ExitStack) -> tuple[Config, str]:
    """The address of Redis; of a private one, started for as long as `stack` is open, if none is configured."""
    if (url := settings.redis.url) is not None:
        if embedded:
            warning = "--embedded started nothing: an address of Redis is configured, and used"
            settings = structs.replace(settings, warnings=(*settings.warnings, warning))
        return settings, url.reveal()
    if not embedded:
        raise ConfigError(f"{NO_ADDRESS}.\n{_EMBEDDED}")
    from theo_daemon.embedded_valkey import EmbeddedValkey, default_data_dir, free_port  # noqa: PLC0415 - rare

    server = stack.enter_context(EmbeddedValkey(default_data_dir(), port=free_port(EMBEDDED_PORT)))
    return settings, server.url


def _serve_one(settings: Config, url: str, *, supervised: bool) -> int:
    """Exit status 0 after a clean drain; 1 when a second signal cut it short."""
    # The interpreter's switch interval stays at its 5 ms: a shorter one brings commits back sooner on a busy loop,
    # but they are smaller then, and both threads spend a quarter more CPU on handing the lock back and forth.
    process_memory.tune()
    settings = open_files.fit(settings, open_files.raise_limit(open_files.wanted(settings)))
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        factory = None
    else:
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(_run(settings, url, supervised=supervised))


async def _run(settings: Config, url: str, *, supervised: bool) -> int:
    from theo_daemon.app import Daemon  # noqa: PLC0415 - a supervisor of processes does without

    daemon = Daemon(settings, url)
    signals = 0

    def on_signal() -> None:
        nonlocal signals
        signals += 1
        if signals == 1:
            daemon.drain()
        else:
            daemon.stop()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    if supervised:
        loop.add_signal_handler(signal.SIGHUP, daemon.drain)
    try:
        await daemon.run()
    except RedisError as error:
        raise _link(settings, url).unreachable(error) from error
    return 0 if signals < 2 else 1


def _serve_many(settings: Config, url: str, processes: int) -> int:
    from theo_daemon.cli.processes import Processes  # noqa: PLC0415 - not needed by one process
    from theo_daemon.server_check import check_server  # noqa: PLC0415
    from theo_daemon.telemetry.line_sink import LineSink  # noqa: PLC0415
    from theo_daemon.telemetry.logs import Logs  # noqa: PLC0415
    from theo_daemon.telemetry.redaction import Redactor  # noqa: PLC0415

    assert settings.source is not None  # it was read from a file
    asyncio.run(check_server(_link(settings, url)))  # once, in place of N complaints
    command = child_command(settings.source)
    # The address goes by the environment: the command line of a process can be read by everyone.
    environment = {**os.environ, "THEO_REDIS_URL": url}
    level, redactor = settings.telemetry.log_level, Redactor()
    logs = Logs(level=level, clock=SystemClock(), redactor=redactor, sink=LineSink())
    return asyncio.run(Processes(command, environment, count=processes, log=logs.write).run())


def _link(settings: Config, url: str) -> RedisLink:
    return RedisLink(url, prefix=settings.redis.prefix)


def child_command(config: Path) -> list[str]:
    """One process of several."""
    return [
        sys.executable,
        "-m",
        "theo_daemon",
        "serve",
        "--config",
        str(config),
        "--supervisor",
        str(os.getpid()),
    ]


def _end_with(supervisor: int) -> None:
    """Drain when the supervisor dies; at once if it did before that was arranged.

    Linux tells of it once for each of the supervisor's threads. As SIGTERMs they would be taken for a second signal,
    and what was sent would be cut off.
    """
    if sys.platform == "linux":
        signal.signal(signal.SIGHUP, lambda *_: sys.exit(0))
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGHUP, 0, 0, 0)
    if os.getppid() != supervisor:
        sys.exit(0)
