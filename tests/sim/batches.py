"""Worlds by the dozen, each batch in a process of its own.

The dead of a world must stay as they are: a coroutine that is closed runs its `finally`, which no killed process does.
So nothing is collected while worlds run, and what they leave goes with the process that ran them, unfinalised.
"""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from msgspec import Struct, structs

from tests.sim.boots import simulated
from tests.sim.plan import Fault, Plan, draw
from tests.sim.report import Result, result_of
from tests.sim.world import World

BATCH = 25  # worlds: so many leave some hundred megabytes
TWICE = 25  # of so many worlds, one is run twice, and must be the same
_context = multiprocessing.get_context("fork")


class Batch(Struct, frozen=True):
    """Worlds that run in one process. `plans` is called there."""

    first: int  # seed
    plans: Callable[[], Sequence[Plan]]


def run_all(seeds: Sequence[int], *, jobs: int, cores: int) -> Iterator[Result]:
    """As they are done."""

    def batch(seeds: Sequence[int]) -> Batch:
        return Batch(seeds[0], lambda: [draw(seed, jobs=jobs) for seed in seeds])

    yield from _side_by_side([batch(seeds[at : at + BATCH]) for at in range(0, len(seeds), BATCH)], cores)


def _side_by_side(batches: Sequence[Batch], cores: int) -> Iterator[Result]:
    running: dict[Any, tuple[BaseProcess, Batch]] = {}
    left = list(reversed(batches))
    while left or running:
        while left and len(running) < cores:
            batch = left.pop()
            reader, writer = _context.Pipe(duplex=False)
            process = _context.Process(target=_run, args=(batch, writer))
            process.start()
            writer.close()
            running[reader] = (process, batch)
        for reader in wait(list(running)):
            yield from _read(reader, *running.pop(reader))  # type: ignore[arg-type]


def _read(reader: Connection, process: BaseProcess, batch: Batch) -> list[Result]:
    try:
        results: list[Result] = reader.recv()
    except EOFError:
        told = f"the process that ran this world and those after it died (exit status {process.exitcode})"
        results = [
            Result(seed=batch.first, trace=0, counts={}, faults={}, codes={}, complaints={"defects": [told]})
        ]
    reader.close()
    process.join()
    return results


def _run(batch: Batch, writer: Connection) -> None:
    gc.disable()
    plans = batch.plans()
    with simulated():
        results = [run_one(plan) for plan in plans]
        for plan, result in zip(plans[::TWICE], results[::TWICE], strict=True):
            if run_one(plan).trace != result.trace:
                result.complaints["worlds that differ when run again"] = ["the traces differ"]
    writer.send(results)
    writer.close()


def run_one(plan: Plan) -> Result:
    """In this process."""
    world = World(plan)
    try:
        world.run()
    except Exception as bug:  # noqa: BLE001 - told with the seed
        world.complaints = {"defects": [repr(bug)]}
    return result_of(world)


# -- a failing world, with as few faults as will do ----------------------------------------------------------


def shrink(plan: Plan, complaints: set[str]) -> tuple[Plan, int]:
    """Leave out halves of the faults, then quarters, and so on, while any of these is complained of; and the tries."""
    tries, size = 0, (len(plan.faults) + 1) // 2
    while size:
        cuts = [_without(plan, first, size) for first in range(0, len(plan.faults), size)]
        found = None
        for smaller in cuts:
            tries += 1
            (result,) = _side_by_side([Batch(plan.seed, partial(list, [smaller]))], 1)
            if any(its and name in complaints for name, its in result.complaints.items()):
                found = smaller
                break
        plan = found or plan
        size = min(size, len(plan.faults)) if found else size // 2
    return plan, tries


def _without(plan: Plan, first: int, size: int) -> Plan:
    faults: list[Fault] = [*plan.faults[:first], *plan.faults[first + size :]]
    return structs.replace(plan, faults=faults)
