"""`make chaos`: real processes and a real Redis under kill -9, stalls and provider faults, counted from outside.

Exit status 1 when a job was lost or answered twice, a call has no explanation, or the books are wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from tests.chaos import books, oracles, redis_books
from tests.chaos.books import Books
from tests.chaos.fleet import FILE, LEASE_S, REDIS, TIMEOUT_S, Fleet
from tests.chaos.records import Entry, Reply, by_prompt, read_calls
from tests.chaos.traffic import LANES, PREFIX, Driver, Reader, client
from tests.chaos.trouble import TICK_S, Trouble
from tests.e2e.processes import ROOT
from theo_daemon.embedded_valkey import EmbeddedValkey

FAULTY = 0.08  # of the provider's calls
QUIET_WITHIN_S = 60.0  # after the last fault
SHOWN = 5  # complaints of one kind


class Report(Struct, kw_only=True):
    """What was done, what came of it, what is wrong."""

    seed: int
    counts: dict[str, int]
    answers: dict[str, int]  # final replies by status or error code
    provider_faults: dict[str, int]
    complaints: dict[str, list[str]]

    @property
    def good(self) -> bool:
        return not any(self.complaints.values())


def rehearse(
    folder: Path, *, jobs: int, seconds: float, seed: int, processes: int, ledger: str = FILE
) -> Report:
    """Run it all in `folder`, and judge."""
    log, redis_data = folder / "provider.log", folder / "redis"
    options = ("--appendfsync", "always")
    with EmbeddedValkey(redis_data, options=options) as server, _provider(log, seed) as provider_url:
        fleet = Fleet(folder, server.url, provider_url, count=processes, ledger=ledger)
        driver, reader = Driver(server.url, jobs=jobs, seconds=seconds, seed=seed), Reader(server.url)
        try:
            _until(lambda: not fleet.look() and len(fleet.serving) == processes, 30)
            trouble = Trouble(fleet, server, seconds=seconds, seed=seed)
            reader.start()
            driver.start()
            while not (driver.done and trouble.over):
                trouble.step()
                time.sleep(TICK_S)
            quiet = _settle(fleet, trouble, driver, reader, server.url)
            unclean = fleet.drain(15)
        finally:
            fleet.close()
        reader.stop()
        faults, pushed, replies = trouble.faults, driver.pushed, reader.replies
        calls, kept = read_calls(log), _read_books(fleet, folder, server.url, replies)
        stored = _count_stored(server.url)
    complaints = {
        "lost": oracles.lost(pushed, replies),
        "doubled": oracles.doubled(replies),
        "wrong replies": oracles.strangers(pushed, replies) + oracles.unlike(pushed, replies),
        "unexplained calls": oracles.unexplained(pushed, calls, replies, faults),
        "sent again against orders": oracles.resent(pushed, calls, faults),
        "not at rest": quiet,
        "crashed or left badly": faults.crashes + unclean,
        "books": books.unbalanced(kept) + books.misjudged(kept, fleet.died, fleet.left),
        "money": books.unaccounted(kept, pushed, calls, replies),
        "reader": [] if stored == sum(map(len, replies.values())) else [f"Redis has {stored} replies"],
    }
    return Report(
        seed=seed,
        counts={
            "jobs": len(pushed),
            "provider calls": len(calls),
            "calls beyond the first": len(calls) - len(by_prompt(calls)),
            "SIGKILLs": len(faults.kills),
            "SIGSTOPs": len(faults.stops),
            "Redis SIGKILLs": len(faults.redis_kills),
            "connections cut": len(faults.cut_connections),
            "unknown attempts": books.unknowns(kept),
        },
        answers=dict(Counter(its[0].fields.get("error_code", "ok") for its in replies.values())),
        provider_faults=dict(Counter(call.how for call in calls if call.how != "ok")),
        complaints=complaints,
    )


def show(report: Report) -> str:
    """For people."""
    lines = [f"seed {report.seed}"]
    lines += [f"  {count:>7} {what}" for what, count in report.counts.items()]
    for title, counts in (("replies", report.answers), ("provider faults", report.provider_faults)):
        lines.append(f"  {title}: " + ", ".join(f"{count} {what}" for what, count in sorted(counts.items())))
    lines += [f"  {len(found):>7} {what}" for what, found in report.complaints.items()]
    for what, found in report.complaints.items():
        lines += [f"{what}: {one}" for one in found[:SHOWN]]
    return "\n".join(lines)


def _settle(fleet: Fleet, trouble: Trouble, driver: Driver, reader: Reader, url: str) -> list[str]:
    """Wait until everything is answered and put away; what is not."""
    redis = client(url)
    streams = [f"{PREFIX}:jobs{lane}" for lane in LANES]

    def left() -> list[str]:
        trouble.step()
        waiting = [f"XLEN {stream} {n}" for stream in streams if (n := redis.xlen(stream))]
        held = [f"pending in {s} {n}" for s in streams if (n := redis.xpending(s, "theo")["pending"])]
        silent = sum(job.entry not in reader.replies for job in driver.pushed)
        starting = [boot.name for boot in fleet.places if boot not in fleet.serving]
        return [*waiting, *held, *([f"{silent} without reply"] if silent else []), *starting]

    _until(lambda: not left(), QUIET_WITHIN_S)
    found = left()
    if fleet.ledger == REDIS:
        _until(lambda: not redis_books.living(redis, PREFIX) & fleet.died.keys(), 2 * LEASE_S[REDIS])
    time.sleep(2.0)  # the dead are noticed within a second; a second reply would have come by now, too
    redis.close()
    return found


def _read_books(fleet: Fleet, folder: Path, url: str, replies: Mapping[Entry, Sequence[Reply]]) -> Books:
    if fleet.ledger == FILE:
        return books.read_books(folder / "theo-ledger.db")
    redis = client(url)
    try:
        return redis_books.read_books(redis, PREFIX, replies)
    finally:
        redis.close()


def _count_stored(url: str) -> int:
    redis = client(url)
    keys = [key for key in redis.scan_iter(f"{PREFIX}:repl*") if redis.type(key) == "stream"]
    count: int = sum(fields["final"] == "1" for key in keys for _, fields in redis.xrange(key))
    redis.close()
    return count


def _until(done: Callable[[], object], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(TICK_S)
    return True


@contextlib.contextmanager
def _provider(log: Path, seed: int) -> Iterator[str]:
    command = [
        *(sys.executable, "-m", "tests.chaos.provider", "--log", str(log), "--seed", str(seed)),
        *("--faults", str(FAULTY), "--hang-s", str(3 * TIMEOUT_S)),
    ]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, text=True, stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.terminate()


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--jobs", type=int, default=6000, metavar="N", help="jobs to push (6000)")
    parser.add_argument(
        "--seconds", type=float, default=200.0, metavar="S", help="how long faults go on (200)"
    )
    parser.add_argument("--seed", type=int, help="of jobs, faults and their times (drawn)")
    parser.add_argument("--processes", type=int, default=3, metavar="N", help="serve processes (3)")
    parser.add_argument(
        "--ledger", choices=(FILE, REDIS), default=FILE, help="where it is (file); redis: many hosts"
    )
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="logs, ledger and Redis data go there, and stay"
    )
    return parser.parse_args(argv)


def main() -> int:
    options = arguments()
    seed = random.randrange(1_000_000) if options.seed is None else options.seed
    print(
        f"make chaos ARGS='--ledger {options.ledger} --seed {seed}': {options.jobs} jobs in {options.seconds:.0f} s",
        flush=True,
    )
    with tempfile.TemporaryDirectory(prefix="theo-chaos-") as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        report = rehearse(
            folder, jobs=options.jobs, seconds=options.seconds, seed=seed, processes=options.processes,
            ledger=options.ledger,
        )  # fmt: skip
    print(show(report))
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main())
