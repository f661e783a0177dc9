"""Servers that we did not write: two stand-ins for providers, and a real language model. Each on a loopback port."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from theo_daemon.embedded_llm import EmbeddedModel

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / ".venv" / "providers"  # where `make providers` installs them
AIMOCK = TOOLS / "node_modules" / "@copilotkit" / "aimock" / "dist" / "cli.js"
LLMOCK = TOOLS / "llmock" / "bin" / "llmock"
KEY = "sk-stand-in-0123456789abcdef"

# Where each of our providers finds its format at each server; none: the server does not speak it.
Bases = dict[str, str]


class Missing(RuntimeError):
    """A stand-in is not installed."""


@contextlib.asynccontextmanager
async def aimock(fixtures: list[dict[str, Any]], folder: Path) -> AsyncIterator[Bases]:
    """npm `@copilotkit/aimock`: answers by fixture, the same ones in all four formats. It wants the key."""
    if not AIMOCK.exists():
        raise Missing("aimock is not installed: `make providers` does it where npm is there")
    path, port = folder / "aimock.json", free_port()
    path.write_text(json.dumps({"fixtures": fixtures}))
    command = ["node", str(AIMOCK), "-p", str(port), "-f", str(path), "--strict", "--log-level", "silent"]
    async with running(command, f"http://127.0.0.1:{port}/health", AIMOCK_API_KEYS=KEY):
        v1, gemini = f"http://127.0.0.1:{port}/v1", f"http://127.0.0.1:{port}/v1beta"
        yield {"openai": v1, "openai_responses": v1, "anthropic": v1, "gemini": gemini}


@contextlib.asynccontextmanager
async def llmock() -> AsyncIterator[str]:
    """PyPI `llmock`: breaks on demand, and judges its client. The URL."""
    if not LLMOCK.exists():
        raise Missing("llmock is not installed: `make providers` does it")
    port = free_port()
    command = [str(LLMOCK), "serve", "--host", "127.0.0.1", "--port", str(port)]
    async with running(command, f"http://127.0.0.1:{port}/health"):
        yield f"http://127.0.0.1:{port}"


def llmock_bases(url: str) -> Bases:
    return {
        "openai": f"{url}/v1",
        "openai_responses": f"{url}/v1",
        "anthropic": f"{url}/anthropic/v1",
        "gemini": f"{url}/gemini/v1beta",
    }


@contextlib.asynccontextmanager
async def llama() -> AsyncIterator[Bases]:
    """llama.cpp's own server with real weights, as `make demo` has it."""
    model = await EmbeddedModel.start()
    try:
        yield {"openai": model.base_url, "openai_responses": model.base_url, "anthropic": model.base_url}
    finally:
        await model.stop()


@contextlib.asynccontextmanager
async def running(command: list[str], health: str, **environment: str) -> AsyncIterator[None]:
    """The process, from the moment that it answers until the end of the block."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, **environment},
    )
    try:
        async with aiohttp.ClientSession() as session, asyncio.timeout(30):
            while not await _answers(session, health):
                if process.returncode is not None:
                    raise Missing(f"{command[0]} ended with {process.returncode}")
                await asyncio.sleep(0.1)
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url) as answer:
            return answer.status < 500
    except aiohttp.ClientError:
        return False


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
