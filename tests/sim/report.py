"""What came of worlds, in numbers and complaints: of one, and of many together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from msgspec import Struct, field

from tests.sim.oracles_of_calls import is_rival
from tests.sim.plan import CRASH_POINTS, OFTEN, SELDOM
from tests.sim.provider import Call
from tests.sim.world import World

SHOWN = 5  # complaints of one kind
REDIS_KILLS = ("redis down", "redis wiped", "redis rolled back")
FAULTS = (
    *("kill", "freeze", "stall", "drain", "cut", "cut all", "slow reply", "slow commit", "clock set"),
    *("redis stands", "redis down", "redis full", "redis read-only", "redis wiped", "redis rolled back"),
    *(
        "scripts flushed",
        "ledger slow",
        "ledger busy",
        "disk full",
        "entries acknowledged",
        "consumer deleted",
    ),
    *(f"provider: {kind}" for kind in (*OFTEN, *SELDOM)),
)
ENOUGH = 2_000  # worlds, from which on every fault must have happened, in one of so many at least:
RARE = 50
RAREST_KILL = (
    500  # some points are passed in few worlds: where a suspect is fetched, where a drain hands back
)


class Result(Struct, frozen=True, kw_only=True):
    """Of one world. `trace` is equal for two runs of one seed."""

    seed: int
    trace: int
    counts: dict[str, int]
    faults: dict[str, int]  # that happened, by kind
    kills: dict[str, int]  # by the point at which the process was
    codes: dict[str, int]  # replies by status or error code
    complaints: dict[str, list[str]]

    @property
    def good(self) -> bool:
        return not any(self.complaints.values())


class Report(Struct, kw_only=True):
    """Of many worlds. `by_seed` has those that failed."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    complaints: Counter[str] = field(default_factory=Counter)
    failed: list[Result] = field(default_factory=list)
    traces: dict[int, int] = field(default_factory=dict)  # by seed

    def add(self, result: Result) -> None:
        self.counts["worlds"] += 1
        self.traces[result.seed] = result.trace
        self.counts.update(result.counts)
        self.faults.update(result.faults)
        self.kills.update(result.kills)
        self.codes.update(result.codes)
        self.complaints.update({name: len(its) for name, its in result.complaints.items()})
        if not result.good:
            self.failed.append(result)

    @property
    def good(self) -> bool:
        return not self.failed


def result_of(world: World) -> Result:
    """Of a world that has run."""
    witness = world.witness
    finals = [fields for reply in witness.replies if (fields := reply.fields)["final"] == "1"]
    prompts = {call.prompt for call in witness.calls}
    faults = _by_kind(witness.faults)
    cancelled = faults.pop("cancel", 0)
    return Result(
        seed=world.seed,
        trace=world.trace,
        counts={
            "jobs": len(witness.pushed),
            "cancelled by their clients": cancelled,
            "replies": len(finals),
            "processes started": len(world.fleet.boots),
            "kills": faults["kill"],
            "Redis kills": sum(faults[kind] for kind in REDIS_KILLS),
            "faults in all": faults.total(),
            "provider calls": len(witness.calls),
            "calls beyond the first": len(witness.calls) - len(prompts),
            "rivals of slow ones": _rivals(world),
            "commits": world.disk.commits,
        },
        faults=faults,
        kills={point: witness.faults[f"kill: {point}"] for point in CRASH_POINTS},
        codes=Counter(fields.get("error_code", "ok") for fields in finals),
        complaints=world.complaints,
    )


def show(report: Report) -> str:
    """For people."""
    lines = [f"{count:>9,} {what}" for what, count in report.counts.items()]
    for title, counts in (("replies", report.codes), ("faults", report.faults)):
        lines.append(
            f"  {title}: " + ", ".join(f"{count:,} {what}" for what, count in sorted(counts.items()))
        )
    lines += [f"{count:>9,} {what}" for what, count in report.complaints.items()]
    return "\n".join(lines)


def unreached(report: Report) -> list[str]:
    """What hardly happened, though many worlds ran: that nothing went wrong says nothing of it."""
    worlds = report.counts["worlds"]
    if worlds < ENOUGH:
        return []
    kinds = [(kind, report.faults[kind], worlds // RARE) for kind in FAULTS]
    points = [(f"kill: {point}", report.kills[point], worlds // RAREST_KILL) for point in CRASH_POINTS]
    rivals = [("a rival of a slow call", report.counts["rivals of slow ones"], worlds // RARE)]
    return [
        f"{what}: {seen} times, not {least}" for what, seen, least in kinds + points + rivals if seen < least
    ]


def complaints_of(result: Result) -> Iterable[str]:
    """A line for each, up to a few of a kind."""
    for what, its in result.complaints.items():
        for one in its[:SHOWN]:
            yield f"{what}: {one}"


def _rivals(world: World) -> int:
    if world.plan.config.models[0].routing.hedge_after_ms is None:
        return 0
    calls: dict[str, list[Call]] = {}
    for call in world.witness.calls:
        calls.setdefault(call.prompt, []).append(call)
    return sum(any(is_rival(call, before) for before in its) for its in calls.values() for call in its)


def _by_kind(faults: Counter[str]) -> Counter[str]:
    """Kills and stops at points are counted together, wherever they were."""
    found: Counter[str] = Counter()
    for name, count in faults.items():
        kind = name.partition(":")[0] if name.startswith("kill") else name
        found["kill" if kind.startswith("kill") else kind] += count
    return found
