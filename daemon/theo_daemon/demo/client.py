"""A client of the contract: pushes the jobs and collects what comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from msgspec import Struct

from theo_daemon.demo.jobs import TWINS, DemoJob, problem, twins_problem
from theo_daemon.keys import Keys
from theo_daemon.wire import Wire

BLOCK_MS = 500
LATE_S = 0.5  # how long to look for replies that must not come


class Run(Struct, kw_only=True):
    """One job on its way."""

    job: DemoJob
    number: int  # the jobs of a kind are told apart by it
    stream: str = ""
    entry_id: str = ""  # two streams can give the same one
    pushed_at: float = 0.0  # monotonic seconds, as `ended_at`
    ended_at: float = 0.0
    deltas: int = 0
    reply: dict[str, str] | None = None
    finals: int = 0


class Client:
    """Pushes on one connection and reads on another. `changed` is called when something happened."""

    def __init__(
        self, *, pushing: Wire, reading: Wire, keys: Keys, port: int | None, changed: Callable[[Run], None]
    ) -> None:
        """`port` is Redis's on the loopback, for the job that goes over a bare socket; None: it goes as the others."""
        self._pushing, self._reading, self._keys, self._port = pushing, reading, keys, port
        self._changed = changed
        self._own = f"{keys.reply_prefix}demo"
        self._last = {self._own: "0", keys.replies: "0"}
        self.runs: list[Run] = []

    async def play(self, jobs: Sequence[DemoJob]) -> None:
        """Push wave by wave, each when the one before has all its replies."""
        self.runs = [Run(job=job, number=number) for number, job in enumerate(jobs, 1)]
        for wave in sorted({job.wave for job in jobs}):
            for run in self.runs:
                if run.job.wave == wave:
                    await self._push(run)
            while any(run.job.wave == wave and run.reply is None for run in self.runs):
                await self._read(BLOCK_MS)

    async def problems(self) -> list[str]:
        """What is not as it must be. Waits a little for replies that must not come."""
        until = time.monotonic() + LATE_S
        while time.monotonic() < until:
            await self._read(int(LATE_S * 1000) // 5)
        found = [f"{run.job.kind}: no reply" for run in self.runs if run.reply is None]
        found += [f"{run.job.kind}: {run.finals} final replies" for run in self.runs if run.finals > 1]
        answered = [(run.job, run.reply) for run in self.runs if run.reply is not None]
        found += [text for job, reply in answered if (text := problem(job, reply)) is not None]
        twins = twins_problem([reply for job, reply in answered if job.kind == TWINS])
        return found + ([twins] if twins else [])

    async def _push(self, run: Run) -> None:
        run.stream = stream = self._keys.jobs(run.job.lane)
        words = [word for pair in run.job.fields.items() for word in pair]
        run.pushed_at = time.monotonic()
        if run.job.as_redis_cli and self._port is not None:
            run.entry_id = await push_by_socket(self._port, ["XADD", stream, "*", *words])
        else:
            own = () if run.job.as_redis_cli else ("reply_to", self._own)
            run.entry_id = (await self._pushing.ask("XADD", stream, "*", *words, *own)).decode()
        self._changed(run)

    async def _read(self, block_ms: int) -> None:
        found = await self._reading.ask(
            "XREAD", "COUNT", 100, "BLOCK", block_ms, "STREAMS", *self._last.keys(), *self._last.values()
        )
        for stream, entries in found or ():
            for entry_id, flat in entries:
                self._last[stream.decode()] = entry_id.decode()
                texts = [word.decode("utf-8", "replace") for word in flat]
                self._take(dict(zip(texts[::2], texts[1::2], strict=True)))

    def _take(self, reply: dict[str, str]) -> None:
        came_from = reply["job_stream"], reply["entry_id"]
        run = next((one for one in self.runs if (one.stream, one.entry_id) == came_from), None)
        if run is None:
            return  # somebody else's
        if reply["final"] == "1":
            run.finals += 1
            if run.reply is None:
                run.reply, run.ended_at = reply, time.monotonic()
        else:
            run.deltas += 1
        self._changed(run)


async def push_by_socket(port: int, words: Sequence[str]) -> str:
    """What `redis-cli XADD ...` does: one command over a socket of its own; the entry id."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    encoded = [word.encode() for word in words]
    writer.write(
        b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded)
    )
    await writer.drain()
    await reader.readline()  # the length of what follows
    entry_id = (await reader.readline()).decode().strip()
    writer.close()
    await writer.wait_closed()
    return entry_id
