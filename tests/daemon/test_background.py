"""Work beside a block of code, and that its failure is heard of."""

from __future__ import annotations

import asyncio

import pytest

from theo_daemon.background import first_failure, running


async def forever() -> None:
    await asyncio.Event().wait()


async def nothing() -> None:
    await asyncio.sleep(0)


async def a_bug() -> None:
    await asyncio.sleep(0)
    raise KeyError("nobody foresaw this")


async def test_the_first_failure_is_told_with_what_was_raised() -> None:
    tasks = [asyncio.create_task(work()) for work in (forever, a_bug, nothing)]
    with pytest.raises(KeyError, match="nobody foresaw this"):
        await asyncio.wait_for(first_failure(tasks), 5)
    tasks[0].cancel()


async def test_work_that_ends_or_is_cancelled_has_not_failed() -> None:
    tasks = [asyncio.create_task(work()) for work in (forever, nothing)]
    failure = first_failure(tasks)
    tasks[0].cancel()
    await asyncio.wait(tasks)
    await asyncio.sleep(0)
    assert not failure.done()


async def test_work_ends_with_the_block_it_runs_beside() -> None:
    async with running(forever()) as task:
        assert not task.done()
    assert task.cancelled()
