"""`make providers`: our adapters against servers that others wrote, and those servers' verdict on our retries."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.providers import resilience
from tests.providers.features import AIMOCK, LLAMA, Feature, Outcome, ask
from tests.providers.stand_ins import LLMOCK, Bases, Missing, aimock, llama, llmock, llmock_bases
from theo_daemon.embedded_llm import MODEL_NAME, LocalModelMissing
from theo_workers.messages import Completion

# The names by which each format is asked for at the stand-ins; they look at nothing but the endpoint.
MODELS = {
    "openai": "gpt-4o-mini",
    "openai_responses": "gpt-4o-mini",
    "anthropic": "claude-sonnet-4-5",
    "gemini": "gemini-2.5-flash",
}


async def check(bases: Bases, features: Sequence[Feature], model: str | None = None) -> int:
    """Prints a table of features by format, each cell plain/streamed; the number of misses."""
    print(f"{'':22}" + "".join(f"{provider:>20}" for provider in bases))
    misses: list[str] = []
    for feature in features:
        cells = []
        for provider, base_url in bases.items():
            if feature.only and provider not in feature.only:
                cells.append("–")
                continue
            marks = []
            for stream in (False, True):
                outcome, deltas = await ask(
                    provider, base_url, feature, model=model or MODELS[provider], stream=stream
                )
                good = feature.expected(outcome, deltas) and (
                    not stream or not isinstance(outcome, Completion) or deltas == outcome.output
                )
                marks.append("ok" if good else "MISS")
                if not good:
                    misses.append(f"{feature.name}, {provider}, stream={stream}: {told(outcome)}")
            cells.append("/".join(marks))
        print(f"{feature.name:22}" + "".join(f"{cell:>20}" for cell in cells))
    for miss in misses:
        print(f"  miss: {miss}")
    return len(misses)


def told(outcome: Outcome) -> str:
    if isinstance(outcome, Completion):
        calls = b"" if outcome.tool_calls is None else bytes(outcome.tool_calls)
        return f"{outcome.output!r} {outcome.finish_reason} {outcome.usage} {calls!r}"
    return f"{outcome.code} {outcome}"


async def main() -> int:
    misses = 0
    try:
        with tempfile.TemporaryDirectory() as folder:
            fixtures = [feature.fixture for feature in AIMOCK if feature.fixture is not None]
            async with aimock(fixtures, Path(folder)) as bases:
                print("\naimock, plain/streamed")
                misses += await check(bases, AIMOCK)
    except Missing as missing:
        print(f"\nleft out: {missing}")
    try:
        async with llama() as bases:
            print("\nllama.cpp with real weights, plain/streamed")
            misses += await check(bases, LLAMA, MODEL_NAME)
    except LocalModelMissing as absent:
        print(f"\nleft out: {absent}")
    async with llmock() as url:
        print("\nllmock: formats")
        misses += await check(llmock_bases(url), resilience.FEATURES)
        print("\nllmock: its verdict on a `serve` that its faults were thrown at")
        misses += await asyncio.to_thread(resilience.provoke, url, llmock_bases(url))
        verdict = await asyncio.to_thread(
            subprocess.run, [str(LLMOCK), "report", "--url", url], check=False, capture_output=True, text=True
        )
        print(verdict.stdout)
        misses += verdict.returncode != 0
    print(f"{misses} misses")
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
