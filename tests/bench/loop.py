"""The least a worker can do: read jobs, ask the model, write the reply and acknowledge, each job by itself.

What somebody would write in an afternoon: no ledger, no retry, no failover, no sharing, no recovery of what a crashed
worker had read. Usage: loop.py REDIS_URL UPSTREAM_BASE_URL
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import aiohttp
import redis.asyncio
import uvloop

CONCURRENCY = 64


async def work(
    queue: asyncio.Queue[Any], redis_client: Any, session: aiohttp.ClientSession, url: str
) -> None:
    while True:
        entry_id, fields = await queue.get()
        job = json.loads(fields[b"job"])
        started = time.perf_counter()
        question = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": job["prompt"]}]}
        async with session.post(url, json=question) as response:
            answer = await response.json()
        reply = {
            "id": job.get("id", entry_id),
            "entry_id": entry_id,
            "status": "ok",
            "final": "1",
            "model": job["model"],
            "output": answer["choices"][0]["message"]["content"],
            "usage": json.dumps(answer["usage"]),
            "latency_ms": round((time.perf_counter() - started) * 1000, 3),
        }
        pipe = redis_client.pipeline(transaction=False)
        pipe.xadd("theo:replies", reply)
        pipe.xack("theo:jobs", "theo", entry_id)
        await pipe.execute()


async def main(redis_url: str, base_url: str) -> None:
    redis_client: Any = redis.asyncio.from_url(redis_url)
    queue: asyncio.Queue[Any] = asyncio.Queue(maxsize=CONCURRENCY)
    headers = {"Authorization": "Bearer bench"}
    connector = aiohttp.TCPConnector(limit=CONCURRENCY)
    async with (
        aiohttp.ClientSession(connector=connector, headers=headers) as session,
        asyncio.TaskGroup() as tasks,
    ):
        for _ in range(CONCURRENCY):
            tasks.create_task(work(queue, redis_client, session, f"{base_url}/chat/completions"))
        while True:
            read = await redis_client.xreadgroup("theo", "loop", {"theo:jobs": ">"}, count=64, block=1000)
            for _, entries in read or ():
                for entry in entries:
                    await queue.put(entry)


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
