"""The demo from start to end: everything is started, a dozen jobs are answered, everything is stopped."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

from msgspec import Struct
from rich.console import Console

from theo_daemon.demo import board
from theo_daemon.demo.client import Client
from theo_daemon.demo.jobs import demo_jobs
from theo_daemon.demo.settings import demo_config
from theo_daemon.demo.stage import DemoFailed, ServeProcess, serving
from theo_daemon.embedded_llm import MODEL_NAME, EmbeddedModel, LocalModelMissing
from theo_daemon.embedded_valkey import EmbeddedValkey, free_port
from theo_daemon.keys import Keys
from theo_daemon.redis_link import RedisLink
from theo_daemon.wire import Wire

REDIS_PORT, HTTP_PORT = 6390, 9464  # tried first, so that the commands to try are the same each time
REPLIES_TIMEOUT_S = 50.0


class DemoOptions(Struct, frozen=True, kw_only=True):
    """`redis_url` None: a private one is started. `scripted`: do without the real model."""

    keep: bool = False
    scripted: bool = False
    redis_url: str | None = None
    program: str = "theo-router"


def run_demo(options: DemoOptions, out: Console) -> int:
    """Exit status 0 only if every job got its one reply, as expected. Raises RouterError."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: stop everything, in order
    folder = Path(tempfile.mkdtemp(prefix="theo-demo-"))
    try:
        # Redis is started here, on the main thread: Linux ends it with the thread that started it.
        with _redis(options, folder, out) as (url, port):
            status = asyncio.run(_play(options, out, folder, url, port))
    except BaseException:
        out.print(f"What the demo wrote, logs included, is in {folder}", markup=False)
        raise
    if status == 0:
        shutil.rmtree(folder)
    else:
        out.print(f"What the demo wrote, logs included, is in {folder}", markup=False)
    return status


@contextmanager
def _redis(options: DemoOptions, folder: Path, out: Console) -> Iterator[tuple[str, int | None]]:
    if options.redis_url is not None:
        yield options.redis_url, None
        return
    with EmbeddedValkey(folder / "valkey", port=free_port(REDIS_PORT)) as server:
        _say(out, "Redis", f"a private Valkey on 127.0.0.1:{server.port}, pid {server.pid}")
        yield server.url, server.port


async def _play(options: DemoOptions, out: Console, folder: Path, url: str, port: int | None) -> int:
    # A router that reads the same Redis must not get these jobs, nor the demo its jobs.
    prefix = (
        "theo" if port is not None else f"{{theo-demo-{folder.name[-8:]}}}"
    )  # braces: it may be a cluster
    async with AsyncExitStack() as stack:
        base_url = await _model(options, out, folder, stack)
        http = f"127.0.0.1:{free_port(HTTP_PORT)}"
        config = folder / "theo-router.toml"
        config.write_text(
            demo_config(redis_url=url, prefix=prefix, http=http, model=MODEL_NAME, base_url=base_url)
        )
        config.chmod(0o600)
        link = RedisLink(url, prefix=prefix, client_name="theo-demo")
        wires = [link.wire(timeout_s=10.0) for _ in range(2)]
        for wire in wires:
            stack.push_async_callback(wire.close)
        if port is None:
            stack.push_async_callback(_delete_keys, wires[0], prefix)
        daemon = stack.enter_context(serving(config, folder / "serve.log"))
        await daemon.ready(http)
        _say(out, "daemon", f"{options.program} serve --config {config}")
        status = await _answers(out, wires, Keys(prefix), port)
        if options.keep:
            _show_how(out, options.program, config, port, http)
            await _until_interrupted(daemon)
            _say(out, "stopping", "the daemon drains, then everything else ends")
    if not options.keep:
        _say(out, "stopped", "everything that the demo started")
        out.print(f"\nTo play with it: {_keep_command(options.program)}", markup=False, soft_wrap=True)
    return status


async def _model(options: DemoOptions, out: Console, folder: Path, stack: AsyncExitStack) -> str | None:
    """The real model's URL; None, and a word about it, when a script must do."""
    if options.scripted:
        _say(out, "model", "a script, as asked")
        return None
    started = time.monotonic()
    try:
        model = await EmbeddedModel.start(log=folder / "model.log")
    except LocalModelMissing as error:
        _say(out, "model", f"a script answers, because {error}")
        return None
    stack.push_async_callback(model.stop)
    _say(
        out, "model", f"{MODEL_NAME} in llama.cpp, one thread, pid {model.process.pid}, "
        f"up in {time.monotonic() - started:.1f} s",
    )  # fmt: skip
    return model.base_url


async def _answers(out: Console, wires: list[Wire], keys: Keys, port: int | None) -> int:
    jobs = demo_jobs()
    _say(out, "jobs", f"{len(jobs)} through the stream {keys.jobs()}")
    with board.Board(out) as shown:
        client = Client(pushing=wires[0], reading=wires[1], keys=keys, port=port, changed=shown.changed)
        try:
            async with asyncio.timeout(REPLIES_TIMEOUT_S):
                await client.play(jobs)
        except TimeoutError:
            out.print(f"Not every job was answered within {REPLIES_TIMEOUT_S:.0f} s.", style="red")
        problems = await client.problems()
    out.print()
    board.show_replies(out, client.runs)
    out.print()
    if problems:
        for text in problems:
            out.print(f"wrong: {text}", style="red", markup=False)
        return 1
    out.print(f"All {len(jobs)} jobs got their one final reply, each the expected one.", style="green")
    return 0


def _show_how(out: Console, program: str, config: Path, port: int | None, http: str) -> None:
    out.print("\nIt goes on running. Try in another terminal:", style="bold")
    redis = "redis-cli" if port is None else f"redis-cli -p {port}"
    lines = [
        f"{redis} XADD theo:jobs '*' prompt 'Say hi' reply_to theo:reply:me",
        f"{redis} XREAD BLOCK 10000 STREAMS theo:reply:me 0",
        f'{program} submit --config {config} --stream "Tell me a story."',
        f"{program} status --config {config}",
        f"{program} dead ls --config {config}",
        f"open http://{http}/ in a browser",
    ]
    for line in lines if port is not None else lines[2:]:
        out.print(f"  {line}", markup=False, soft_wrap=True)
    out.print("Ctrl-C ends it.", style="bold")


async def _until_interrupted(daemon: ServeProcess) -> None:
    loop, asked = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked.set)
    while not asked.is_set():
        if daemon.ended:
            raise DemoFailed(f"the daemon ended; its log ends:\n{daemon.log_tail()}")
        try:
            await asyncio.wait_for(asked.wait(), 0.5)
        except TimeoutError:
            continue


async def _delete_keys(wire: Wire, prefix: str) -> None:
    cursor = b"0"
    while True:
        cursor, found = await wire.ask("SCAN", cursor, "MATCH", f"{prefix}:*", "COUNT", 1_000)
        if found:
            await wire.ask("UNLINK", *found)
        if cursor == b"0":
            return


def _keep_command(program: str) -> str:
    return (
        f"make demo KEEP=1, or {program} demo --keep"
        if Path("Makefile").exists()
        else f"{program} demo --keep"
    )


def _say(out: Console, what: str, text: str) -> None:
    out.print(f"{what:9} {text}", markup=False, soft_wrap=True)
    sys.stdout.flush()
