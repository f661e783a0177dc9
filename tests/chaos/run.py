"""`make chaos`: real processes and a real Redis under kill -9, stalls and provider faults, counted from outside.

Exit status 1 when a job was lost or answered twice, a call has no explanation, or the books are wrong; also when less
than half of the faults happened.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import redis as redis_client
from msgspec import Struct

from tests.chaos import books, redis_books
from tests.chaos.books import Books
from tests.chaos.fleet import FILE, LEASE_S, REDIS, TIMEOUT_S, Fleet
from tests.chaos.records import FOREVER, Entry, Reply, read_calls
from tests.chaos.report import Records, Report, judge, show, unreached
from tests.chaos.traffic import JOBS, PREFIX, Driver, Reader, client
from tests.chaos.trouble import TICK_S, Rates, Trouble
from tests.chaos.wipes import Wiper
from tests.e2e.processes import ROOT
from tests.e2e.zygote import Zygote
from theo_daemon.embedded_valkey import EmbeddedValkey

FAULTY = 0.08  # of the providers' calls
PROVIDERS = 3
QUIET_WITHIN_S = 60.0  # after the last fault
PAGE = 1000  # entries


class Rehearsal(Struct, frozen=True, kw_only=True):
    """What is to be done."""

    jobs: int
    seconds: float
    seed: int
    processes: int
    ledger: str = FILE
    rates: Rates = Rates()
    timeout_s: float = TIMEOUT_S  # of a call

    @property
    def wiped(self) -> bool:
        return self.rates.wipe_s < FOREVER


def rehearse(folder: Path, zygote: Zygote, plan: Rehearsal) -> Report:
    """Run it all in `folder`, and judge."""
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(EmbeddedValkey(folder / "redis", options=("--appendfsync", "always")))
        providers = [stack.enter_context(_provider(folder, number, plan)) for number in range(PROVIDERS)]
        fleet = Fleet(
            zygote, folder, server.url, providers, count=plan.processes, ledger=plan.ledger, timeout_s=plan.timeout_s
        )  # fmt: skip
        stack.callback(fleet.close)
        driver = Driver(server.url, jobs=plan.jobs, seconds=plan.seconds, seed=plan.seed, wiped=plan.wiped)
        reader = Reader(server.url, driver.unanswered)
        listing = redis_books.Listing(server.url, PREFIX) if plan.ledger == REDIS else None
        wiper = Wiper(server.url, driver, reader)
        wiper.count_age()
        _until(lambda: not fleet.look() and len(fleet.serving) == plan.processes, 30)
        trouble = Trouble(fleet, server, wiper, rates=plan.rates, seconds=plan.seconds, seed=plan.seed)
        started = time.monotonic()
        reader.start()
        driver.start()
        while not (driver.done and trouble.over):
            trouble.step()
            time.sleep(TICK_S)
        calm = time.monotonic()
        unrest = _settle(fleet, trouble, driver, server.url)
        quiet = time.monotonic()
        unclean = fleet.drain(15)
        reader.stop()
        kept = _read_books(listing, folder, server.url, reader.replies)
        stored = _count_stored(server.url)
    (folder / "faults.json").write_bytes(msgspec.json.encode(trouble.faults))
    calls = read_calls(sorted(folder.glob("provider-*.log")))
    report = judge(
        Records(
            seed=plan.seed,
            pushed=driver.pushed,
            replies=reader.replies,
            calls=calls,
            faults=trouble.faults,
            books=kept,
            fleet=fleet,
            stored=stored,
            unrest=unrest,
            unclean=unclean,
            slowness=max(1.0, (calm - started) / plan.seconds),
            times={
                "under fire": calm - started,
                "of them jobs were held back": driver.held_back_s,
                "then until at rest": quiet - calm,
            },
        )
    )
    report.complaints["hardly happened"] = unreached(plan.rates, plan.seconds, report.counts)
    report.times["in all"] = time.monotonic() - began
    return report


def _settle(fleet: Fleet, trouble: Trouble, driver: Driver, url: str) -> list[str]:
    """Wait until everything is answered and put away; what is not."""
    redis = client(url)

    def left() -> list[str]:
        trouble.step()
        starting = [boot.name for boot in fleet.places if boot not in fleet.serving]
        if driver.unanswered:
            return [*starting, f"{len(driver.unanswered)} without reply"]
        waiting = [f"XLEN {stream} {n}" for stream in JOBS if (n := redis.xlen(stream))]
        held = [f"pending in {stream} {n}" for stream in JOBS if (n := _pending(redis, stream))]
        return [*waiting, *held, *starting]

    _until(lambda: not left(), QUIET_WITHIN_S)
    found = left()
    if fleet.ledger == REDIS:
        _until(lambda: not redis_books.living(redis, PREFIX) & fleet.died.keys(), 2 * LEASE_S[REDIS])
    time.sleep(2.0)  # the dead are noticed within a second; a second reply would have come by now, too
    redis.close()
    return found


def _pending(redis: redis_client.Redis, stream: str) -> int:
    try:
        return int(redis.xpending(stream, "theo")["pending"])  # type: ignore[index]
    except redis_client.ResponseError as error:
        if str(error).startswith("NOGROUP"):
            return -1
        raise


def _read_books(
    listing: redis_books.Listing | None, folder: Path, url: str, replies: Mapping[Entry, Sequence[Reply]]
) -> Books:
    if listing is None:
        return books.read_books(folder / "theo-ledger.db")
    listing.stop()
    redis = client(url)
    try:
        return redis_books.read_books(redis, PREFIX, listing, replies)
    finally:
        redis.close()


def _count_stored(url: str) -> int:
    redis = client(url)
    count = 0
    for key in redis.scan_iter(f"{PREFIX}:repl*", _type="stream"):
        last = "-"
        while page := redis.xrange(key, min=last, count=PAGE):
            count += sum(fields["final"] == "1" for _, fields in page)
            last = f"({page[-1][0]}"
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
def _provider(folder: Path, number: int, plan: Rehearsal) -> Iterator[str]:
    log = folder / f"provider-{number}.log"
    command = [
        *(sys.executable, "-m", "tests.chaos.provider", "--log", str(log), "--seed", str(plan.seed)),
        *("--faults", str(FAULTY), "--hang-s", str(3 * plan.timeout_s)),
        *("--number", str(number), "--of", str(PROVIDERS)),
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
    parser.add_argument("--jobs", type=int, default=42_000, metavar="N", help="jobs to push (42000)")
    parser.add_argument(
        "--seconds", type=float, default=240.0, metavar="S", help="how long faults go on (240)"
    )
    parser.add_argument("--seed", type=int, help="of jobs, faults and their times (drawn)")
    parser.add_argument("--processes", type=int, default=4, metavar="N", help="serve processes (4)")
    parser.add_argument(
        "--ledger", choices=(FILE, REDIS), default=FILE, help="where it is (file); redis: many hosts"
    )
    parser.add_argument(
        "--wipes", type=int, default=12, metavar="N",
        help="how often Redis loses everything, in a run of its own of 40 s; for --ledger file (12)",
    )  # fmt: skip
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="logs, ledger and Redis data go there, and stay"
    )
    return parser.parse_args(argv)


def main() -> int:
    options = arguments()
    seed = random.randrange(1_000_000) if options.seed is None else options.seed
    words = f"--ledger {options.ledger} --seed {seed}"
    plans = {
        "chaos": Rehearsal(
            jobs=options.jobs, seconds=options.seconds, seed=seed, processes=options.processes,
            ledger=options.ledger,
        ),
        "wipes": wiping(options.wipes, seed=seed, processes=options.processes),
    }  # fmt: skip
    if (
        not options.wipes or options.ledger == REDIS
    ):  # there the books go, too, and no promise is left to be judged
        del plans["wipes"]
    if not options.jobs:
        del plans["chaos"]
    good = True
    with Zygote() as zygote:
        for name, plan in plans.items():
            print(f"make chaos ARGS='{words}': {name}, {plan.jobs} jobs in {plan.seconds:.0f} s", flush=True)
            with tempfile.TemporaryDirectory(prefix="theo-chaos-") as scratch:
                folder = options.keep / name if options.keep else Path(scratch)
                folder.mkdir(parents=True, exist_ok=True)
                report = rehearse(folder, zygote, plan)
            print(show(report), flush=True)
            good &= report.good
    return 0 if good else 1


def wiping(wipes: int, *, seed: int, processes: int) -> Rehearsal:
    """Some minutes of it would show no more: what matters is what comes right before and after each."""
    seconds = 3.4 * wipes
    rates = Rates(kill_s=1.0, stop_s=4.0, redis_kill_s=10.0, cut_s=10.0, wipe_s=3.4)
    return Rehearsal(jobs=int(100 * seconds), seconds=seconds, seed=seed, processes=processes, rates=rates)


if __name__ == "__main__":
    sys.exit(main())
